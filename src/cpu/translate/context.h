#ifndef AEROSTAT_CPU_TRANSLATE_CONTEXT_H
#define AEROSTAT_CPU_TRANSLATE_CONTEXT_H

/*
 * The translation being made.
 *
 * Guest flags. They are in the host's flags (`in_host`), in the slot of the stack frame
 * (`in_slot`), in both, CF apart (`in_parts`), or can be made again (`recipe`): see flags.c. An
 * exception finds them exact, always.
 *
 * Slow paths. A memory operand that misses the TLB sends the whole instruction to its handler in
 * the interpreter, out of line; nothing of the guest's state has changed until then. It resumes
 * with the flags in the CPU and in the slot; where they were in parts CF's own slot still holds.
 */

#include "cpu/translate/run.h"
#include "cpu/translate/translate.h"

/* Slots of the TLB are found by a shift. */
#define ENTRY_SHIFT 5
_Static_assert(sizeof(struct tlb_slot) == 1u << ENTRY_SHIFT, "its size");

#define SLOW_JUMPS 8
#define SLOW_LOOKS 2

/* How flags that are nowhere can be made again: flags.c. */
enum flags_recipe_kind {
    RECIPE_NONE,
    RECIPE_CMP,
    RECIPE_TEST, /* of a register with itself: AND, OR, XOR that has written it */
    RECIPE_ADD,
    RECIPE_SUB,
    RECIPE_NEG,
    RECIPE_INC,
    RECIPE_DEC,
    RECIPE_ROL,
    RECIPE_ROR,
};

#define FLAGS_IMMEDIATE 0xff

struct flags_recipe {
    uint8_t kind, size;
    uint8_t reg, other; /* guest registers; other: or FLAGS_IMMEDIATE */
    bool on_slot;       /* the flags that it keeps are those of the slot */
    uint64_t immediate;
};

/* A probe of the TLB that has failed looks into the spare table before that is the slow path. */
struct second_look {
    uint32_t jump, back; /* the branch to be linked to it, and where it resumes */
    uint8_t privilege, access;
    /* What is looked for, and what there is to make T0 (it) and T2 (its last byte) from. */
    enum {
        LOOK_PAGE,     /* T0 is a page */
        LOOK_LAST,     /* T0 is an address, T2 that of the last byte */
        LOOK_SPAN,     /* T0 is the address of `span` bytes */
        LOOK_STACK,    /* the same, but the stack page has been subtracted from T0 */
        LOOK_CONSTANT, /* `page`; then T0 is to be less than its host address by `less` */
        LOOK_LOW,      /* T0 is a host address if that is in the low half's part of the window */
    } from;
    unsigned span;
    uint64_t page;
    int32_t less;
};

struct slow_path {
    struct flags_recipe recipe; /* for the slot; RECIPE_NONE: it is good */
    uint32_t jumps[SLOW_JUMPS]; /* branches to be linked to it */
    unsigned jump_count, look_count;
    struct second_look looks[SLOW_LOOKS];
    uint32_t resume; /* offset of what follows the instructions; where it exits, its accesses; */
    uint32_t alone; /* of what follows the first one, if others follow and can do without C; or 0 */
    uint64_t rip;
    uint8_t index, end; /* instructions that C runs: of a run, all that are left */
    uint8_t at;         /* the place of the access in the run, */
    struct run run;     /* whose probe this is; span 0: it is no run's */
    bool is_direct;     /* an access may fault: this is the way then, */
    bool in_host;       /* and the flags are in the CPU alone, */
    bool in_parts;      /* or CF is in its slot, and the others are in the CPU */
    bool exits;         /* does not resume: the handler says where it goes on */
    uint8_t vectors;    /* registers in the CPU when it resumes (enum vectors_level) */
};

/* Vector registers missing: out of line they are loaded. */
struct vectors_load {
    uint32_t jump, back; /* the branch to be linked to it, and where it resumes */
    uint64_t rip;        /* of what comes next */
    uint8_t level;
    bool in_host, in_parts; /* flags */
};

/* A branch that leaves, to be completed out of line. */
struct edge {
    uint32_t at; /* offset of its displacement */
    bool in_host, in_slot, may_follow;
    uint8_t vectors; /* enum vectors_level */
    uint8_t privilege;
    uint64_t rip, target;
};

