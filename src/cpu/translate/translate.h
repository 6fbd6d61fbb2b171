#ifndef AEROSTAT_CPU_TRANSLATE_TRANSLATE_H
#define AEROSTAT_CPU_TRANSLATE_TRANSLATE_H

/*
 * Inside the translator. engine.c has the essay; docs/translator.md a worked example.
 */

#include "cpu/engine.h"
#include "cpu/insn.h"
#include "cpu/interp/block.h"
#include "cpu/translate/code_pool.h"
#include "cpu/translate/emit.h"

#define TRANSLATE_CODE_SIZE CODE_PIECE_SIZE
#define TRANSLATE_DATA_SIZE ((size_t)8 << 20)

#define TRANSLATE_HASH_SIZE      16384u
#define TRANSLATE_PAGE_HASH_SIZE 1024u
#define TRANSLATE_JUMPS          16384u /* entries of a jump cache, a power of 2 */
#define JUMP_MASK                0x7ffeu
#define JUMP_SHIFT               12
#define JUMP_PAGE_SHIFT          12 /* log2 of the bits of jump_cache.pages */

struct translation;

/* A direct jump to a translation in the same page: patched when its target is known. */
struct link {
    uint32_t at;           /* offset of the displacement */
    uint32_t unlinked;     /* where it goes otherwise: the exit to the dispatcher */
    uint64_t target;       /* RIP */
    bool in_host, in_slot; /* where the flags are */
    bool is_backward;      /* attention is to be looked at on the way */
    bool may_follow;       /* its target would have followed in line, had it been run before */
    uint8_t privilege;     /* there */
    struct translation *from, *to;
    struct link *sibling;      /* another of `from` */
    struct link *next, **back; /* among those that lead to `to` */
};

struct translation {
    uint64_t rip, gpa;
    struct translation *hash_next, **hash_back;
    struct translation *page_next, **page_back;
    struct translation *dead_next;
    uint32_t entry_host, entry_saved; /* offsets: flags in the CPU, or in their slot */
    uint32_t poll_host, poll_saved;   /* the same, which look at attention first; 0: not made */
    bool wants_saved;                 /* entry_saved is the shorter way in */
    uint8_t privilege;
    bool is_dead;
    bool is_hot;      /* made for a loop, or reached by a link from such a one */
    bool is_crossing; /* part of a struct crossing */
    struct link *incoming;
    struct link *links; /* that lead out of it */
};

/* Looked up by generated code: RIP and where its translation begins, flags in the slot. */
struct jump {
    uint64_t rip; /* 0: none */
    const void *code;
};

struct jump_cache {
    struct jump jumps[TRANSLATE_JUMPS];
    uint64_t filled[TRANSLATE_JUMPS / 64], global[TRANSLATE_JUMPS / 64];
    uint64_t pages[(1u << JUMP_PAGE_SHIFT) / 64];
    uint64_t large_regions;
    bool is_used; /* something is filled */
};

struct crossing;

struct translate {
    struct vcpu *vcpu;
    struct code_pool *pool, *own_pool; /* where `code` is from; NULL or the same */
    struct code_piece code;
    size_t code_used, code_start;
    uint8_t *data; /* translations and copies of instructions */
    size_t data_used;
    uint64_t epoch; /* counts wholesale evictions */

    struct translation *hash[TRANSLATE_HASH_SIZE];
    struct translation *pages[TRANSLATE_PAGE_HASH_SIZE];
    struct translation *dead; /* unlinked from the tables, jumps to them not yet undone */
    struct crossing *crossings;
    uint32_t jump_toss;
    struct jump_cache jumps[MMU_PRIVILEGES + 1];

    /* Offsets of the fixed routines. */
    uint32_t enter, call_handler, call_handler_exit, exit_saved, exit_host, exit_jump, exit_zero;
    uint32_t jump_second;

    bool is_lockstep; /* chain nothing: every block comes back to the dispatcher */

    struct {
        uint64_t translations, evictions, dispatches, interpreted, jump_flushes;
        uint64_t lockstep_blocks, lockstep_differences;
    } stats;
};

static inline struct translate *translate_of(struct vcpu *vcpu)
{
    return vcpu->mmu.code_context;
}

/* cache.c */
enum status translate_create(struct translate **translate, struct vcpu *vcpu, struct error *err);
void translate_destroy(struct translate *translate);
/* mmu_code_drop_fn; the context is the struct translate. */
void translate_drop(void *context, uint64_t ppn);
/* Takes it from the tables; it is dead then. */
void translate_unlink(struct translate *translate, struct translation *t);
/* The dispatcher's, between two blocks: undoes jumps to dropped translations. */
void translate_bury(struct translate *translate);
void translate_evict_all(struct translate *translate);
struct translation *translate_look_up(struct translate *translate, uint64_t gpa, uint64_t rip,
                                      unsigned privilege);
