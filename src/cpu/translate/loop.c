/*
 * Loops over arrays.
 *
 * A loop of one block whose memory operands advance by constants needs its TLB probes once a page,
 * not once an iteration. So behind its backward branch stands a second copy of it:
 *
 *      flags to their slot; attention?
 *      for each group of operands that are near each other: one probe; a borrowed register gets
 *          what has to be added to [varying register * scale + displacement] for the host address;
 *          how far the group may advance before it leaves its page
 *      another borrowed register: the least of these
 *  top:
 *      the instructions, with [borrowed + varying * scale + displacement]
 *      before one that overwrites all flags: the counter goes down; at its end, to the same place
 *          in the first copy
 *      the branch to top; where it is not taken, a link to what follows it
 *
 * A short loop comes four times in a row before the branch to top, with one look at the counter.
 * What that leaves of the page is done by the same, once in a row.
 *
 * Borrowed are guest registers that the loop does not use; they are in struct vcpu meanwhile. In
 * the second copy nothing can fault or miss, and it ends after a page at most, so all is as exact
 * as in the first. Whatever is not simple enough, in the block or in the operands' addresses now,
 * is done by the first copy alone.
 */

#include <Zydis/Zydis.h>

#include "cpu/translate/context.h"

#define GROUPS_MAX     6u
#define GROUP_SPAN     512 /* bytes that operands of one group may be apart */
#define ITERATIONS     8u  /* that are worth it */
#define NO_REGISTER    0xff
#define ITERATION_MAX  4096
#define UNROLLED       4u  /* iterations in a row with one check, */
#define UNROLLED_INSNS 12u /* of loops no longer than this */

/* Operands [invariant + varying << scale + displacement] in one page. */
struct group {
    uint8_t varying, scale;           /* a guest register that advances, or NO_REGISTER */
    uint8_t base, index, index_scale; /* of the invariant part; NO_REGISTER: none */
    int64_t step;                     /* bytes an iteration */
    int64_t lo, hi; /* first and last byte, from what the varying part is at the top */
    bool loads, stores;
    uint8_t alignment_mask;
    int64_t aligned; /* the displacement that it is for */
    uint8_t host;    /* borrowed */
};

struct access {
    uint8_t group;
    bool is_memory;
    struct emit_rm rm;
};

struct loop {
    const struct insn *insns;
    unsigned count, writer;
    struct insn_effects effects[BLOCK_MAX_INSNS];
    struct access accesses[BLOCK_MAX_INSNS];
    struct group groups[GROUPS_MAX];
    unsigned group_count;
    unsigned used, written; /* guest registers */
    int64_t steps[GPR_COUNT];
    unsigned advancing;    /* guest registers that do nothing else but advance by steps[] */
    uint64_t counter_step; /* the largest of the groups' */
    uint8_t counter;       /* borrowed */
    unsigned borrowed;     /* guest registers */
};

/* ------------------------------------------------------------------------- is it one */

static uint64_t distance(int64_t step)
{
    return step < 0 ? -(uint64_t)step : (uint64_t)step;
}

/* A constant that is added to a 64-bit register; 0: it is something else. */
static int64_t advance_of(const struct insn *insn)
{
    if (insn->op[0].kind != OPERAND_GPR || insn->op[0].size != 8 || insn->prefixes & INSN_LOCK)
        return 0;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_INC:
        return 1;
    case ZYDIS_MNEMONIC_DEC:
        return -1;
    case ZYDIS_MNEMONIC_ADD:
        return insn->op[1].kind == OPERAND_IMMEDIATE ? (int64_t)insn->immediate : 0;
    case ZYDIS_MNEMONIC_SUB:
        return insn->op[1].kind == OPERAND_IMMEDIATE ? -(int64_t)insn->immediate : 0;
    case ZYDIS_MNEMONIC_LEA:
        return insn->base == insn->op[0].reg && insn->index == INSN_REG_NONE &&
                       insn->address_size == 8
                   ? insn->displacement
                   : 0;
    default:
        return 0;
    }
}