struct context {
    struct emit e;
    struct translate *translate;
    struct translation *translation;
    unsigned privilege;

    const struct insn *insn; /* being translated */
    uint64_t rip, next_rip;
    struct emit_rm operand;   /* is_memory: its memory operand, no probe is needed (loop.c) */
    const struct insn *insns; /* the blocks, one after the other, */
    unsigned index, count;    /* where insn is in them, and how many there are */
    /* Bits by index: the last of a block; and of those, where the next one follows (trace.c). */
    uint64_t block_ends, follows;
    bool in_host, in_slot, in_parts;
    struct flags_recipe recipe;
    unsigned vectors;  /* enum vectors_level: what is in the CPU now. Who calls C makes it 0 */
    bool keeps_copies; /* see context_get */
    uint8_t copies[2]; /* the guest registers that T1 and T2 have been given the values of */
    struct unread {
        uint32_t from, to;     /* offsets of the instruction; to = 0: there is none */
    } unread[FRAME_GPR_COUNT]; /* stores to the frame: see context_in_frame */

    unsigned held; /* the run whose host address T0 holds, or RUN_NONE */
    unsigned slow_count;
    unsigned load_count;
    bool has_saving_entry;
    unsigned loop_count;  /* without the branch; 0: it is none */
    unsigned loop_writer; /* the instruction where its second copy comes back to the first */
    uint64_t loop_branch; /* RIP of that */
    unsigned edge_count;
    uint32_t jump_miss, jump_resume; /* of the look-up in the jump cache; 0: there is none */
    struct slow_path *jump_slow;

    /* From here on nothing is cleared: it is written before it is read. */
    struct runs runs;
    struct slow_path slow[BLOCK_MAX_INSNS];
    struct vectors_load loads[BLOCK_MAX_INSNS + 1];
    struct edge edges[BLOCK_MAX_INSNS + 1];
    struct insn trace[BLOCK_MAX_INSNS]; /* room for insns, if they are of several blocks */
    /* The first block, where it is a loop (loop.c), and where its instructions begin. */
    struct insn loop[BLOCK_MAX_INSNS];
    uint32_t loop_offsets[BLOCK_MAX_INSNS];
};

#define CONTEXT_CLEARED offsetof(struct context, runs)

/* flags.c. What makes flags spoils T1 and T2. */
void context_flags_save(struct context *c);   /* now in the slot */
void context_flags_load(struct context *c);   /* now in the CPU */
void context_flags_make(struct context *c);   /* now in either */
void context_flags_settle(struct context *c); /* now in either or in parts, and no recipe is left */
/* After an instruction that has written all flags, or some after context_flags_load. */
static inline void context_flags_written(struct context *c)
{
    c->in_host = true;
    c->in_slot = c->in_parts = false;
    c->recipe.kind = RECIPE_NONE;
}
/* Guest register `gpr` is about to be written by an instruction that leaves flags alone. For those
 * who do not call it the flags have been settled. */
void flags_keep(struct context *c, unsigned gpr);
/* Before a probe: they are in the slot, or the slow path has a recipe. */
void flags_spare(struct context *c, struct slow_path *slow);
/* The same before a direct access, which spoils CF or nothing. */
void flags_spare_carry(struct context *c, struct slow_path *slow, bool spoils);
/* At a slow path: they are in the slot. */
void flags_emit_slow(struct context *c, const struct slow_path *slow);
void flags_emit_recipe(struct context *c, const struct flags_recipe *recipe);
/* From the CPU to the slot, and back. Both spoil T2. */
void emit_flags_save(struct emit *e);
void emit_flags_load(struct emit *e);
/* The same of CF alone, and its own slot. The second spoils T2. */
void emit_carry_save(struct emit *e);
void emit_carry_load(struct emit *e);
/* to = the status flags of the slot at [RSP + slot], as in RFLAGS; and back, of which `from` may
 * have any others, and is spoiled. Both spoil flags. */
void emit_flags_take(struct emit *e, unsigned to, unsigned scratch, int32_t slot);
void emit_flags_give(struct emit *e, unsigned from, unsigned scratch, int32_t slot);

