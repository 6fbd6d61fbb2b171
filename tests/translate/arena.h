#ifndef AEROSTAT_TESTS_TRANSLATE_ARENA_H
#define AEROSTAT_TESTS_TRANSLATE_ARENA_H

/*
 * Where random programs live: the same linear addresses on the host and in guests. Everything
 * between these pages is unmapped. Also read by native_enter.S.
 */

#define ARENA            0x20000000
#define ARENA_CODE       0x20000000 /* read and execute */
#define ARENA_CODE_SIZE  0x6000
#define ARENA_DATA       0x20010000 /* four pages to be written, and one to be read */
#define ARENA_DATA_RW    0x4000
#define ARENA_DATA_SIZE  0x5000
#define ARENA_STACK      0x20020000
#define ARENA_STACK_SIZE 0x1000
/* The program's own: fuel for its loops, cells for indirect branches. Random operands are never
 * here. */
#define ARENA_CONTROL      0x20030000
#define ARENA_CONTROL_SIZE 0x1000

#define CONTROL_FUEL  (ARENA_CONTROL + 0)
#define CONTROL_MXCSR (ARENA_CONTROL + 0x40)
#define CONTROL_CELLS (ARENA_CONTROL + 0x100)

/* Segment bases far away: whatever a program reaches with them is unmapped. The host keeps it free
 * of its own mappings, a displacement and more to each side. */
#define ARENA_FAR      0x200000000000
#define ARENA_FAR_SIZE 0x1000000000
#define ARENA_FAR_EDGE 0x100000000

/* The host's alone: struct native_context. The general registers are at 0, in the order of their
 * encoding. */
#define NATIVE_CONTEXT  0x20040000
#define NATIVE_RIP      128
#define NATIVE_RFLAGS   136
#define NATIVE_FS       144
#define NATIVE_GS       152
#define NATIVE_HOST_RSP 160
#define NATIVE_HOST_FS  168
#define NATIVE_HOST_GS  176
#define NATIVE_MXCSR    184
#define NATIVE_MASK     192 /* of XRSTOR */
#define NATIVE_FSGSBASE 200 /* not 0: WRFSBASE and the like may be used */
#define NATIVE_XSTATE   256

#endif
