/*
 * Near branches, calls and returns: how one translation goes on to the next.
 *
 * A direct branch within the page becomes a link, if its way on does not follow in line (trace.c).
 * Everything else asks the jump cache (jump.c). It has been filled by the dispatcher, so whatever
 * is found there has been checked: canonical, mapped, executable. What is not found there is for
 * the dispatcher, after the branch; but an address that is not canonical goes to the instruction's
 * handler before anything of it has been done.
 *
 * Attention (see vcpu.h) is looked at on every way that can close a loop: where RIP is looked up in
 * the jump cache, and where a direct branch goes backward (entry.c). All else only makes RIP grow,
 * within a translation as well.
 */

#include "cpu/access.h"
#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"

static struct emit_rm attention(void)
{
    return rm_vcpu(offsetof(struct vcpu, attention));
}

bool flow_is_jcc(const struct insn *insn)
{
    return insn->exec == jcc_bind(insn);
}

static uint64_t direct_target(const struct context *c)
{
    return c->next_rip + c->insn->immediate;
}

/* The branch leads to its exit, here, until there is a translation to lead to. */
static void edge_linked(struct context *c, const struct edge *edge)
{
    struct emit *e = &c->e;
    struct translation *t = c->translation;
    struct link *link = ring_allocate(c->translate, sizeof(*link));
    ref back = ref_of(c->translate, link) - ref_of(c->translate, t);
    *link = (struct link){
        .at = (uint16_t)(edge->at - t->code),
        .unlinked = (uint16_t)(emit_offset(e) - t->aside),
        .back = back & 0xfff,
        .target = edge->target & PAGE_MASK,
        .privilege = edge->privilege & 3u,
        .in_host = edge->in_host,
        .in_slot = edge->in_slot,
        .is_backward = edge->target <= edge->rip,
        .may_follow = edge->may_follow,
        .vectors = edge->vectors & 3u,
    };
    if (t->link_count++ == 0)
        t->links = (uint16_t)back;
    emit_constant(e, T0, ref_of(c->translate, link));
    emit_jmp_to(e, edge->in_slot ? c->translate->exit_link_saved : c->translate->exit_link_host);
}

/* A direct jump to another page. */
static void edge_far(struct context *c, uint64_t target)
{
    struct emit *e = &c->e;
    context_flags_save(c);
    c->in_host = false;
    emit_rip(e, c->translation, T0, target);
    if (c->translation->is_relative) {
        flow_go(c);
        return;
    }
    emit_constant(e, T2, (uint64_t)(uintptr_t)jump_entry(c->translate, c->privilege, target));
    emit_op(e, EMIT_W, 0x3b, T0, rm_at(T2, offsetof(struct jump, rip)));
    emit_link(e, emit_jcc(e, CONDITION_NE), c->translate->exit_jump);
    if (target <= c->rip) {
        emit_alu_immediate(e, 7, 4, attention(), 0);
        emit_link(e, emit_jcc(e, CONDITION_NE), c->translate->exit_jump);
    }
    emit_op(e, 0, 0xff, 4, rm_at(T2, offsetof(struct jump, code)));
}

bool flow_is_linked(const struct context *c, uint64_t target)
{
    return (target ^ c->translation->rip) >> PAGE_SHIFT == 0 &&
           (target & PAGE_MASK) <= PAGE_SIZE - INSN_MAX_LENGTH;
}

static void add_edge(struct context *c, uint32_t at, uint64_t target)
{
    c->edges[c->edge_count++] = (struct edge){.at = at,
                                              .in_host = c->in_host,
                                              .in_slot = c->in_slot,
                                              .vectors = (uint8_t)c->vectors,
                                              .privilege = (uint8_t)c->privilege,
                                              .rip = c->rip,
                                              .target = target};
}

void flow_edge(struct context *c, uint64_t target)
{
    if (flow_is_linked(c, target))
        add_edge(c, emit_jmp(&c->e), target);
    else
        edge_far(c, target);
}

