/*
 * Which blocks make a translation: one, and those that follow in line.
 *
 * In what is hot, a branch whose way on is forward, in the same page, and has been run before is no
 * branch: its block follows. So a loop, which is translated when it comes round, has its first way
 * round in one piece. The way on is the target of a jump, or where a conditional branch falls
 * through. All of it is known before anything is emitted, so that runs (run.c) go from one block to
 * the next.
 *
 * Nothing leads into the middle of a trace but what its own code sends aside, and the second copy
 * of a loop (loop.c), to an instruction of the first block.
 */

#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"

/* What is forward, in the same page, and whole in it: it could follow. */
static bool could_follow(const struct context *c, uint64_t from, uint64_t to)
{
    return !c->translate->is_lockstep && to > from && flow_is_linked(c, to);
}

static uint64_t gpa_of(const struct context *c, uint64_t rip)
{
    return (uint64_t)c->translation->ppn << PAGE_SHIFT | (rip & PAGE_MASK);
}

/* It follows, if there is room. */
static bool does_follow(const struct context *c, uint64_t to)
{
    return c->translation->is_hot &&
           translate_look_up(c->translate, gpa_of(c, to), to, c->privilege) != NULL;
}

bool trace_may_grow(const struct context *c, uint64_t from, uint64_t to)
{
    return could_follow(c, from, to) && !does_follow(c, to);
}

/* Where an instruction, the last of its block, may go on in line; false: nowhere. */
static bool way_on(const struct insn *insn, uint64_t next_rip, uint64_t *to)
{
    *to = flow_is_jcc(insn) ? next_rip : next_rip + insn->immediate;
    return flow_is_inline(insn) && flow_is_direct(insn) && insn->exec != exec_call &&
           flow_is_canonical(insn, next_rip);
}

static bool has_privilege_change(const struct block *block)
{
    for (unsigned i = 0; i < block->count; i++) {
        if (translate_changes_privilege(&block->insns[i]))
            return true;
    }
    return false;
}

void trace_find(struct context *c, const struct block *block)
{
    uint64_t rip = c->rip;
    c->insns = block->insns;
    c->count = block->count;
    c->block_ends = bit(block->count - 1u);
    c->follows = 0;
    for (;;) {
        const struct insn *last = &block->insns[block->count - 1u];
        uint64_t from = rip + block->bytes - last->length, to;
        if (!way_on(last, rip + block->bytes, &to) || !could_follow(c, from, to) ||
            !does_follow(c, to) || has_privilege_change(block))
            return;
        if (c->follows == 0)
            memcpy(c->trace, block->insns, block->count * sizeof(struct insn));
        block = block_decode_more(c->translate->vcpu, gpa_of(c, to));
        if (block == NULL || c->count + block->count > BLOCK_MAX_INSNS)
            return;
        memcpy(c->trace + c->count, block->insns, block->count * sizeof(struct insn));
        c->insns = c->trace;
        c->follows |= bit(c->count - 1u);
        c->count += block->count;
        c->block_ends |= bit(c->count - 1u);
        rip = to;
    }
}
