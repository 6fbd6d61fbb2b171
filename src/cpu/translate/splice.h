#ifndef AEROSTAT_CPU_TRANSLATE_SPLICE_H
#define AEROSTAT_CPU_TRANSLATE_SPLICE_H

/*
 * A canonical instruction of the thunks with other registers.
 *
 * Thunks keep their instruction in canonical form: decoded, checked and encoded again with fixed
 * registers (thunk/canonical.c). Here that is taken apart into prefixes, opcode and immediate, and
 * put together again by emit.h with the registers wanted. Nothing else of it is ever emitted.
 */

#include "cpu/translate/emit.h"

#define SPLICE_KEEP 0xffu

/* A canonical instruction, taken apart. */
struct splice_parts {
    bool is_vex, is_memory, has_immediate;
    unsigned flags; /* legacy: enum emit_flags */
    uint32_t opcode;
    struct vex vex;
    unsigned reg, vvvv, rm;
    uint8_t immediate;
};

/* Registers by where they stand in the encoding, or SPLICE_KEEP: an extension of the opcode. */
struct splice {
    uint8_t reg, vvvv, is4;
    struct emit_rm rm; /* its reg may be SPLICE_KEEP too */
    bool is_byte_rm;   /* a byte register: SPL and friends need a REX */
};

/* False: not of a form that is understood. */
bool splice_parse(struct splice_parts *parts, const uint8_t *canonical, unsigned length,
                  bool is_vex);
/* splice->rm is memory where parts->is_memory. */
void splice_emit(struct emit *e, const struct splice_parts *parts, const struct splice *splice);

#endif
