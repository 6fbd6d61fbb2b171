#ifndef AEROSTAT_TESTS_FORMS_H
#define AEROSTAT_TESTS_FORMS_H

/*
 * The instruction forms that are compared with the host, a line each.
 *
 *   FORM(ADD, "bwdq", "r,r|r,m|m,r|r,i|m,i|h,h", LOCKABLE, 0)
 *
 * is ADD at four operand sizes with six lists of operands. Operands:
 *
 *   r  register        m  memory          i  immediate that fits        h  AH, CH, DH or BH (b
 * only) a  accumulator     c  CL              b  8-bit unsigned immediate   1  the constant one s
 * 8-bit signed immediate             w  16-bit unsigned immediate  j  branch to HOST_TARGET
 *
 * of the form's operand size, or of the bits that follow: r8, m16. An empty list is no operands.
 * Instructions that the encoder does not reach are RAW: bytes in hexadecimal.
 *
 * The last column masks flags that the host may leave otherwise than we do. It is 0 nearly
 * everywhere, as we let the host compute them.
 */

#include <Zydis/Zydis.h>
#include <stdint.h>

enum form_flags {
    FORM_LOCKABLE = 1 << 0,       /* memory destinations also with LOCK */
    FORM_DIVIDE = 1 << 1,         /* operands that do not always end in #DE */
    FORM_BITSTRING = 1 << 2,      /* a register operand is a bit offset from memory */
    FORM_STRING = 1 << 3,         /* RSI, RDI near the data, RCX small */
    FORM_TARGET = 1 << 4,         /* register, memory and stack operands hold HOST_TARGET */
    FORM_ONLY32 = 1 << 5,         /* not in 64-bit code */
    FORM_ONLY64 = 1 << 6,         /* not in 32-bit code */
    FORM_FLAGS_ON_STACK = 1 << 7, /* the top of the stack is an image of RFLAGS */
    FORM_FRAME = 1 << 8,          /* RBP points into the stack */
    FORM_TABLE = 1 << 9,          /* RBX points to data */
    FORM_COMPARE = 1 << 10,       /* accumulator often equals the destination */
    FORM_ALIGNED = 1 << 11,       /* memory is aligned to 16 */
    FORM_STACK = 1 << 12,         /* RSP stays what it is */
    FORM_INTEL = 1 << 13,         /* AMD and Intel differ, and we do as Intel for both */
};

struct form {
    const char *name;
    const char *sizes; /* of b w d q, n: what the mode pushes; raw: the bytes */
    const char *operands;
    ZydisMnemonic mnemonic; /* INVALID: raw */
    unsigned flags;
    uint64_t undefined;
};

extern const struct form forms[];
extern const unsigned form_count;

#endif