/* probe.c: where guest memory is */
/* T0 = linear address of the memory operand. Spoils T1. */
void context_address(struct context *c);
void context_address_to(struct context *c, unsigned to); /* the same, in another register */
/* The low half of `to` = the low half of from >> count. Spoils flags. */
void context_shifted(struct context *c, unsigned to, unsigned from, unsigned count);
/* An entry of the TLB, in the slot whose offset the register `slot` is; HOST_NONE: the first. */
struct tlb_rm {
    struct emit_rm tag, addend;
};
struct tlb_rm rm_tlb(unsigned privilege, enum mmu_access access, unsigned slot);
struct tlb_rm rm_tlb_spare(unsigned privilege, enum mmu_access access, unsigned slot);
/* Compares the tag of T0, a linear address, with the page of `last`, which may be given by T0: a
 * hit is "equal". Returns the addend of its entry. Spoils T1, T2, flags. */
struct emit_rm context_probe_tag(struct context *c, struct emit_rm last, bool write);
/* T0, a linear address, becomes a host address, or it is the slow path. Spoils T1, T2, flags. */
void context_probe(struct context *c, struct slow_path *slow, unsigned size, bool write);
/* The same up to a last byte, which may be given by T0. */
void context_probe_to(struct context *c, struct slow_path *slow, struct emit_rm last, bool write);
/* The memory operand, given by T0, or it is the slow path. The same. */
struct emit_rm context_probe_operand(struct context *c, struct slow_path *slow, unsigned size,
                                     bool write);
/* The same by the window (direct.c). Until the instruction has accessed it nothing of the guest's
 * state changes, but that flags that can be made again are made. Spoils T1, T2 and CF. */
struct emit_rm context_direct_operand(struct context *c, struct slow_path *slow);
/* The same for what is at [base + displacement]: base is not one of those in the frame. */
struct emit_rm context_direct_base(struct context *c, struct slow_path *slow, unsigned base,
                                   int32_t displacement);
/* Before any direct access: it may fault, and go on at the slow path. */
void context_direct_mark(struct context *c, struct slow_path *slow);
/* The same for what is at [base + displacement]: base is not one of those in the frame. */
void context_probe_base(struct context *c, struct slow_path *slow, unsigned base,
                        int32_t displacement, unsigned size, bool write);
/* Aside: T0 becomes a host address, and it resumes; or what follows is the slow path. */
void context_look_emit(struct context *c, const struct second_look *look);

/* memory.c: slow paths and operands */
struct slow_path *context_slow_begin(struct context *c); /* saves the flags */
/* The same, for those who call flags_keep before they write registers. */
struct slow_path *context_slow_begin_spare(struct context *c);
/* The same, for one that has no other access than its operand, with that alignment, or one of the
 * stack, and spoils no flags before that. */
struct slow_path *context_slow_begin_operand(struct context *c, unsigned alignment);
/* The access of the instruction needs a probe or a check of its alignment: its run has not been
 * probed, and its operand is not known. Otherwise it has no slow path. */
bool context_may_miss(const struct context *c, unsigned alignment);
void context_slow_jump(struct context *c, struct slow_path *slow, unsigned condition);
void context_slow_end(struct context *c, struct slow_path *slow);
/* Returns the offset of where it is for those who need no second look. */
uint32_t context_slow_emit(struct context *c, const struct slow_path *slow, unsigned number);
/* The memory operand, after a probe, or as part of a run (run.c). `alignment`: a mask of address
 * bits that must be 0, or it is the slow path. Spoils T0, T1, T2, flags. */
struct emit_rm context_operand(struct context *c, struct slow_path *slow, unsigned size, bool write,
                               unsigned alignment);
/* The same for 8 bytes that are read, of an instruction whose run, if it has one, is for another
 * access. */
struct emit_rm context_operand_alone(struct context *c, struct slow_path *slow);
/* The same for 8 bytes at [base + displacement]. */
struct emit_rm context_stack(struct context *c, struct slow_path *slow, unsigned base,
                             int32_t displacement, bool write);
