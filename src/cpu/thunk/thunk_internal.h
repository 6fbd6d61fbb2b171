#ifndef AEROSTAT_CPU_THUNK_INTERNAL_H
#define AEROSTAT_CPU_THUNK_INTERNAL_H

/* What the files of this folder share. thunk.c has the essay. */

#include <pthread.h>
#include <stdatomic.h>

#include "cpu/code_memory.h"
#include "cpu/thunk/thunk.h"
#include "cpu/thunk/xstate.h"

/* Which availability rules an instruction obeys, and which state it needs loaded. */
enum thunk_unit {
    THUNK_UNIT_GPR,     /* general registers and flags only */
    THUNK_UNIT_VEX_GPR, /* the same, VEX-encoded */
    THUNK_UNIT_SSE,
    THUNK_UNIT_AVX,
    THUNK_UNIT_X87, /* this and the next two run under FXRSTOR and FXSAVE */
    THUNK_UNIT_MMX,
    THUNK_UNIT_MMX_SSE, /* MMX and XMM registers: CVTPI2PS, MOVQ2DQ and the like */
};

static inline bool thunk_unit_is_full(enum thunk_unit unit)
{
    return unit >= THUNK_UNIT_X87;
}

/* Where a register operand stands in the encoding. An instruction's guest register for slot s is
 * insn->op[s]. */
enum thunk_slot { SLOT_REG, SLOT_RM, SLOT_VVVV, SLOT_IS4, SLOT_COUNT };
/* Implicit registers. */
#define VECTOR_IMPLICIT SLOT_COUNT /* XMM0 */
#define VECTOR_COUNT    (SLOT_COUNT + 1)
enum thunk_gpr { THUNK_RAX = 3, THUNK_RCX, THUNK_RDX, THUNK_GPR_COUNT };

/* The canonical encoding of an instruction: 64-bit mode, slots' registers replaced by fixed ones
 * (vectors by XMM1-4, general ones by R8-R10), the memory operand by [RSI]. At most 8 bytes, so it
 * is its own hash key. */
struct thunk_key {
    union {
        uint8_t bytes[8];
        uint64_t value; /* 0: none */
    };
};

#define CANONICAL_VECTOR 1u /* + slot */
#define CANONICAL_GPR    8u /* + slot */

/* Generated code's only argument (RDI). All offsets that code uses fit a byte. */
struct thunk_frame {
    uint8_t *vector[VECTOR_COUNT]; /* low halves in vcpu->xstate */
    uint64_t gpr[THUNK_GPR_COUNT]; /* in and out */
    void *memory;                  /* copy of the memory operand, misaligned as the guest's */
    struct xstate_image *image;
    uint64_t flags; /* in and out */
    uint32_t mxcsr; /* in and out */
    uint32_t host_mxcsr;
    uintptr_t out;  /* where the signal handler sends it after a fault */
    uint64_t fault; /* the CPU's vector + 1, or 0 */
};

enum thunk_flags {
    THUNK_LOADS = 1,
    THUNK_STORES = 2,
    THUNK_READS_FLAGS = 4, /* or keeps some */
    THUNK_WRITES_FLAGS = 8,
    THUNK_USES_MXCSR = 16,
    THUNK_YMM = 32,
};

typedef void thunk_code(struct thunk_frame *frame);

struct thunk {
    thunk_code *code;
    uintptr_t out;
    uint8_t unit;           /* enum thunk_unit */
    uint8_t flags;          /* enum thunk_flags */
    uint8_t memory_size;    /* 0: none */
    uint8_t alignment_mask; /* address bits that must be 0 */
    uint8_t vectors;        /* bit s: slot s, or VECTOR_IMPLICIT, is a vector register */
    uint8_t vectors_out;
    uint8_t gprs; /* bit g: enum thunk_gpr, or a slot below 3 */
    uint8_t gprs_out;
    uint8_t components; /* of XSTATE_BV that are no longer initial afterwards */
    uint8_t length;     /* of the canonical instruction */
};

#define THUNK_CODE_SIZE (256 * KIB)
#define THUNK_CODE_MAX  192u /* one thunk */
#define THUNK_MAX       4096u
#define THUNK_BUCKETS   8192u /* power of two, over THUNK_MAX */

struct thunk_set {
    ZydisDecoder decoder; /* 64-bit mode; constant */
    struct code_memory code;
    pthread_mutex_t lock; /* leaf; guards all below */
    size_t code_used;     /* below THUNK_CODE_SIZE - THUNK_CODE_MAX, which is the scratch place */
    unsigned count;
    uint16_t buckets[THUNK_BUCKETS]; /* index + 1 into thunks and keys */
    uint64_t keys[THUNK_MAX];
    struct thunk thunks[THUNK_MAX]; /* never changed once published */
    struct thunk_set_stats stats;
};

/* policy.c: may this instruction run on the host, given what the guest is offered? */
bool thunk_policy_allows(const struct features *features, const ZydisDecodedInstruction *decoded,
                         const ZydisDecodedOperand *operands, enum thunk_unit *unit);

/* canonical.c: finds the key and fills insn->op[] by slot; false where it cannot be done. */
bool thunk_canonicalize(const ZydisDecoder *decoder, const ZydisDecodedInstruction *decoded,
                        const ZydisDecodedOperand *operands, const uint8_t *bytes,
                        enum thunk_unit unit, struct thunk_key *key, struct insn *insn);
/* Guest register number of an operand, and what kind it is. False: one that has no slot. */
bool thunk_operand_register(const ZydisDecodedOperand *operand, struct operand *out);
/* Base, index, displacement, segment and address size of a memory operand. */
void thunk_bind_memory(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operand,
                       struct insn *insn);

/* build.c: what a canonical instruction needs in a guest of these features; then its code, for
 * thunk->code at `execute` and written at `write` (THUNK_CODE_MAX bytes each). Returns its length.
 */
bool thunk_describe(const ZydisDecoder *decoder, const struct features *features,
                    const struct thunk_key *key, enum thunk_unit unit, struct thunk *thunk);
size_t thunk_emit(const struct thunk_key *key, struct thunk *thunk, uint8_t *write,
                  const uint8_t *execute);

/* fault.c: the signal handlers, and the ranges they answer for. */
bool thunk_fault_register(const void *code, size_t size);
void thunk_fault_unregister(const void *code);
/* Before a thread's first thunk: a fault signal that is blocked would end the process. */
extern _Thread_local bool thunk_thread_is_ready;
void thunk_thread_prepare(void);

/* moves.c and masked.c: instructions done by hand. They fill op[] by operand. */
bool thunk_bind_move(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                     struct insn *insn);
/* What an instruction that thunk_bind_move has bound is. */
enum thunk_move_kind {
    THUNK_MOVE_LOAD,
    THUNK_MOVE_STORE,
    THUNK_MOVE_COPY,
    THUNK_MOVE_ZERO, /* the last that has a size */
    THUNK_MOVE_ZERO_UPPER,
    THUNK_MOVE_ZERO_ALL,
    THUNK_MOVE_INTEGER, /* MOVNTI */
};
struct thunk_move {
    enum thunk_move_kind kind;
    uint8_t size; /* 16 or 32 */
    bool is_aligned, is_vex;
};
bool thunk_describe_move(const struct insn *insn, struct thunk_move *move);
bool thunk_bind_masked(const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                       struct insn *insn);

/* run.c */
void thunk_exec(struct vcpu *vcpu, const struct insn *insn);
void thunk_exec_uncached(struct vcpu *vcpu, const struct insn *insn);

#endif
