#ifndef AEROSTAT_TESTS_HOST_RUN_H
#define AEROSTAT_TESTS_HOST_RUN_H

/*
 * Runs one instruction on the host CPU with all registers, flags and memory given, in 64-bit or in
 * 32-bit code.
 *
 * Everything the instruction can see lies at fixed addresses below 2 GiB, the same as in the guest
 * it is compared with: so a register may hold the address of an operand on both sides.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HOST_CODE       0x20000000u
#define HOST_TARGET     (HOST_CODE + 0x60) /* where branches that are taken go */
#define HOST_DATA       0x20010000u
#define HOST_DATA_SIZE  0x2000u
#define HOST_STACK      0x20020000u
#define HOST_STACK_SIZE 0x1000u

struct host_state {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t rip; /* out: HOST_CODE + length, HOST_TARGET, or that of the fault */
    int signal;   /* out: 0, or the signal that a fault became */
};

/* Maps code, data and stack. False where the host does not let us. */
bool host_open(void);
void host_close(void);

/* Can this host run 32-bit code? Some have no segment for it. */
bool host_has_code32(void);

/* Puts the instruction at HOST_CODE. */
void host_load(const uint8_t *bytes, size_t length, bool code32);

/* Runs what was loaded. */
void host_run(struct host_state *state);

#endif
