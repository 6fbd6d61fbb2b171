#ifndef AEROSTAT_CLI_TOP_LAYOUT_H
#define AEROSTAT_CLI_TOP_LAYOUT_H

/* What `aerostat top` shows, line by line: a pure function of samples and of what the user has
 * chosen. Lines are ASCII and never wider than asked for. */

#include "cli/top_sample.h"

#define TOP_WIDTH_MOST  400u
#define TOP_WIDTH_LEAST 40u

#define TOP_SORT_NAME TOP_COLUMNS /* in `sort`, instead of a column */

struct top_view {
    unsigned width, height; /* height 0: as many lines as there are, and no line about keys */
    unsigned sort;          /* by this column */
    bool is_reverse;        /* the least first; or names from the end */
    unsigned help;          /* page of it, from 1 on; 0: none */
    unsigned first_column;
    size_t first_vm;
    const char *time; /* of the day, to be shown */
    const char *note; /* in place of the line about keys; or NULL */
};

enum top_style { TOP_PLAIN, TOP_STRONG, TOP_ALARM, TOP_HEAD, TOP_FOOT };

struct top_line {
    char text[TOP_WIDTH_MOST + 1];
    enum top_style style;
    unsigned mark, mark_length; /* a part that stands out: the column that sorts */
};

typedef void top_emit(void *context, const struct top_line *line);

/* Emits the lines. Corrects first_column and first_vm of what is beyond the end. */
void top_layout(struct top_view *view, const struct top_sample *now,
                const struct top_sample *before, top_emit *emit, void *context);

/* The user has typed this, a character or one of those below. False: nothing comes of it. */
enum top_key { TOP_LEFT = 0x10000, TOP_RIGHT, TOP_UP, TOP_DOWN, TOP_PAGE_UP, TOP_PAGE_DOWN };
bool top_view_key(struct top_view *view, int key);

#endif