static bool is_overwriter(const struct insn_effects *effects)
{
    return effects->writes_flags && !effects->reads_flags;
}

/* What the instructions do to registers and flags. */
static bool find_effects(struct loop *loop)
{
    bool overwritten = false;
    unsigned not_advancing = 0;
    loop->writer = loop->count;
    for (unsigned i = 0; i < loop->count; i++) {
        const struct insn *insn = &loop->insns[i];
        struct insn_effects *effects = &loop->effects[i];
        if (!integer_effects(insn, effects) && !vector_effects(insn, effects))
            return false;
        if (effects->reads_flags && !overwritten)
            return false;
        if (is_overwriter(effects)) {
            overwritten = true;
            if (effects->memory_size == 0)
                loop->writer = i;
        }
        loop->used |= effects->used;
        loop->written |= effects->written;
        int64_t advance = advance_of(insn);
        if (advance == 0)
            not_advancing |= effects->written;
        else if (distance(advance) > PAGE_SIZE)
            return false;
        else
            loop->steps[insn->op[0].reg] += advance;
    }
    loop->advancing = loop->written & ~not_advancing;
    return loop->writer < loop->count;
}

static bool is_invariant(const struct loop *loop, unsigned gpr)
{
    return gpr >= GPR_COUNT || !(loop->written >> gpr & 1);
}

static bool is_varying(const struct loop *loop, unsigned gpr)
{
    return gpr < GPR_COUNT && loop->advancing >> gpr & 1 && host_of(gpr) != HOST_NONE;
}

/* The operand as a group of its own. */
static bool describe_access(const struct loop *loop, unsigned i, const int64_t *advanced,
                            struct group *group)
{
    const struct insn *insn = &loop->insns[i];
    const struct insn_effects *effects = &loop->effects[i];
    *group = (struct group){.varying = NO_REGISTER,
                            .base = insn->base < GPR_COUNT ? insn->base : NO_REGISTER,
                            .index = insn->index < GPR_COUNT ? insn->index : NO_REGISTER,
                            .index_scale = insn->scale,
                            .loads = effects->loads,
                            .stores = effects->stores};
    if (insn->address_size != 8 || insn->seg >= SEG_FS || insn->base == INSN_REG_RIP)
        return false;
    int64_t displacement = insn->displacement;
    if (is_varying(loop, group->base) && is_invariant(loop, group->index)) {
        group->varying = group->base;
        group->base = NO_REGISTER;
    } else if (is_varying(loop, group->index) && is_invariant(loop, group->base)) {
        group->varying = group->index;
        group->scale = group->index_scale;
        group->index = NO_REGISTER;
    } else if (!is_invariant(loop, group->base) || !is_invariant(loop, group->index)) {
        return false;
    }
    if (group->varying != NO_REGISTER) {
        group->step = loop->steps[group->varying] * ((int64_t)1 << group->scale);
        displacement += advanced[group->varying] * ((int64_t)1 << group->scale);
    }
    unsigned mask = effects->alignment_mask;
    group->alignment_mask = (uint8_t)mask;
    group->aligned = displacement;
    group->lo = displacement;
    group->hi = displacement + effects->memory_size - 1;
    return displacement == (int32_t)displacement && (group->step & mask) == 0;
}

static bool joins(struct group *to, const struct group *from)
{
    int64_t lo = to->lo < from->lo ? to->lo : from->lo;
    int64_t hi = to->hi > from->hi ? to->hi : from->hi;
    if (to->varying != from->varying || to->scale != from->scale || to->base != from->base ||
        to->index != from->index || to->index_scale != from->index_scale || hi - lo >= GROUP_SPAN ||
        (to->alignment_mask != 0 && from->alignment_mask != 0 &&
         (to->alignment_mask != from->alignment_mask ||
          ((to->aligned - from->aligned) & to->alignment_mask) != 0)))
        return false;
    to->lo = lo;
    to->hi = hi;
    to->loads |= from->loads;
    to->stores |= from->stores;
    if (from->alignment_mask != 0) {
        to->alignment_mask = from->alignment_mask;
        to->aligned = from->aligned;
    }
    return true;
}