void flow_emit_loops(struct context *c)
{
    for (unsigned i = 0; i < c->edge_count; i++) {
        struct edge *edge = &c->edges[i];
        uint32_t at = edge->at, copy = emit_offset(&c->e);
        c->privilege = edge->privilege; /* blocks in line may have ended at another one */
        loop_emit(c, edge);
        if (edge->at != at)
            emit_link(&c->e, at, copy);
    }
}

static void emit_edges(struct context *c)
{
    for (unsigned i = 0; i < c->edge_count; i++) {
        struct edge *edge = &c->edges[i];
        emit_link(&c->e, edge->at, emit_offset(&c->e));
        c->privilege = edge->privilege;
        c->in_host = edge->in_host;
        c->in_slot = edge->in_slot;
        c->recipe.kind = RECIPE_NONE;
        c->rip = edge->rip;
        if (flow_is_linked(c, edge->target))
            edge_linked(c, edge);
        else
            edge_far(c, edge->target);
    }
}

/* Goes on at rip: in line, or by an edge. */
static void go_on(struct context *c, uint64_t rip)
{
    if ((c->follows >> c->index & 1) == 0) {
        flow_edge(c, rip);
        if (trace_may_grow(c, c->rip, rip))
            c->edges[c->edge_count - 1].may_follow = true;
    }
    c->next_rip = rip;
}

/* T0 has a RIP: [T2 + 8 * T1] is its entry in the jump cache, if equal. */
static void emit_jump_entry(struct context *c)
{
    struct emit *e = &c->e;
    _Static_assert(sizeof(struct jump) == 16, "slots are counted in halves of an entry");
    context_shifted(c, T1, T0, JUMP_SHIFT);
    emit_op(e, 0, 0x33, T1, rm_reg(T0));
    emit_op(e, 0, 0x23, T1, rm_vcpu(offsetof(struct vcpu, mmu.jump_mask)));
    emit_constant(e, T2, (uint64_t)(uintptr_t)c->translate->jumps[c->privilege].jumps);
    emit_op(e, EMIT_W, 0x3b, T0, rm_jump(offsetof(struct jump, rip)));
}

/* The same, or it is the slow path. */
static void emit_jump_lookup(struct context *c, struct slow_path *slow)
{
    struct emit *e = &c->e;
    emit_jump_entry(c);
    c->jump_miss = emit_jcc(e, CONDITION_NE);
    c->jump_resume = emit_offset(e);
    c->jump_slow = slow;
}

void flow_go(struct context *c)
{
    struct emit *e = &c->e;
    emit_jump_entry(c);
    uint32_t miss = emit_jcc(e, CONDITION_NE);
    emit_op(e, 0, 0xff, 4, rm_jump(offsetof(struct jump, code)));
    emit_link(e, miss, c->translate->exit_jump);
}

void flow_emit_rest(struct context *c)
{
    struct emit *e = &c->e;
    emit_edges(c);
    if (c->jump_miss == 0)
        return;
    emit_link(e, c->jump_miss, emit_offset(e));
    emit_call_to(e, c->translate->jump_second);
    context_slow_jump(c, c->jump_slow, CONDITION_NE);
    emit_jmp_to(e, c->jump_resume);
}

/* T0 = where an indirect branch goes. Spoils T1, T2. */
static void emit_indirect_target(struct context *c, struct slow_path *slow)
{
    const struct operand *op = &c->insn->op[0];
    c->held = RUN_NONE;
    if (op->kind == OPERAND_MEMORY) {
        emit_load(&c->e, T0, context_operand_alone(c, slow));
    } else {
        emit_mov(&c->e, T0, context_get(c, op->reg, T0));
    }
}

static struct slow_path *begin_exiting(struct context *c)
{
    struct slow_path *slow = context_slow_begin(c);
    slow->exits = true;
    c->in_host = false;
    return slow;
}

