#ifndef AEROSTAT_TESTS_ENCODE_H
#define AEROSTAT_TESTS_ENCODE_H

/* Random instructions of a form, and random operand values that suit them. */

#include "forms.h"
#include "host_run.h"

struct random {
    uint64_t state;
};

uint64_t random_next(struct random *random);
static inline uint64_t random_below(struct random *random, uint64_t limit)
{
    return limit == 0 ? 0 : random_next(random) % limit;
}
/* Corner values as often as others. */
uint64_t random_value(struct random *random);

/* One instruction, and what its registers must hold. */
struct sample {
    uint8_t bytes[16];
    size_t length;
    bool code32;
    const struct form *form;
    unsigned size; /* of its operands, bytes */
    bool has_memory;
    int base, index; /* GPR numbers or -1 */
    unsigned scale;
    int64_t displacement;
    bool address32;
    uint64_t address; /* where the memory operand is to be */
    int source;       /* the GPR that is a bit offset or a branch target, or -1 */
};

/* The lists of operands of a form: copies list `n` to `list`; false where there is none. */
bool form_operand_list(const struct form *form, unsigned n, char *list, size_t size);

/* Encodes a random instance. False where this choice has no encoding. size_letter is one of the
 * form's. */
bool sample_encode(struct random *random, const struct form *form, const char *list,
                   char size_letter, bool code32, struct sample *sample);
bool sample_encode_raw(const struct form *form, bool code32, struct sample *sample);

/* Registers and flags for one run, and the bytes at `sample->address` and on the stack. */
void sample_inputs(struct random *random, const struct sample *sample, struct host_state *state,
                   uint8_t *data, uint8_t *stack);

#endif
