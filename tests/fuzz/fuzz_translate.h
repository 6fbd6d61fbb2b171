#ifndef AEROSTAT_TESTS_FUZZ_TRANSLATE_H
#define AEROSTAT_TESTS_FUZZ_TRANSLATE_H

/* The guest of fuzz_translate.c, and the interpreter as the oracle of what it does. */

#include <stdbool.h>
#include <stdint.h>

#include "testvm.h"

/* Linear and physical addresses are the same, but for the pages of data, which are in the opposite
 * order, and two aliases. Tables, the IDT, stubs and the kernel's stack come first. */
#define FUZZ_RAM    0x40000u
#define FUZZ_STUBS  0x8000u  /* HLT, one a vector */
#define FUZZ_CODE   0x10000u /* four pages to be read, written and executed */
#define FUZZ_DATA   0x18000u /* four pages to be read and written */
#define FUZZ_CONST  0x1c000u /* to be read */
#define FUZZ_KERNEL 0x1d000u /* the kernel's alone */
#define FUZZ_STACK  0x20000u /* two pages */
#define FUZZ_ALIAS  0x24000u /* of the last page of data, then of the first page of code */

enum fuzz_option {
    FUZZ_AT_CPL0 = 1,
    FUZZ_LOCKSTEP = 2, /* the translator checks itself, too */
    FUZZ_WITHOUT_RORX = 4,
    FUZZ_SMAP = 8,       /* the kernel may look at the program's pages with AC only */
    FUZZ_HANDLES = 16,   /* exceptions lead into the program, not to a HLT */
    FUZZ_ALIGNMENT = 32, /* CR0.AM */
    FUZZ_COLD = 64,      /* nothing is in the TLB */
    FUZZ_RELATIVE = 128, /* all code is translated relatively */
};

struct fuzz_input {
    uint8_t options;
    uint8_t at;    /* where the code begins, in units of 17 bytes */
    uint8_t flags; /* status flags; bit 1: AC, bit 3: DF, bit 5: VEX state */
    uint8_t registers[16];
    uint8_t code[480]; /* INT3 comes behind it */
    size_t code_size;
};

/* How a run has ended. */
struct fuzz_end {
    enum vcpu_exit exit;
    uint32_t undefined; /* status flags that the manual leaves undefined */
    /* The end cannot be told: an instruction has read such flags or a clock, or there is none. */
    bool is_unclear;
};

/* The guest at its start, with this input. */
void fuzz_guest_reset(struct testvm *vm, const struct fuzz_input *input);
/* By the interpreter, which is attached. */
void fuzz_oracle_run(struct testvm *vm, const struct fuzz_input *input, struct fuzz_end *end);

#endif
