/* Slow paths, and memory operands: with a probe of their own (probe.c), or of a run. See context.h.
 */

#include "cpu/translate/context.h"

/* ------------------------------------------------------------------------- slow paths */

const struct insn *context_keep(struct context *c, const struct insn *insn)
{
    struct insn *copy = ring_allocate(c->translate, sizeof(*copy));
    *copy = *insn;
    return copy;
}

static struct slow_path *slow_new(struct context *c)
{
    struct slow_path *slow = &c->slow[c->slow_count++];
    unsigned end = c->runs.end[c->index], last = c->count - 1u;
    *slow = (struct slow_path){.rip = c->rip, .index = (uint8_t)c->index, .end = (uint8_t)end};
    slow->exits = end > c->index && end == last && flow_is_inline(&c->insns[last]);
    return slow;
}

struct slow_path *context_slow_begin(struct context *c)
{
    struct slow_path *slow = slow_new(c);
    context_flags_save(c);
    return slow;
}

/* The run that begins with this instruction, or RUN_NONE. */
static unsigned run_begun(const struct context *c)
{
    unsigned number = c->runs.run[c->index];
    return number != RUN_NONE && c->runs.runs[number].first == c->index ? number : RUN_NONE;
}

static bool is_direct_run(const struct context *c, unsigned number)
{
    return number != RUN_NONE && c->translation->is_direct;
}

bool context_may_miss(const struct context *c, unsigned alignment)
{
    unsigned number = c->runs.run[c->index];
    if (c->operand.is_memory)
        return false;
    return alignment != 0 || number == RUN_NONE || run_begun(c) != RUN_NONE ||
           is_direct_run(c, number);
}

struct slow_path *context_slow_begin_spare(struct context *c)
{
    struct slow_path *slow = slow_new(c);
    flags_spare(c, slow);
    return slow;
}

/* The access, if it is of no run, may be a direct one. */
static bool may_be_direct(const struct context *c)
{
    return c->translation->is_direct &&
           direct_is_wanted(c->translate,
                            translation_gpa(c->translation) + (c->rip - c->translation->rip));
}

struct slow_path *context_slow_begin_operand(struct context *c, unsigned alignment)
{
    struct slow_path *slow = slow_new(c);
    unsigned number = c->runs.run[c->index];
    if (alignment == 0 && (number != RUN_NONE ? is_direct_run(c, number) : may_be_direct(c)))
        flags_spare_carry(c, slow, number == RUN_NONE || run_begun(c) != RUN_NONE);
    else
        flags_spare(c, slow);
    return slow;
}

void context_slow_jump(struct context *c, struct slow_path *slow, unsigned condition)
{
    slow->jumps[slow->jump_count++] = emit_jcc(&c->e, condition);
}

void context_slow_end(struct context *c, struct slow_path *slow)
{
    if (slow == NULL)
        return;
    context_forget_copies(c);
    slow->vectors = (uint8_t)c->vectors;
    if (slow->end == c->index)
        slow->resume = emit_offset(&c->e);
    /* Else context_run_end will. What T0 holds of a run is lost in C; what the frame has is not. */
    else if (slow->run.span == 0 && c->held == RUN_NONE)
        slow->alone = emit_offset(&c->e);
}

void context_run_end(struct context *c)
{
    for (unsigned i = c->slow_count; i-- > 0 && c->slow[i].end == c->index;) {
        if (c->slow[i].resume == 0)
            context_slow_end(c, &c->slow[i]);
    }
}

void context_slow_unless_canonical(struct context *c, struct slow_path *slow, unsigned reg)
{
    emit_compare_canonical(&c->e, T1, reg);
    context_slow_jump(c, slow, CONDITION_NE);
}

static int32_t frame_slot(const struct run *run)
{
    return FRAME_RUNS + 8 * run->slot;
}

/* C does the first access of a direct run, whose address was of no use. So that the others fault,
 * each for itself, they get one where nothing is. */
static void forget_direct_run(struct context *c, unsigned index)
{
    unsigned number = c->runs.run[index];
    if (!is_direct_run(c, number))
        return;
    const struct run *run = &c->runs.runs[number];
    if (run->first != index)
        return;
    emit_op(&c->e, EMIT_W, 0xc7, 0, rm_at(HOST_RSP, frame_slot(run)));
    emit_u32(&c->e, 0);
}

uint32_t context_slow_emit(struct context *c, const struct slow_path *slow, unsigned number)
{
    struct emit *e = &c->e;
    uint32_t misses[SLOW_LOOKS];
    for (unsigned i = 0; i < slow->look_count; i++) {
        context_look_emit(c, &slow->looks[i]);
        if (i + 1 < slow->look_count)
            misses[i] = emit_jmp(e);
    }
    for (unsigned i = 0; i + 1 < slow->look_count; i++)
        emit_link(e, misses[i], emit_offset(e));
    for (unsigned i = 0; i < slow->jump_count; i++)
        emit_link(e, slow->jumps[i], emit_offset(e));
    forget_direct_run(c, slow->index);
    uint32_t way = emit_offset(e);
    flags_emit_slow(c, slow);
    emit_constant(e, T0, ref_of(c->translate, c->translation) << SLOW_KEY_BITS | number);
    emit_jmp_to(e, c->translate->slow[slow->vectors]);
    return way;
}

