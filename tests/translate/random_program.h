#ifndef AEROSTAT_TESTS_TRANSLATE_RANDOM_PROGRAM_H
#define AEROSTAT_TESTS_TRANSLATE_RANDOM_PROGRAM_H

/*
 * Random programs for 64-bit user code.
 *
 * An instruction begins as random bytes with plausible prefixes. It is taken if Zydis decodes it as
 * an unprivileged instruction of an extension that the guest is offered, and if nothing it tells
 * differs between a process and a guest (no CPUID, no selectors, no x87). Then its memory operand
 * is made to hit something: by a displacement where the registers of the address are known, else by
 * loading one of them. Mostly that is data; at times a page border, a page that is read-only or
 * missing, or no canonical address at all.
 *
 * Around these are the shapes of code: conditional skips, loops, calls, returns, indirect jumps.
 * Every way back uses up fuel, so each program ends: with INT3, or in the exception that it meets.
 *
 * Flags that the manual leaves undefined are followed statically. Where an instruction would read
 * one, a CMP comes first; undefined[] says which may be so before each instruction.
 */

#include <stddef.h>

#include "arena.h"
#include "encode.h"
#include "native.h"

#define PROGRAM_PIECES 512u

struct program_piece {
    uint16_t at, length;
    bool is_pinned; /* needed for the program to end: not to be taken out */
};

struct program {
    uint8_t code[ARENA_CODE_SIZE];
    uint16_t undefined[ARENA_CODE_SIZE]; /* by offset of an instruction */
    struct program_piece pieces[PROGRAM_PIECES];
    unsigned piece_count;
    struct machine_state start;
    struct machine_memory memory;
};

/* The program of a seed. with_fsgsbase: RDFSBASE and RDGSBASE may be in it. */
void program_make(struct program *program, uint64_t seed, const struct features *features,
                  bool with_fsgsbase);
/* Status flags that may be anything when an exception finds the program at rip. */
uint64_t program_undefined_flags(const struct program *program, uint64_t rip);
void program_print(const struct program *program);

#endif