static bool find_groups(struct loop *loop)
{
    int64_t advanced[GPR_COUNT] = {0};
    for (unsigned i = 0; i < loop->count; i++) {
        const struct insn *insn = &loop->insns[i];
        if (loop->effects[i].memory_size != 0) {
            struct group group;
            if (!describe_access(loop, i, advanced, &group))
                return false;
            unsigned g = 0;
            while (g < loop->group_count && !joins(&loop->groups[g], &group))
                g++;
            if (g == GROUPS_MAX)
                return false;
            if (g == loop->group_count)
                loop->groups[loop->group_count++] = group;
            loop->accesses[i].is_memory = true;
            loop->accesses[i].group = (uint8_t)g;
        }
        int64_t advance = advance_of(insn);
        if (advance != 0)
            advanced[insn->op[0].reg] += advance;
    }
    return loop->group_count != 0;
}

/* The counter counts in the longest steps; all others must go into it in powers of two. */
static bool find_counter(struct loop *loop)
{
    for (unsigned g = 0; g < loop->group_count; g++) {
        uint64_t step = distance(loop->groups[g].step);
        if (step > loop->counter_step)
            loop->counter_step = step;
    }
    for (unsigned g = 0; g < loop->group_count; g++) {
        uint64_t step = distance(loop->groups[g].step);
        if (step != 0 && (loop->counter_step % step != 0 ||
                          __builtin_popcountll(loop->counter_step / step) != 1))
            return false;
    }
    if (loop->counter_step == 0)
        loop->counter_step = 1;
    return loop->counter_step <= PAGE_SIZE / ITERATIONS;
}

static bool borrow(struct loop *loop, uint8_t *host)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++) {
        if (host_of(gpr) == HOST_NONE || (loop->used | loop->written | loop->borrowed) >> gpr & 1)
            continue;
        loop->borrowed |= 1u << gpr;
        *host = (uint8_t)host_of(gpr);
        return true;
    }
    return false;
}

static bool find_registers(struct loop *loop)
{
    if (!borrow(loop, &loop->counter))
        return false;
    for (unsigned g = 0; g < loop->group_count; g++) {
        if (!borrow(loop, &loop->groups[g].host))
            return false;
    }
    for (unsigned i = 0; i < loop->count; i++) {
        struct access *access = &loop->accesses[i];
        if (!access->is_memory)
            continue;
        const struct group *group = &loop->groups[access->group];
        access->rm = rm_at(group->host, (int32_t)loop->insns[i].displacement);
        if (group->varying != NO_REGISTER) {
            access->rm.index = (uint8_t)host_of(group->varying);
            access->rm.scale = group->scale;
        }
    }
    return true;
}

static bool analyze(struct loop *loop, const struct context *c)
{
    *loop = (struct loop){.insns = c->loop, .count = c->loop_count};
    return find_effects(loop) && find_groups(loop) && find_counter(loop) && find_registers(loop);
}

void loop_begin(struct context *c, const struct block *block)
{
    const struct insn *last = &block->insns[block->count - 1];
    if (block->count < 2 || !flow_is_jcc(last) || !flow_is_inline(last) ||
        last->immediate != -(uint64_t)block->bytes || c->translate->is_lockstep ||
        c->privilege == MMU_USER_CHECKED)
        return;
    c->loop_count = block->count - 1u;
    c->loop_branch = c->rip + block->bytes - last->length;
    memcpy(c->loop, block->insns, block->count * sizeof(block->insns[0]));
    struct loop loop;
    if (!analyze(&loop, c))
        c->loop_count = 0;
    c->loop_writer = loop.writer;
}

/* ------------------------------------------------------------------------- emission */

struct fails {
    uint32_t at[GROUPS_MAX * 5 + 2];
    unsigned count;
};

static void fail_if(struct emit *e, struct fails *fails, unsigned condition)
{
    fails->at[fails->count++] = emit_jcc(e, condition);
}

static void emit_borrow(struct emit *e, const struct loop *loop)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++) {
        if (loop->borrowed >> gpr & 1)
            emit_store(e, rm_vcpu_gpr(gpr), host_of(gpr));
    }
}