/* Behind the instruction: where slow paths of a run resume. */
void context_run_end(struct context *c);
/* Or it is the slow path. Spoils T1 and flags. */
void context_slow_unless_canonical(struct context *c, struct slow_path *slow, unsigned reg);
/* Runs the handler in line; leaves the block after it where `exits`. */
void context_call_handler(struct context *c, bool exits);
/* For handlers: a copy of an instruction that stays. */
const struct insn *context_keep(struct context *c, const struct insn *insn);

/*
 * Copies. A guest register that lives in the frame is loaded for each instruction that reads it,
 * but where T1 or T2 still has its value: from an instruction before, and no other has named that
 * host register since (emit.h says), nor does any way lead in here from elsewhere (whoever emits
 * one forgets). The frame always has the value too: what is written is stored at once.
 *
 * Such a store is taken out again when the register is written once more, if nobody can have read
 * it: no instruction in between does (context_in_frame), and nothing refers to the code from there
 * on (emit_cut), so it has no branch, by which alone C is reached.
 */
static inline struct unread *context_unread(struct context *c, unsigned gpr)
{
    return &c->unread[frame_index(gpr)];
}

/* Whoever reads the register's place in the frame, or writes it but by context_put. */
static inline struct emit_rm context_in_frame(struct context *c, unsigned gpr)
{
    context_unread(c, gpr)->to = 0;
    return rm_gpr(gpr);
}

static inline bool context_has_copy(const struct context *c, unsigned gpr, unsigned in)
{
    return c->keeps_copies && c->copies[in - T1] == gpr && (c->e.spoilt >> in & 1) == 0;
}

static inline void context_forget_copies(struct context *c)
{
    c->e.spoilt |= 1u << T1 | 1u << T2;
}

/* `in`, T1 or T2 (else nothing is noted), has the value of gpr. */
static inline void context_note_copy(struct context *c, unsigned gpr, unsigned in)
{
    if (in != T1 && in != T2)
        return;
    c->copies[in - T1] = (uint8_t)gpr;
    c->e.spoilt &= ~(1u << in);
}

/* The host register to use for a guest register: its own, or `scratch`. */
static inline unsigned context_get(struct context *c, unsigned gpr, unsigned scratch)
{
    unsigned host = host_of(gpr);
    if (host != HOST_NONE)
        return host;
    unsigned from = context_has_copy(c, gpr, T1) ? T1 : T2;
    if (context_has_copy(c, gpr, from)) {
        if (from == scratch)
            return scratch;
        emit_mov(&c->e, scratch, from);
        context_note_copy(c, gpr, from);
    } else {
        emit_load(&c->e, scratch, context_in_frame(c, gpr));
    }
    context_note_copy(c, gpr, scratch);
    return scratch;
}

/* The same for a register that is only written. */
static inline unsigned context_place(unsigned gpr, unsigned scratch)
{
    unsigned host = host_of(gpr);
    return host != HOST_NONE ? host : scratch;
}

static inline void context_cut_unread(struct context *c, unsigned gpr)
{
    const struct unread cut = *context_unread(c, gpr);
    if (cut.to == 0 || !emit_cut(&c->e, cut.from, cut.to))
        return;
    for (unsigned i = 0; i < FRAME_GPR_COUNT; i++) {
        struct unread *store = &c->unread[i];
        if (store->to > cut.to) {
            store->from -= cut.to - cut.from;
            store->to -= cut.to - cut.from;
        }
    }
}

static inline void context_put(struct context *c, unsigned gpr, unsigned from)
{
    if (host_of(gpr) != HOST_NONE)
        return;
    context_cut_unread(c, gpr);
    struct unread *store = context_unread(c, gpr);
    store->from = emit_mark(&c->e);
    emit_store(&c->e, rm_gpr(gpr), from);
    store->to = emit_mark(&c->e);
    for (unsigned in = T1; in <= T2; in++) {
        if (c->copies[in - T1] == gpr)
            c->e.spoilt |= 1u << in;
    }
    context_note_copy(c, gpr, from);
}

/* What an instruction wants of the flags before anything else, for the entry of a block. */
enum flags_need { FLAGS_INDIFFERENT, FLAGS_HOST, FLAGS_SAVED, FLAGS_OVERWRITTEN };

