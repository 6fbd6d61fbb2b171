#ifndef AEROSTAT_TESTS_HOST_CONTEXT_H
#define AEROSTAT_TESTS_HOST_CONTEXT_H

/* Where host_run.c and host_enter.S keep state: a page at a fixed address, and the offsets in it.
 * The general registers are at 0 to 127, in the order of their encoding. */

#define CONTEXT 0x20030000

#define CONTEXT_RFLAGS       128
#define CONTEXT_ENTRY        136
#define CONTEXT_EXIT         144
#define CONTEXT_SAFE_RSP     152
#define CONTEXT_EXIT_NUMBER  160
#define CONTEXT_FAR_OFFSET   168
#define CONTEXT_FAR_SELECTOR 172

#endif