static void emit_return(struct emit *e, const struct loop *loop)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++) {
        if (loop->borrowed >> gpr & 1)
            emit_load(e, host_of(gpr), rm_vcpu_gpr(gpr));
    }
}

/* group->host = the invariant part, T0 = the linear address of its first byte at the top. */
static void emit_group_address(struct context *c, const struct group *group)
{
    struct emit *e = &c->e;
    struct emit_rm rm = rm_at(HOST_NONE, 0);
    if (group->base != NO_REGISTER)
        rm.reg = (uint8_t)context_get(c, group->base, T0);
    if (group->index != NO_REGISTER) {
        rm.index = (uint8_t)context_get(c, group->index, T1);
        rm.scale = group->index_scale;
    }
    emit_lea(e, group->host, rm);
    rm = rm_at(group->host, (int32_t)group->lo);
    if (group->varying != NO_REGISTER) {
        rm.index = (uint8_t)host_of(group->varying);
        rm.scale = group->scale;
    }
    emit_lea(e, T0, rm);
}

/* T0 = what is left of the page in the direction of the group, less the group, in steps of the
 * counter; it is taken into the counter. */
static void emit_group_room(struct emit *e, const struct loop *loop, const struct group *group,
                            struct fails *fails)
{
    uint32_t last = (uint32_t)(PAGE_MASK - (uint64_t)(group->hi - group->lo));
    emit_alu_immediate(e, 4, 4, rm_reg(T0), PAGE_MASK);
    emit_alu_immediate(e, 7, 4, rm_reg(T0), last);
    fail_if(e, fails, CONDITION_A);
    if (group->step == 0)
        return;
    if (group->step > 0) {
        emit_op(e, 0, 0xf7, 3, rm_reg(T0)); /* neg */
        emit_alu_immediate(e, 0, 4, rm_reg(T0), last);
    }
    unsigned shift = (unsigned)__builtin_ctzll(loop->counter_step / distance(group->step));
    if (shift != 0) {
        emit_op(e, 0, 0xc1, 4, rm_reg(T0)); /* shl */
        emit_u8(e, shift);
    }
    emit_op(e, 0, 0x39, loop->counter, rm_reg(T0));   /* cmp T0, counter */
    emit_op(e, 0, 0x0f42, loop->counter, rm_reg(T0)); /* cmovb */
}

/* group->host += the addend of T0's page, if its tag says so and `adds`. Spoils T1, T2. */
static void emit_group_probe(struct context *c, const struct group *group, bool write, bool adds,
                             struct fails *fails)
{
    struct emit_rm addend = context_probe_tag(c, rm_at(T0, 0), write);
    fail_if(&c->e, fails, CONDITION_NE);
    if (adds)
        emit_op(&c->e, EMIT_W, 0x03, group->host, addend);
}

static void emit_group(struct context *c, const struct loop *loop, const struct group *group,
                       struct fails *fails)
{
    struct emit *e = &c->e;
    emit_group_address(c, group);
    if (group->alignment_mask != 0) {
        emit_lea(e, T1, rm_at(T0, (int32_t)(group->aligned - group->lo)));
        emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(T1)); /* test */
        emit_u8(e, group->alignment_mask);
        fail_if(e, fails, CONDITION_NE);
    }
    if (group->loads)
        emit_group_probe(c, group, false, !group->stores, fails);
    if (group->stores)
        emit_group_probe(c, group, true, true, fails);
    emit_group_room(e, loop, group, fails);
}

/* Where the counter is checked, and the branch for when it is at its end. */
struct check {
    uint32_t at, out;
};

/* One iteration. With a step it is taken from the counter, right before all flags are overwritten.
 */
