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

#define TRANSLATE_JUMPS 16384u /* entries of a jump cache, a power of 2 */
#define JUMP_MASK       0x7ffeu
#define JUMP_SHIFT      12

/* Room that any block surely fits in. */
#define BLOCK_CODE_MAX (48u << 10)
#define BLOCK_DATA_MAX (8u << 10)

/* Tables are many and small. A reference is a distance from the start of the data, in units of 8
 * bytes; 0 is none. */
typedef uint32_t ref;
#define REF_UNIT 8u

#define CODE_ALIGNMENT 4u

/* Which of the guest's vector registers are in the CPU. vector_state.c */
enum vectors_level { VECTORS_NONE, VECTORS_SSE, VECTORS_AVX, VECTORS_LEVELS };

/* A direct jump to a translation in the same page: patched when its target is known. While it is
 * not, the jump leads to an exit, which is aside. Those of a translation are an array. */
struct link {
    ref to;             /* translation; 0: not patched */
    ref next;           /* among those that lead to `to` */
    uint16_t at;        /* its displacement, from the start of the code */
    uint16_t unlinked;  /* where it goes otherwise: the exit to the dispatcher, in what is aside */
    uint32_t back : 12; /* so far behind the translation that it is part of */
    uint32_t target : 12;              /* RIP's offset in the page */
    uint32_t privilege : 2;            /* there */
    uint32_t vectors : 2;              /* enum vectors_level: what is in the CPU */
    uint32_t in_host : 1, in_slot : 1; /* where the flags are */
    uint32_t is_backward : 1;          /* attention is to be looked at on the way */
    uint32_t may_follow : 1; /* its target would have followed in line, had it been run before */
};

_Static_assert(sizeof(struct link) == 16 && BLOCK_DATA_MAX / REF_UNIT < 1u << 12 &&
                   MMU_PRIVILEGES < 1u << 2,
               "links are small");

/* An instruction that generated code may send to its handler (slow.c). */
struct slow_entry {
    uint16_t insn;   /* offset from the translation's RIP, and enum slow_flags */
    uint16_t resume; /* where to go on, from the start of the code */
    uint8_t count;   /* instructions that are to be run */
    uint8_t at;      /* SLOW_RUN: the place of the instruction's own access in the run */
    /* Of a direct access (direct.c): 1 more than where its code is, from the start of what is
     * aside. 0: it is none. */
    uint16_t direct;
    union {
        uint16_t span;  /* SLOW_RUN: the run's size */
        uint16_t alone; /* SLOW_ALONE: where to go on after the first instruction */
    };
};

enum slow_flags {
    SLOW_EXITS = 0x8000,  /* never resumes: goes on at the handler's RIP, by the dispatcher */
    SLOW_RUN = 0x4000,    /* the probe was that of a run, */
    SLOW_WRITES = 0x2000, /* which writes */
    SLOW_ALONE = 0x1000,  /* the first instruction is in none of the runs that the others are in */
};
_Static_assert((SLOW_ALONE & PAGE_MASK) == 0, "above the offset");

/* Ways into a translation that only some have (entry.c). Offsets of code; 0: not made yet. */
struct ways {
    uint32_t poll_host, poll_saved; /* the same as the entries, which look at attention first */
    uint32_t unloaded_links[4];     /* the same as unloaded, by kind of link */
};

