#ifndef AEROSTAT_TESTS_THUNK_NATIVE_H
#define AEROSTAT_TESTS_THUNK_NATIVE_H

/*
 * Running one instruction twice: on the host CPU by a trampoline (forms.S) that shares nothing with
 * the code under test, and by insn_decode and its handler on a vCPU; and comparing what came out.
 */

#include "cpu/insn.h"
#include "cpu/thunk/thunk.h"
#include "cpu/thunk/xstate.h"
#include "testvm.h"

struct native_state {
    _Alignas(64) struct xstate_image image; /* offset 0: forms.S knows */
    uint64_t gpr[GPR_COUNT];                /* offset 1024 */
    uint64_t rflags;                        /* offset 1152 */
};
_Static_assert(offsetof(struct native_state, gpr) == 1024, "forms.S");
_Static_assert(offsetof(struct native_state, rflags) == 1152, "forms.S");

#define NATIVE_NO_FAULT (-1)

/* Guest memory: one page that can be reached, up to NATIVE_END; nothing is mapped from there on. */
#define NATIVE_PAGE 0x1ff000u
#define NATIVE_END  0x200000u

struct native {
    struct testvm vm;
    uint8_t *page; /* the host's counterpart, with an inaccessible page after it */
    uint64_t random;
};

/* Installs its fault handler, then makes the machine: 64-bit mode, CPL 0. */
void native_create(struct native *n);
void native_destroy(struct native *n);

uint64_t native_random(struct native *n);
/* A state that the host's CPU has loaded and stored once, so that it is consistent. */
void native_random_state(struct native *n, struct native_state *state, bool tame_x87);
/* Fills the memory page on both sides with the same. */
void native_random_memory(struct native *n);

/* Runs code on the host; the vector of the fault it ended with, and then *state is unchanged but
 * for MXCSR after #XM. */
int native_run_host(struct native_state *state, const void *code);

/* A page of code that the host may run, and its end. */
uint8_t *native_code_page(const uint8_t *code, size_t length);
void native_code_write(uint8_t *page, const uint8_t *code, size_t length);
void native_code_free(uint8_t *code);

/* Decodes. False: #UD. */
bool native_decode(struct native *n, const uint8_t *bytes, unsigned length, struct insn *insn);
/* Runs a decoded instruction on the vCPU: the vector of its fault. */
int native_exec(struct native *n, const struct insn *insn);
void native_load_guest(struct native *n, const struct native_state *state);
void native_store_guest(struct native *n, struct native_state *state);
/* Both, from and to *state. */
int native_run_guest(struct native *n, struct native_state *state, const struct insn *insn);

/* The first difference, or NULL. Pointers of the x87 environment and RSP are not looked at. */
const char *native_difference(const struct native_state *a, const struct native_state *b);
/* Are both memory pages equal? */
bool native_memory_equal(struct native *n);

/* Convenience: sets up rip and the code bytes' instruction, and runs it; expects it to decode. */
int native_do(struct native *n, const uint8_t *bytes, unsigned length);
#define NATIVE_DO(n, ...)                                                                          \
    native_do(n, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

void host_run(struct native_state *state, const void *code);
void host_nop(void);

#endif
