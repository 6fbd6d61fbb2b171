#ifndef AEROSTAT_CLI_FORMAT_H
#define AEROSTAT_CLI_FORMAT_H

/* Numbers for people. */

#include <stdint.h>

#define FORMAT_SIZE 24

/* "0", "512", "64K", "1.5G": at most four digits, rounded down. */
const char *format_bytes(char text[FORMAT_SIZE], uint64_t bytes);
/* "5s", "2m05s", "3h07m", "12d04h"; negative or absurd: "?". */
const char *format_seconds(char text[FORMAT_SIZE], double seconds);

#endif
