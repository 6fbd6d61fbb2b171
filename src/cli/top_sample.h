#ifndef AEROSTAT_CLI_TOP_SAMPLE_H
#define AEROSTAT_CLI_TOP_SAMPLE_H

/* The manager's `status` (docs/protocol.md) as numbers, and the columns of `aerostat top`. */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/name.h"
#include "util/status.h"

enum top_kind {
    TOP_BYTES,      /* a size */
    TOP_BYTES_RATE, /* of a counter of bytes: its growth in a second */
    TOP_COUNT_RATE, /* of a counter of pages or events */
    TOP_TIME_RATE,  /* of a counter of nanoseconds: percent of the time */
    TOP_RATIO,      /* of a counter: its growth for each of the column before it */
    TOP_MMU,        /* `mmu_mode`: twice its place in top_mmus, and 1 if the VM chose it */
};

struct top_column {
    char key;           /* sorts by it */
    const char *title;  /* at most TOP_CELL characters */
    const char *member; /* of the VM's object */
    enum top_kind kind;
    const char *meaning; /* for the help */
};

#define TOP_CELL    5u /* characters of a cell */
#define TOP_COLUMNS 24u
extern const struct top_column top_columns[TOP_COLUMNS];

/* How the VMs' CPUs may translate addresses: as the status says it, and in a cell. */
struct top_mmu {
    const char *name, *cell;
};
#define TOP_MMUS 3u
extern const struct top_mmu top_mmus[TOP_MMUS];

/* A number that the status does not have, or not as it should be. */
#define TOP_NONE UINT64_MAX

struct top_vm {
    char name[CONTROL_NAME_MOST + 1]; /* "?" for what is none */
    uint64_t pid;
    uint64_t number[TOP_COLUMNS];
    bool is_paused;
    bool is_stalled; /* its balloon */
};

struct top_sample {
    uint64_t when_ns; /* the caller's clock */
    char state[8];    /* "high", ..., or "?" */
    double tax;       /* below 0: not told */
    uint64_t memory, free, used, pool, shared;
    struct top_vm *vms; /* by name, vm2 before vm10 */
    size_t count;
};

/* Takes what there is; whatever a stranger may have put there, names and texts are printable. Free
 * with top_sample_close, whatever the result. INVALID: not a status at all. */
enum status top_sample_read(struct top_sample *sample, const json_t *reply, uint64_t when_ns,
                            struct error *err);
void top_sample_close(struct top_sample *sample);

/* What column `column` shows of now->vms[vm]: bytes, or for a rate what it was since `before`, a
 * second (TOP_TIME_RATE: percent). Below 0: not known. `before` may be NULL. */
double top_value(const struct top_sample *now, const struct top_sample *before, size_t vm,
                 unsigned column);

#endif