/* integer.c */
bool integer_emit(struct context *c);
enum flags_need integer_need(const struct insn *insn);
/* Bytes that its memory operand is written, 0: none. Pushes aside. */
unsigned integer_store_size(const struct insn *insn);

/* What an instruction does, if it is a simple one: of explicit operands, or none of the guest's
 * general registers, and nothing can happen to it but a fault of its memory operand. */
struct insn_effects {
    bool reads_flags, writes_flags; /* reads: or keeps some */
    bool loads, stores;
    uint8_t memory_size, alignment_mask;
    unsigned used, written; /* guest registers, bit by number; used: all that it names */
};
bool integer_effects(const struct insn *insn, struct insn_effects *effects);
bool vector_effects(const struct insn *insn, struct insn_effects *effects);

/* loop.c. Looks at the first block, before it is translated; and out of line, what comes before the
 * edge where it leads back to the start of a loop. */
void loop_begin(struct context *c, const struct block *block);
void loop_emit(struct context *c, struct edge *edge);

/* Nobody can see what the instruction leaves in the flags: they are all written again before
 * anything that could fault, read them or leave. */
bool flags_are_dead(const struct context *c);

/* divide.c: DIV, IDIV. */
bool divide_is_inline(const struct insn *insn);
void divide_emit(struct context *c);

/* What these emit, lock-step mode cannot check: translate_is_inline does not count it. */
/* string.c: REP STOS and REP MOVS. */
bool string_is_inline(const struct insn *insn);
void string_emit(struct context *c);

/* bits.c: bit strings, CMPXCHG8B and 16B. */
bool bits_is_inline(const struct insn *insn);
void bits_emit(struct context *c);

/* stack.c: PUSH, POP, LEAVE. */
bool stack_is_inline(const struct insn *insn);
void stack_emit(struct context *c);

/* vector.c, as integer.c */
bool vector_emit(struct context *c);
enum flags_need vector_need(const struct insn *insn);
unsigned vector_store_size(const struct insn *insn);
unsigned vector_memory_size(const struct insn *insn);
bool vector_is_inline(const struct insn *insn);
unsigned vector_level(const struct insn *insn); /* enum vectors_level that it needs */

/* vector_state.c */
/* From here on the registers of this level are in the CPU. Spoils T1, and flags that are in their
 * slot. */
void vectors_require(struct context *c, unsigned level);
void vectors_load_emit(struct context *c, const struct vectors_load *load);

/* privileged.c: system instructions; is_last: no other instruction follows in the block */
bool privileged_emit(struct context *c, bool is_last);

/* level.c: SYSCALL and SYSRET, which end a block. */
bool level_emit(struct context *c);

/* entry.c */
/* Where the body wants the flags saved, right before it: most who come have them in the CPU. */
void entry_emit_saving(struct context *c);
void entry_emit_loop(struct context *c, const struct block *block, enum flags_need need);
void entry_emit(struct context *c, enum flags_need need, uint32_t body);

/* block.c: STAC, CLAC. */
bool translate_changes_privilege(const struct insn *insn);

/* trace.c: finds what is to be translated, from this block on: insns, and what goes with them. */
void trace_find(struct context *c, const struct block *block);
/* The way on from a branch at `from` does not follow in line, but it will once it has been run. */
bool trace_may_grow(const struct context *c, uint64_t from, uint64_t to);

/* flow.c: near branches, calls, returns. False: it is none of them. c->next_rip becomes where it
 * goes on in line, if it does. */
bool flow_emit(struct context *c);
bool flow_is_direct(const struct insn *insn); /* of what flow_is_inline holds for */
/* Both where a direct branch leads to and what comes next: else its handler may raise a fault. */
bool flow_is_canonical(const struct insn *insn, uint64_t next_rip);
/* In the same page, and whole in it: an instruction there might cross into the next. */
bool flow_is_linked(const struct context *c, uint64_t target);
bool flow_is_inline(const struct insn *insn);
void flow_emit_loops(struct context *c); /* second copies of loops (loop.c) */
void flow_emit_rest(struct context *c);  /* aside, before the slow paths */
/* Where nothing else ends the block. */
void flow_edge(struct context *c, uint64_t target);
/* T0 = RIP, flags in the slot, everything done: goes there, at c->privilege. */
void flow_go(struct context *c);

#endif