/* Pushes the return address, moving RSP last. */
static void emit_push_return(struct context *c, struct slow_path *slow)
{
    struct emit *e = &c->e;
    struct emit_rm top = context_stack(c, slow, GPR_RSP, -8, true);
    emit_rip(e, c->translation, T1, c->next_rip);
    emit_store(e, top, T1);
    slow->resume = emit_offset(e);
    emit_lea(e, HOST_R15, rm_at(HOST_R15, -8));
}

static void emit_call(struct context *c)
{
    struct emit *e = &c->e;
    struct slow_path *slow = begin_exiting(c);
    if (c->insn->op[0].kind == OPERAND_IMMEDIATE) {
        emit_push_return(c, slow);
        flow_edge(c, direct_target(c));
        return;
    }
    emit_indirect_target(c, slow);
    emit_jump_lookup(c, slow);
    emit_load(e, T1, rm_jump(offsetof(struct jump, code)));
    emit_store(e, rm_at(HOST_RSP, FRAME_TARGET), T1);
    emit_store(e, rm_at(HOST_RSP, FRAME_RIP), T0);
    emit_push_return(c, slow);
    emit_load(e, T0, rm_at(HOST_RSP, FRAME_RIP));
    emit_op(e, 0, 0xff, 4, rm_at(HOST_RSP, FRAME_TARGET));
}

static void emit_jump(struct context *c)
{
    if (c->insn->op[0].kind == OPERAND_IMMEDIATE) {
        go_on(c, direct_target(c));
        return;
    }
    struct slow_path *slow = begin_exiting(c);
    emit_indirect_target(c, slow);
    slow->resume = emit_offset(&c->e);
    emit_jump_lookup(c, slow);
    emit_op(&c->e, 0, 0xff, 4, rm_jump(offsetof(struct jump, code)));
}

static void emit_return(struct context *c)
{
    struct emit *e = &c->e;
    struct slow_path *slow = begin_exiting(c);
    unsigned release = c->insn->operand_count != 0 ? c->insn->immediate & 0xffff : 0;
    emit_load(e, T0, context_stack(c, slow, GPR_RSP, 0, false));
    slow->resume = emit_offset(e);
    emit_jump_lookup(c, slow);
    emit_lea(e, HOST_R15, rm_at(HOST_R15, (int32_t)(8 + release)));
    emit_op(e, 0, 0xff, 4, rm_jump(offsetof(struct jump, code)));
}

static void emit_condition(struct context *c)
{
    context_flags_load(c);
    add_edge(c, emit_jcc(&c->e, c->insn->condition), direct_target(c));
    go_on(c, c->next_rip);
}

/* Operands of 8 bytes: all that 64-bit code has, unless it tries hard. */
static bool has_indirect_operand(const struct insn *insn)
{
    unsigned kind = insn->op[0].kind;
    return (kind == OPERAND_GPR || kind == OPERAND_MEMORY) && insn->op[0].size == 8;
}

bool flow_is_inline(const struct insn *insn)
{
    if (insn->operand_size != 8)
        return false;
    if (insn->exec == exec_jmp || insn->exec == exec_call)
        return insn->op[0].kind == OPERAND_IMMEDIATE || has_indirect_operand(insn);
    return insn->exec == exec_ret || flow_is_jcc(insn);
}

bool flow_is_direct(const struct insn *insn)
{
    return insn->op[0].kind == OPERAND_IMMEDIATE && insn->exec != exec_ret;
}

bool flow_is_canonical(const struct insn *insn, uint64_t next_rip)
{
    return access_is_canonical(next_rip + insn->immediate) && access_is_canonical(next_rip);
}

bool flow_emit(struct context *c)
{
    const struct insn *insn = c->insn;
    if (!flow_is_inline(insn))
        return false;
    if (flow_is_direct(insn) && !flow_is_canonical(insn, c->next_rip))
        return false;
    if (insn->exec == exec_call)
        emit_call(c);
    else if (insn->exec == exec_jmp)
        emit_jump(c);
    else if (insn->exec == exec_ret)
        emit_return(c);
    else
        emit_condition(c);
    return true;
}