/* Its links and slow paths are behind it. */
struct translation {
    uint64_t rip; /* is_relative: only the page offset is good, and where jump_remember put it */
    uint64_t ppn : 34; /* where that is: guest-physical page */
    uint64_t privilege : 2;
    uint64_t vectors : 2;     /* enum vectors_level that it begins with */
    uint64_t wants_saved : 1; /* entry_saved is the shorter way in */
    uint64_t is_dead : 1;
    uint64_t is_hot : 1;      /* made for a loop, or reached by a link from such a one */
    uint64_t is_crossing : 1; /* part of a struct crossing */
    uint64_t is_relative : 1; /* its code is good wherever the page is mapped */
    uint64_t is_direct : 1; /* has direct accesses: runs only while the window is open (direct.c) */
    uint64_t visits : 2;    /* by the dispatcher while the window was open */
    uint64_t slow_count : 7;
    uint64_t link_count : 8;
    ref younger;   /* the one made after it */
    ref hash_next; /* in its bucket; of a dead one: the next dead one */
    ref page_next, page_previous;
    ref incoming;                     /* links that lead to it */
    ref ways;                         /* struct ways; 0: none is made */
    uint32_t aside;                   /* offset of its code that is seldom run (ring.c), */
    uint32_t code;                    /* and of its first byte of code; from there: */
    uint16_t entry_host, entry_saved; /* flags in the CPU, or in their slot */
    uint16_t unloaded;                /* flags in their slot, vector registers anywhere */
    uint16_t links, slow; /* struct link, struct slow_entry: so many units behind this */
};

_Static_assert(sizeof(struct translation) == 64, "there are a hundred thousand of these");
_Static_assert(MMU_PHYSICAL_BITS - PAGE_SHIFT <= 34, "any ppn");

/* Everything leads to this entry but links, which know more. T0 is RIP. */
#define TRANSLATION_ENTRY(translate, t)                                                            \
    ((const void *)((translate)->code.execute + (t)->code + (t)->unloaded))

/*
 * Looked up by generated code: RIP and where its translation begins, flags in the slot.
 *
 * With these bits the wrong way round, nobody finds it (jump.c). A guest may branch to any address,
 * to that one as well: but bit 2 is one of those that say in which slots to look, so it is looked
 * for elsewhere; and with bit 62 it is no address that another RIP could be, nor 0.
 */
#define JUMP_PUT_AWAY (1ull << 62 | 1ull << 2)

struct jump {
    uint64_t rip; /* 0: none */
    const void *code;
};

struct jump_cache {
    struct jump jumps[TRANSLATE_JUMPS];
    uint32_t ppns[TRANSLATE_JUMPS]; /* where that RIP is, for those that a flush puts away */
    struct tlb_use use;             /* filled slots */
    struct tlb_filter pages, large_regions;
};

/* Memory that is used round and round: [at, limit) is free. Offsets. (ring.c) */
struct ring {
    uint32_t at, limit;
    uint32_t start, end;
    uint32_t used;        /* the most that `at` has been */
    uint32_t first, last; /* the end is between these; what it is beyond the first is granted */
};

#define BAD_RUNS     4096u
#define BAD_RUNS_MAX 16u
#define SLOW_INSNS   4096u /* entries of the cache of instructions, */
#define SLOW_PAGE    64u   /* those that a page's may be in */

/*
 * The page that RSP is in, beside the TLB, of which it is an entry for writes: probes of what is
 * near RSP ask here (probe.c). The routine stack_look fills it. It lasts until C runs: whatever
 * drops an entry of the TLB is C, so nobody need think of this one.
 */
struct stack_page {
    uint64_t page;  /* linear */
    uint64_t limit; /* STACK_LIMIT, or 0: there is none */
    uint64_t host;
};

#define STACK_PAGES    2u                               /* of MMU_USER and MMU_SUPERVISOR */
#define STACK_SPAN_MAX 64u                              /* bytes that a probe asks for */
#define STACK_LIMIT    (PAGE_SIZE - STACK_SPAN_MAX + 1) /* offsets of a first byte are less */

#define DIRECT_SITES 4096u