void context_call_handler(struct context *c, bool exits)
{
    const struct insn *copy = context_keep(c, c->insn);
    struct emit *e = &c->e;
    context_flags_save(c);
    emit_constant(e, T0, (uint64_t)(uintptr_t)copy);
    emit_rip(e, c->translation, T1, c->rip);
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -8));
    emit_call_to(e, exits ? c->translate->call_handler_exit : c->translate->call_handler);
    if (!exits)
        emit_lea(e, HOST_RSP, rm_at(HOST_RSP, 8));
    c->in_host = false;
    c->vectors = VECTORS_NONE;
}

/* ------------------------------------------------------------------------- operands */

/* The run has just been probed, at its first access: T0 is where it begins. */
static void hold_run(struct context *c, struct slow_path *slow, unsigned number)
{
    slow->run = c->runs.runs[number];
    slow->at = c->runs.at[c->index];
    emit_store(&c->e, rm_at(HOST_RSP, frame_slot(&c->runs.runs[number])), T0);
    c->held = number;
}

/* Its run has been probed: T0 = where it begins. */
static void take_run(struct context *c, unsigned number)
{
    if (c->held != number)
        emit_load(&c->e, T0, rm_at(HOST_RSP, frame_slot(&c->runs.runs[number])));
    c->held = number;
}

/* A host address has the bits below a page's of the linear one. */
static void require_aligned(struct context *c, struct slow_path *slow, struct emit_rm rm,
                            unsigned alignment)
{
    struct emit *e = &c->e;
    unsigned reg = T0;
    if (alignment == 0)
        return;
    c->in_host = false;
    if (rm.displacement != 0)
        emit_lea(e, reg = T1, rm);
    emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(reg)); /* test */
    emit_u8(e, alignment);
    context_slow_jump(c, slow, CONDITION_NE);
}

/* A direct run. Its first access leaves its host address in the frame, checked as that of a direct
 * access; the others are some bytes from there (window_has_place), and may fault. */
static struct emit_rm direct_run_first(struct context *c, unsigned number, struct emit_rm rm)
{
    emit_store(&c->e, rm_at(HOST_RSP, frame_slot(&c->runs.runs[number])), T0);
    return rm;
}

static struct emit_rm direct_run_later(struct context *c, struct slow_path *slow, unsigned number)
{
    context_direct_mark(c, slow);
    take_run(c, number);
    c->held = RUN_NONE;
    return rm_at(T0, c->runs.at[c->index] - c->runs.at[c->runs.runs[number].first]);
}

struct emit_rm context_operand(struct context *c, struct slow_path *slow, unsigned size, bool write,
                               unsigned alignment)
{
    unsigned number = c->runs.run[c->index];
    struct emit_rm rm = rm_at(T0, 0);
    if (c->operand.is_memory)
        return c->operand;
    if (is_direct_run(c, number)) {
        rm = run_begun(c) != RUN_NONE ? direct_run_first(c, number, context_direct_operand(c, slow))
                                      : direct_run_later(c, slow, number);
    } else if (number == RUN_NONE) {
        rm = may_be_direct(c) ? context_direct_operand(c, slow)
                              : context_probe_operand(c, slow, size, write);
    } else {
        rm.displacement = c->runs.at[c->index];
        if (run_begun(c) != RUN_NONE) {
            const struct insn *insn = c->insn;
            struct insn first = *insn;
            first.displacement -= rm.displacement;
            const struct run *run = &c->runs.runs[number];
            c->insn = &first;
            struct emit_rm start = context_probe_operand(c, slow, run->span, run->writes);
            c->insn = insn;
            if (start.displacement != 0)
                emit_lea(&c->e, T0, start);
            hold_run(c, slow, number);
        } else {
            take_run(c, number);
        }
    }
    require_aligned(c, slow, rm, alignment);
    return rm;
}

struct emit_rm context_operand_alone(struct context *c, struct slow_path *slow)
{
    return may_be_direct(c) ? context_direct_operand(c, slow)
                            : context_probe_operand(c, slow, 8, false);
}

struct emit_rm context_stack(struct context *c, struct slow_path *slow, unsigned base,
                             int32_t displacement, bool write)
{
    unsigned number = c->runs.run[c->index];
    if (is_direct_run(c, number))
        return run_begun(c) != RUN_NONE
                   ? direct_run_first(c, number, context_direct_base(c, slow, base, displacement))
                   : direct_run_later(c, slow, number);
    if (number == RUN_NONE && may_be_direct(c))
        return context_direct_base(c, slow, base, displacement);
    if (number == RUN_NONE) {
        c->held = RUN_NONE;
        context_probe_base(c, slow, base, displacement, 8, write);
        return rm_at(T0, 0);
    }
    int32_t at = c->runs.at[c->index];
    if (run_begun(c) != RUN_NONE) {
        const struct run *run = &c->runs.runs[number];
        context_probe_base(c, slow, base, displacement - at, run->span, run->writes);
        hold_run(c, slow, number);
    } else {
        take_run(c, number);
    }
    return rm_at(T0, at);
}
