#ifndef AEROSTAT_CLI_TOP_H
#define AEROSTAT_CLI_TOP_H

/* Between the files of `aerostat top`. */

#include "cli/top_layout.h"
#include "control/folder.h"

/* Asks the manager; a short wait, since somebody looks on. */
enum status top_ask(struct control_folder *folder, struct top_sample *sample, struct error *err);

/* "14:03:05", now. */
#define TOP_TIME_SIZE 16
const char *top_time(char text[TOP_TIME_SIZE]);

/* The screen, until the user quits: OK; or what keeps it from being shown. A signal that ends
 * programs ends this one as it would, with the terminal as it was. */
enum status top_screen(struct control_folder *folder, uint64_t interval_ns, struct error *err);

#endif