/* Whether user code looks into the window, and what speaks for it. direct.c */
struct direct {
    bool is_open;
    bool is_refused;  /* there can be no window */
    bool has_space;   /* the window is for the address space `cr3`, */
    uint64_t cr3;     /* and open while that is the current one */
    uint64_t last;    /* address space that the guest was interrupted in; */
    uint64_t since;   /* and when first, CPU time of the thread in nanoseconds */
    unsigned pages;   /* the most that the TLB has had of it; */
    unsigned settled; /* and how many interrupts ago there were not many more */
    unsigned age;     /* interrupts since it was opened */
    uint64_t losses;  /* of the window that have been taken from the credit: */
    int credit;       /* pages that may still be lost */
    /* Linear pages, or DIRECT_NO_FAULT: of the access that has just failed; the one whose handler
     * is at work, or has raised an exception. */
    uint64_t fault, wanted;
    uint8_t bad[DIRECT_SITES]; /* by a hash of an access's place: how often it was of no use */
};
#define DIRECT_NO_FAULT 1u /* no address of a page */

#define RELATIVE_SLOTS 4096u
#define EVICTED_SLOTS  65536u

struct crossing;

struct translate {
    struct vcpu *vcpu;
    struct code_pool *pool, *own_pool; /* where `code` is from; NULL or the same */
    struct code_piece code;
    struct ring code_ring, aside_ring, data_ring;
    ref oldest, youngest;
    bool code_is_new; /* written since the last serializing instruction */
    /* Bytes of translations that had been evicted and were made again, less what was granted for
     * that; and which those are that were evicted, by a hash: 16 bits of another one. */
    size_t missed;
    uint16_t evicted[EVICTED_SLOTS];

    ref *hash, *pages; /* buckets */
    uint32_t hash_mask, page_mask;
    ref dead;             /* unlinked from the tables, jumps to them not yet undone */
    struct link *left_by; /* by which generated code has come to the dispatcher; NULL: not known */
    struct crossing *crossings;

    /* Instructions that have been on the slow path, by guest-physical address; 0: none. */
    struct slow_insn {
        uint64_t gpa;
        struct insn insn;
    } slow_insns[SLOW_INSNS];
    uint32_t jump_toss;
    struct jump_cache jumps[MMU_PRIVILEGES + 1];
    struct direct direct;
    ref *code_starts; /* of each page of code, the first translation that begins there, or 0 */
    uint8_t bad_runs[BAD_RUNS]; /* by a hash of its address: how often a run of a block failed */

    /* Offsets of the fixed routines. */
    uint32_t enter, call_handler, call_handler_exit, exit_saved, exit_host, exit_jump;
    uint32_t exit_link_saved, exit_link_host;
    uint32_t jump_second, vectors_save;
    uint32_t slow[VECTORS_LEVELS]; /* by what is to be in the CPU afterwards */
    uint32_t vectors_load[VECTORS_LEVELS];
    uint32_t second_look[MMU_PRIVILEGES][2]; /* in the table of MMU_READ or MMU_WRITE */
    uint32_t stack_look[STACK_PAGES][2];     /* the same */

    bool has_rorx;    /* the host's CPU does */
    bool is_lockstep; /* chain nothing: every block comes back to the dispatcher */
    uint64_t relative_seen[RELATIVE_SLOTS / 64]; /* a bit a page, by a hash (relative.c) */
    /* For checks: pages whose number has one of these bits are relative from the start. */
    uint64_t relative_pages;

