#ifndef AEROSTAT_TESTS_SYSTEM_FIXTURE_H
#define AEROSTAT_TESTS_SYSTEM_FIXTURE_H

/*
 * Guest programs for the tests of system state.
 *
 * A program is assembled into the test by GUEST and runs at CODE until HLT. Every vector has a
 * handler that is a HLT of its own, so where the vCPU stopped tells which exception came, and the
 * stack holds what was pushed.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/exception.h"
#include "testvm.h"

enum fixture_layout {
    TSS = 0x5000,
    IDT = 0x6000,
    GDT = 0x7000,      /* testvm's with more behind it */
    HANDLERS = 0x8000, /* HLT for vector n at HANDLERS + 16 * n */
    CODE = 0x10000,
    STACK = 0x20000,       /* tops, growing down */
    INNER_STACK = 0x21000, /* SS0:ESP0 or RSP0 */
    IST_STACK = 0x22000,   /* IST1 */
    DATA = 0x30000,
    NO_MEMORY = 0x100000000, /* beyond the identity map: any access is #PF */
};

/* Selectors of the GDT; testvm's first. */
enum fixture_selector {
    CODE64 = 0x08,
    CODE32 = 0x10,
    CODE16 = 0x18,
    DATA_FLAT = 0x20,
    USER_CODE32 = 0x28,
    USER_DATA = 0x30,
    USER_CODE64 = 0x38,
    TSS_SELECTOR = 0x40, /* 16 bytes in IA-32e mode */
    SPARE = 0x50,        /* 16 bytes for the test to fill */
    SPARE2 = 0x60,
    GDT_END = 0x70,
};

/* Machine code from assembler text (AT&T syntax); bits: "16", "32", "64". */
#define GUEST(name, bits, text)                                                                    \
    __asm__(".pushsection .rodata\n"                                                               \
            ".globl " #name ", " #name "_end\n" #name ":\n"                                        \
            ".code" bits "\n" text "\n" #name "_end:\n"                                            \
            ".code64\n"                                                                            \
            ".popsection\n");                                                                      \
    extern const uint8_t name[], name##_end[]

/* In a mode with flat segments, interrupts caught, TSS loaded, RSP = STACK. code_size 2 or 4. */
void fixture_create(struct testvm *vm, enum cpu_mode mode, unsigned code_size);

/* The same for one that has run. */
void fixture_reset(struct testvm *vm, enum cpu_mode mode, unsigned code_size);

/* CPL 3 with flat user segments of the same kind of code. */
void fixture_enter_user(struct testvm *vm);

/* Runs [code, end) from CODE. It must end in a HLT. */
#define fixture_run(vm, name) fixture_run_bytes(vm, name, (size_t)(name##_end - (name)))
enum vcpu_exit fixture_run_bytes(struct testvm *vm, const uint8_t *code, size_t length);

/* The vector whose handler the vCPU stopped in, else -1. */
int fixture_caught(const struct testvm *vm);

/* Guest memory as little-endian values. */
uint64_t fixture_peek(struct testvm *vm, uint64_t gpa, unsigned size);
void fixture_poke(struct testvm *vm, uint64_t gpa, uint64_t value, unsigned size);

/* Descriptor `selector` of the GDT. */
void fixture_set_descriptor(struct testvm *vm, uint16_t selector, uint64_t raw);
/* Replaces a gate of the IDT, in the mode's format: type with P and DPL as in byte 5. */
void fixture_set_gate(struct testvm *vm, unsigned vector, uint16_t selector, uint64_t offset,
                      uint8_t type, unsigned ist);

/* Calls fn(vcpu) where it may raise; the vector raised, else -1. vm->vcpu->fault has the rest. */
int fixture_raised(struct testvm *vm, void (*fn)(struct vcpu *vcpu));

#endif
