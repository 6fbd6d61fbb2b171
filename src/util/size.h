#ifndef AEROSTAT_UTIL_SIZE_H
#define AEROSTAT_UTIL_SIZE_H

/* Sizes as people write them. */

#include <stdint.h>

#include "util/status.h"

/* "4096", "64K", "256M", "1G", "1T"; the suffix may be followed by "B" or "iB", case ignored, all
 * powers of 1024. Anything else, an empty number or one that does not fit 64 bits: STATUS_INVALID.
 */
enum status size_parse(const char *text, uint64_t *bytes);

/* An unsigned decimal number within [least, most], nothing before or after it. */
enum status number_parse(const char *text, uint64_t least, uint64_t most, uint64_t *value);

#endif