void translate_insert(struct translate *translate, struct translation *translation);
/* Makes the jump `link` go to `to`. */
void translate_chain(struct translate *translate, struct link *link, struct translation *to);
/* Data memory, 8-byte aligned; the caller has made sure of the room. */
void *translate_allocate(struct translate *translate, size_t size);
/* After code was written, before it is run. */
void translate_serialize(void);

/* jump.c: the jump cache. */
void jump_init(struct translate *translate); /* after the fixed routines were emitted */
/* The entry in which generated code looks for rip first, unless attention is raised. */
struct jump *jump_entry(struct translate *translate, unsigned privilege, uint64_t rip);
/* So that generated code finds it by RIP from now on. */
void jump_remember(struct translate *translate, const struct translation *t);
void jump_forget(struct translate *translate, const struct translation *t);
void jump_clear(struct translate *translate);
/* mmu_code_flush_fn; the context is the struct translate. */
void jump_flush(void *context, enum mmu_flush_scope scope, uint64_t linear);
/* The dispatcher's, before it enters generated code: has look-ups hit again if attention is 0. */
void jump_arm(struct vcpu *vcpu);

/* stubs.c: the fixed routines, at the start of code memory. */
void translate_emit_stubs(struct translate *translate);

/* block.c. is_loop: because a backward link leads there. */
struct translation *translate_block(struct translate *translate, const struct block *block,
                                    bool is_loop);

/* flow.c: the decoded block at rip, in the page of t; NULL: it is not decoded. */
const struct block *flow_block(const struct translate *translate, const struct translation *t,
                               uint64_t rip);

/* entry.c: where a link into t leads; 0: there is no room to make that. */
uint32_t translate_entry(struct translate *translate, struct translation *t,
                         const struct link *link);

/* True for what is translated without a call of its handler (memory operands that miss the TLB
 * aside): what the lock-step mode can check. integer.c */
bool translate_is_inline(const struct insn *insn);

/* engine.c. translate_engine (cpu/engine.h) in lock-step mode: slow, for tests. */
extern const struct engine_ops translate_lockstep_engine;
/* Runs generated code from t on. Returns the link it has left by. */
struct link *translate_enter(struct translate *translate, const struct translation *t);

/* lockstep.c: runs the block, whose translation is t, on both engines. False: it is not one that
 * can be compared, and has not been run. */
bool lockstep_run(struct vcpu *vcpu, struct translate *translate, const struct block *block,
                  const struct translation *t);

/*
 * Registers. Twelve guest registers live in host registers, eleven of them under their own name;
 * the guest's RSP is in R15. Four live in struct vcpu: compilers use R9, R10 and R11 least, and
 * R15's place is taken. R9-R11 are the scratch registers, RSP is the host's stack, gs is struct
 * vcpu.
 */
#define T0 HOST_R9
#define T1 HOST_R10
#define T2 HOST_R11

static inline unsigned host_of(unsigned gpr)
{
    static const uint8_t map[GPR_COUNT] = {
        HOST_RAX, HOST_RCX,  HOST_RDX,  HOST_RBX,  HOST_R15, HOST_RBP, HOST_RSI, HOST_RDI,
        HOST_R8,  HOST_NONE, HOST_NONE, HOST_NONE, HOST_R12, HOST_R13, HOST_R14, HOST_NONE,
    };
    return map[gpr];
}

static inline struct emit_rm rm_gpr(unsigned gpr)
{
    return rm_vcpu(offsetof(struct vcpu, gpr) + 8 * gpr);
}

/* What a look-up in the jump cache has found. */
static inline struct emit_rm rm_jump(size_t offset)
{
    return (struct emit_rm){1, 0, T2, T1, 3, (int32_t)offset};
}

/* The stack of generated code: aligned to 16, this many bytes for its own use. Its flags slot is
 * below it, at [RSP - 8], where PUSHF writes; signals leave the 128 bytes there alone. */
#define FRAME_SIZE       40
#define FRAME_TARGET     0  /* the code that an indirect call goes to */
#define FRAME_HOST_MXCSR 8  /* the caller's MXCSR, 4 bytes, */
#define FRAME_MXCSR      12 /* and what is there now, to look at */
#define FRAME_RSI        16 /* saved while the host's register holds something else */
#define FRAME_R8         24
#define FLAGS_SLOT       (-8)

#endif