    struct {
        uint64_t translations, evictions, dispatches, interpreted, jump_flushes;
        uint64_t slow_paths, slow_instructions;
        uint64_t trims;
        uint64_t windows, window_faults;
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
/* mmu_code_keep_fn. */
void translate_keep(void *context, uint64_t ppn);
/* Takes it from the tables; it is dead then, and to be buried. */
void translate_unlink(struct translate *translate, struct translation *t);
/* The same for all whose first byte is in this page, or anywhere (MMU_ALL_PAGES). */
void translate_unlink_page(struct translate *translate, uint64_t ppn);
/* The dispatcher's: the same, and undoes the jumps. Its memory is free. */
void translate_evict(struct translate *translate, struct translation *t);
/* The dispatcher's, between two blocks: undoes jumps to dropped translations. */
void translate_bury(struct translate *translate);
/* The direct one, if there are two and it may run. */
struct translation *translate_look_up(struct translate *translate, uint64_t gpa, uint64_t rip,
                                      unsigned privilege);
void translate_insert(struct translate *translate, struct translation *translation);
/* Those of a page, among others, are a list (page_next), the youngest first. */
struct translation *translate_page_first(const struct translate *translate, uint64_t ppn);
/* Makes the way that the guest has just left by (`left_by`) a jump to where it went, if it may. */
bool translate_chain(struct translate *translate, struct translation *to);
/* The dispatcher's: whoever comes to t next does so by the dispatcher. */
void translate_part(struct translate *translate, struct translation *t);
/* Before generated code is run: makes sure that the CPU sees what was written of it. */
void translate_serialize(struct translate *translate);

/* ring.c: memory of translations */
void ring_init(struct translate *translate);
/* Room for any block: the oldest translations give way. */
void ring_reserve(struct translate *translate);
/* Data, 8-byte aligned, within what was reserved. */
void *ring_allocate(struct translate *translate, size_t size);
/* The translation whose code is at that offset; NULL: it is none. */
struct translation *ring_find(const struct translate *translate, uint32_t code);
/* t has been written, with code up to code_end, and aside up to aside_end. */
void ring_append(struct translate *translate, struct translation *t, uint32_t code_end,
                 uint32_t aside_end);
/* What was made behind the youngest translation ends here. */
void ring_append_code(struct translate *translate, uint32_t code_end);
/* The most that has been in use. */
size_t ring_bytes(const struct translate *translate);
/* All translations are evicted, and their memory goes back to the host. */
void ring_empty(struct translate *translate);

static inline void *ref_get(const struct translate *translate, ref at)
{
    return at != 0 ? translate->code.data + (size_t)at * REF_UNIT : NULL;
}

static inline ref ref_of(const struct translate *translate, const void *data)
{
    return (ref)((size_t)((const uint8_t *)data - translate->code.data) / REF_UNIT);
}

/* relative.c */
/* Whether relative code may run at rip; it may at each other address of its page then. */
bool relative_may_be_at(uint64_t rip);
/* Whether what is now to be translated is to be relative. Where the page has just been found at its
 * second address, drops what there is of it. */
bool relative_is_wanted(struct translate *translate, uint64_t ppn, uint64_t rip);
/* Guest code has changed in this page, or anywhere (MMU_ALL_PAGES). */
void relative_forget(struct translate *translate, uint64_t ppn);
/* to = rip, which is what it is at the place that t->rip is of. No flags. */
void emit_rip(struct emit *e, const struct translation *t, unsigned to, uint64_t rip);
/* T0 is RIP: sets code_page. Spoils T0; no flags. */
void relative_emit_entry(struct emit *e, const struct translation *t);

/* t, whose first byte is at the right guest-physical address, is good at rip. */
static inline bool translation_is_for(const struct translation *t, uint64_t rip)
{
    return t->rip == rip || (t->is_relative && relative_may_be_at(rip));
}

/* Linear base of the page that t is running in, or has just run in. */
static inline uint64_t translation_page(const struct translate *translate,
                                        const struct translation *t)
{
    return t->is_relative ? translate->vcpu->code_page : t->rip & ~PAGE_MASK;
}

static inline uint64_t translation_gpa(const struct translation *t)
{
    return (uint64_t)t->ppn << PAGE_SHIFT | (t->rip & PAGE_MASK);
}

/* t->link_count of them. */
static inline struct link *translation_links(const struct translate *translate,
                                             const struct translation *t)
{
    return ref_get(translate, ref_of(translate, t) + t->links);
}

/* The translation that it is part of. */
static inline struct translation *link_from(const struct translate *translate,
                                            const struct link *link)
{
    return ref_get(translate, ref_of(translate, link) - link->back);
}

/* slow.c: the C part of the slow path. `key` says which. Returns where generated code goes on,
 * NULL: to the dispatcher. */
#define SLOW_KEY_BITS 6 /* number of the entry; above it the translation */
const void *slow_run(struct vcpu *vcpu, uint32_t key);
/* mmu_find for generated code, of any address; `look` is privilege << 1 | access. */
uint8_t *slow_find(struct vcpu *vcpu, uint64_t linear, unsigned look);
/* Runs in the block at gpa have failed too often, which was not for want of a TLB entry. */
bool slow_has_bad_runs(const struct translate *translate, uint64_t gpa);
/* Its runs are to be given another try. */
void slow_forgive_runs(struct translate *translate, uint64_t gpa);
/* Guest code has changed in this page, or anywhere (MMU_ALL_PAGES). */
void slow_forget(struct translate *translate, uint64_t ppn);

/* jump.c: the jump cache. */
void jump_init(struct translate *translate); /* after the fixed routines were emitted */
/* The entry in which generated code looks for rip first, unless attention is raised. */
struct jump *jump_entry(struct translate *translate, unsigned privilege, uint64_t rip);
/* So that generated code finds it by this RIP, and by no other, from now on. */
void jump_remember(struct translate *translate, struct translation *t, uint64_t rip);
void jump_forget(struct translate *translate, const struct translation *t);
/* All of a privilege's. */
void jump_put_away_all(struct translate *translate, unsigned privilege);
/* As a flush of its page. */
void jump_put_away(struct translate *translate, const struct translation *t);
/* RIP is in page ppn now, says the ITLB. Returns where to enter generated code, and has it find
 * that by itself again, if the jump cache had it before a flush; NULL: it has not. */
const void *jump_recall(struct translate *translate, unsigned privilege, uint64_t rip,
                        uint64_t ppn);
/* mmu_code_flush_fn; the context is the struct translate. */
void jump_flush(void *context, enum mmu_flush_scope scope, uint64_t linear);
/* The dispatcher's, before it enters generated code: has look-ups hit again if attention is 0. */
void jump_arm(struct vcpu *vcpu);

/* direct.c: accesses of user code that go to the window. */
void direct_init(struct translate *translate);
/* Before a thread runs generated code, and with NULL after that: faults of it are this one's. */
void direct_watch(struct translate *translate);
/* The dispatcher's: user code was interrupted. */
void direct_tick(struct translate *translate);
/* The dispatcher's, before user code runs: it may be back in the address space that was left. */
void direct_return(struct translate *translate);
/* The address space is to be another one, maybe. */
void direct_leave(struct translate *translate);
/* What was at cr3 is no more. */
void direct_forget(struct translate *translate, uint64_t cr3);
/* For the current address space; nothing happens where there is no window. */
void direct_open(struct translate *translate);
/* The dispatcher's: what the guest comes to by `link` (NULL: by none) is to be translated as
 * direct. `t`: the translation that there is, or NULL. */
bool direct_is_due(struct translate *translate, struct translation *t, const struct link *link);
/* It goes on at t. Where `link` comes from code that is not direct, and cannot lead to t, the
 * dispatcher is to see that code when it is next reached, and have it made as direct. */
void direct_follow(struct translate *translate, const struct translation *t,
                   const struct link *link);
/* The window is open for the current address space, and this is user code's privilege. */
static inline bool direct_may_run(const struct translate *translate, unsigned privilege)
{
    return translate->direct.is_open && privilege == MMU_USER;
}
/* The access of the instruction at gpa may be a direct one. */
bool direct_is_wanted(const struct translate *translate, uint64_t gpa);
/* An instruction of a direct translation is about to be done by its handler; the one at gpa, of t,
 * which has a direct access, has been. */
void direct_begin(struct translate *translate);
void direct_learn(struct translate *translate, struct translation *t, uint64_t gpa);

/* stubs.c: the fixed routines, at the start of code memory. */
void translate_emit_stubs(struct translate *translate);

/* vector_state.c: its routines. The save first, since others call it; and what saves vector
 * registers if they are in the CPU, which has to come before any call of C. */
void vectors_emit_save_stub(struct translate *translate, struct emit *e);
void vectors_emit_load_stubs(struct translate *translate, struct emit *e);
void vectors_emit_save(struct emit *e, const struct translate *translate);
/* Loads what sse_absent and avx_absent, whose values these two bytes are, say was there. Spoils T0
 * and flags. */
void vectors_emit_restore(struct emit *e, const struct translate *translate,
                          struct emit_rm absent_bytes);
/* At the entry of t, flags in their slot: the registers that it begins with are loaded if need be,
 * and the guest is at its RIP if they cannot be. */
void vectors_emit_check(struct emit *e, const struct translate *translate,
                        const struct translation *t);
bool vectors_are_usable(const struct vcpu *vcpu, unsigned level);
/* What the block begins with, by its instructions. block.c */
unsigned translate_block_vectors(const struct block *block);

/* block.c. link: by which the guest came there, or NULL. is_hot: see struct translation; what is
 * not has no other blocks in line, which would only be another copy of them. */
struct translation *translate_block(struct translate *translate, const struct block *block,
                                    const struct link *link, bool is_hot, bool is_direct);

/* entry.c: where a link into t leads; 0: there is no room to make that. */
uint32_t translate_entry(struct translate *translate, struct translation *t,
                         const struct link *link);

/* True for what is translated without a call of its handler (memory operands that miss the TLB
 * aside): what the lock-step mode can check. integer.c */
bool translate_is_inline(const struct insn *insn);
/* flow.c: a conditional jump. */
bool flow_is_jcc(const struct insn *insn);

/* engine.c */
/* Runs generated code from there on, and sets left_by. */
void translate_enter(struct translate *translate, const void *code);

/* lockstep.c: runs the block, whose translation is t, on both engines. False: it is not one that
 * can be compared, and has not been run. */
bool lockstep_run(struct vcpu *vcpu, struct translate *translate, const struct block *block,
                  const struct translation *t);
/* To the log: how many blocks were compared, how many differed. */
void lockstep_report(const struct translate *translate);

/* The stack of generated code: aligned to 16, this many bytes for its own use. What is used most
 * comes first, where an address is a byte shorter. */
#define FRAME_SIZE   136
#define FLAGS_SLOT   0
#define CARRY_SLOT   4   /* CF, where the others are in the CPU */
#define FRAME_GPRS   8   /* the guest registers that do not live in the host's */
#define FRAME_STACKS 40  /* struct stack_page of user code, of the kernel */
#define FRAME_RUNS   88  /* host addresses of runs */
#define FRAME_TARGET 120 /* the code that an indirect call goes to, */
#define FRAME_RIP    128 /* and its RIP */

/*
 * Registers. Twelve guest registers live in host registers, eleven of them under their own name;
 * the guest's RSP is in R15. Four live in the stack frame: compilers use R9, R10 and R11 least, and
 * R15's place is taken. They are in struct vcpu while C runs, as all others. R9-R11 are the scratch
 * registers, RSP is the host's stack, gs is struct vcpu.
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

#define FRAME_GPR_COUNT 4u

/* Of a guest register that has no host register. */
static inline unsigned frame_index(unsigned gpr)
{
    return gpr == GPR_R15 ? 3 : gpr - GPR_R9;
}

static inline struct emit_rm rm_gpr(unsigned gpr)
{
    return rm_at(HOST_RSP, FRAME_GPRS + 8 * (int32_t)frame_index(gpr));
}

/* Where C has it. */
static inline struct emit_rm rm_vcpu_gpr(unsigned gpr)
{
    return rm_vcpu(offsetof(struct vcpu, gpr) + 8 * gpr);
}

/* A member of the stack page of this privilege, from a frame at [RSP + frame]. */
static inline struct emit_rm rm_stack(unsigned privilege, size_t member, int32_t frame)
{
    return rm_at(HOST_RSP,
                 frame + FRAME_STACKS + (int32_t)(privilege * sizeof(struct stack_page) + member));
}

/* What a look-up in the jump cache has found. */
static inline struct emit_rm rm_jump(size_t offset)
{
    return (struct emit_rm){1, 0, T2, T1, 3, (int32_t)offset};
}

#endif