static struct check emit_iteration(struct context *c, const struct loop *loop, uint64_t step)
{
    struct emit *e = &c->e;
    struct check check = {0, 0};
    context_flags_written(c);
    c->keeps_copies = true;
    context_forget_copies(c);
    c->rip = c->translation->rip;
    for (unsigned i = 0; i < loop->count; i++) {
        c->insn = &loop->insns[i];
        c->index = i;
        c->operand = loop->accesses[i].rm;
        c->next_rip = c->rip + c->insn->length;
        if (i == loop->writer && step != 0) {
            check.at = emit_offset(e);
            emit_alu_immediate(e, 5, 4, rm_reg(loop->counter), step); /* sub */
            check.out = emit_jcc(e, CONDITION_B);
            context_flags_written(c); /* all that the CPU had are about to be overwritten */
            context_forget_copies(c); /* who goes on with single iterations comes in here */
        }
        if (!integer_emit(c))
            vector_emit(c);
        c->rip = c->next_rip;
    }
    c->operand = (struct emit_rm){.is_memory = false};
    c->keeps_copies = false;
    context_flags_load(c);
    return check;
}

static void emit_second_copy(struct context *c, const struct loop *loop)
{
    struct emit *e = &c->e;
    unsigned condition = loop->insns[loop->count].condition;
    uint32_t ends[UNROLLED + 1], end_count = 0;
    uint64_t step = loop->counter_step;
    c->insns = loop->insns;
    c->count = loop->count + 1;

    /* UNROLLED iterations, one check. */
    struct check several = {0, 0};
    uint32_t top = emit_offset(e);
    if (loop->count <= UNROLLED_INSNS) {
        several = emit_iteration(c, loop, UNROLLED * step);
        for (unsigned i = 1; i < UNROLLED; i++) {
            ends[end_count++] = emit_jcc(e, condition ^ 1);
            emit_iteration(c, loop, 0);
        }
        emit_link(e, emit_jcc(e, condition), top);
        ends[end_count++] = emit_jmp(e);
    }
    /* One by one, from the check on. */
    top = emit_offset(e);
    struct check one = emit_iteration(c, loop, step);
    emit_link(e, emit_jcc(e, condition), top);
    for (unsigned i = 0; i < end_count; i++)
        emit_link(e, ends[i], emit_offset(e));
    emit_return(e, loop);
    flow_edge(c, c->loop_branch + loop->insns[loop->count].length);
    if (several.out != 0) {
        emit_link(e, several.out, emit_offset(e));
        emit_alu_immediate(e, 0, 4, rm_reg(loop->counter), UNROLLED * step); /* add */
        emit_jmp_to(e, one.at);
    }
    emit_link(e, one.out, emit_offset(e));
    emit_return(e, loop);
    emit_jmp_to(e, c->loop_offsets[loop->writer]);
}

void loop_emit(struct context *c, struct edge *edge)
{
    struct emit *e = &c->e;
    struct loop loop;
    struct fails fails = {.count = 0};
    if (c->loop_count == 0 || edge->rip != c->loop_branch || edge->target != c->translation->rip ||
        !analyze(&loop, c))
        return;
    const struct context before = {.rip = c->rip, .insn = c->insn, .vectors = c->vectors};
    c->in_host = edge->in_host;
    c->in_slot = edge->in_slot;
    c->vectors = edge->vectors;
    context_flags_save(c);
    emit_alu_immediate(e, 7, 4, rm_vcpu(offsetof(struct vcpu, attention)), 0);
    uint32_t away = emit_jcc(e, CONDITION_NE);
    emit_borrow(e, &loop);
    emit_constant(e, loop.counter, loop.counter_step * ITERATION_MAX);
    for (unsigned g = 0; g < loop.group_count; g++)
        emit_group(c, &loop, &loop.groups[g], &fails);
    emit_alu_immediate(e, 7, 4, rm_reg(loop.counter), loop.counter_step * ITERATIONS);
    fail_if(e, &fails, CONDITION_B);
    emit_second_copy(c, &loop);
    for (unsigned i = 0; i < fails.count; i++)
        emit_link(e, fails.at[i], emit_offset(e));
    emit_return(e, &loop);
    emit_link(e, away, emit_offset(e));
    edge->at = emit_jmp(e);
    edge->in_host = false;
    edge->in_slot = true;
    c->rip = before.rip;
    c->insn = before.insn;
    c->vectors = before.vectors;
}
