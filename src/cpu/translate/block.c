/*
 * Blocks of decoded instructions to host code: one, and those that follow in line (trace.c).
 *
 *      entry      flags in the CPU; where its first instructions want them in the slot:
 *      entry      saves them
 *      each instruction; the last leads to other translations, or to the dispatcher
 *      exits and slow paths
 *      the other entry, where it is not right before the first: brings the flags where they are
 *      wanted
 */

#include <Zydis/Zydis.h>
#include <string.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"
#include "cpu/translate/crossing.h"

_Static_assert(sizeof(struct crossing) +
                       (BLOCK_MAX_INSNS + 1) * (sizeof(struct link) + sizeof(struct insn) +
                                                sizeof(struct slow_entry)) <=
                   BLOCK_DATA_MAX,
               "room for all that a translation can have");
_Static_assert(BLOCK_MAX_INSNS <= 1 << SLOW_KEY_BITS, "slow paths have numbers");

/* Without asking to leave the block, where their handler runs them. */
bool translate_changes_privilege(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_STAC || insn->mnemonic == ZYDIS_MNEMONIC_CLAC;
}

/* If it wants flags saved, then for a probe of its operand. */
static bool is_plain(const struct insn *insn)
{
    return translate_is_inline(insn) && !divide_is_inline(insn);
}

/* The state of the flags that the block would like to begin with. are_in_host: who comes there has
 * them in the CPU, and accesses are direct, which leaves them where they are. */
static enum flags_need block_need(const struct block *block, bool are_in_host)
{
    for (unsigned i = 0; i < block->count; i++) {
        const struct insn *insn = &block->insns[i];
        if (flow_is_inline(insn))
            return insn->exec == jcc_bind(insn) ||
                           (insn->exec == exec_jmp && insn->op[0].kind == OPERAND_IMMEDIATE)
                       ? FLAGS_HOST
                       : FLAGS_SAVED;
        enum flags_need need = vector_is_inline(insn) ? vector_need(insn) : integer_need(insn);
        if (need == FLAGS_SAVED && are_in_host && is_plain(insn))
            return FLAGS_HOST;
        if (need != FLAGS_INDIFFERENT)
            return need;
    }
    return FLAGS_HOST;
}

unsigned translate_block_vectors(const struct block *block)
{
    unsigned vectors = VECTORS_NONE, done = 0;
    for (unsigned i = 0; i < block->count; i++) {
        unsigned level = vector_level(&block->insns[i]);
        if (level <= vectors)
            continue;
        while (done < i && translate_is_inline(&block->insns[done]))
            done++;
        if (done < i)
            break;
        vectors = level;
    }
    return vectors;
}

static void emit_blocks(struct context *c)
{
    /* Of the first block, if it is a loop: its second copy comes back into the middle of it. So
     * runs begin behind that place, and no copies of registers are kept. */
    unsigned looping = c->loop_count != 0 ? (unsigned)__builtin_ctzll(c->block_ends) + 1 : 0;
    bool has_bad_runs = slow_has_bad_runs(c->translate, translation_gpa(c->translation));
    runs_find(&c->runs, c->translate, c->translation, c->insns, c->count,
              has_bad_runs   ? c->count
              : looping != 0 ? c->loop_writer + 1
                             : 0);
    c->held = RUN_NONE;
    for (unsigned i = 0; i < c->count; i++) {
        const struct insn *insn = c->insn = &c->insns[i];
        c->index = i;
        bool is_last = c->block_ends >> i & 1, is_loop = i < looping;
        c->keeps_copies = !is_loop;
        if (i <= looping)
            context_forget_copies(c);
        if (is_loop)
            c->loop_offsets[i] = emit_offset(&c->e);
        c->next_rip = c->rip + insn->length;
        bool done = integer_emit(c);
        if (is_last)
            context_flags_make(c);
        if (is_last && is_loop)
            context_flags_settle(c);
        if (is_last && !done && flow_emit(c)) {
            c->rip = c->next_rip;
            continue;
        }
        if (!done)
            context_flags_settle(c);
        if (is_last && !done && level_emit(c))
            break;
        if (!done && !vector_emit(c) && !privileged_emit(c, is_last)) {
            bool exits = is_last || translate_changes_privilege(insn);
            context_call_handler(c, exits);
            if (exits)
                break;
        }
        context_run_end(c);
        if (!done && c->runs.run[i] == RUN_NONE)
            c->held = RUN_NONE;
        if (!done)
            context_forget_copies(c);
        if (is_last)
            flow_edge(c, c->next_rip);
        c->rip = c->next_rip;
    }
    c->keeps_copies = false;
}

/* The slow paths' code, and what slow.c has to know of each. */
static void emit_slow_paths(struct context *c)
{
    struct translation *t = c->translation;
    if (c->slow_count == 0)
        return;
    struct slow_entry *entries =
        ring_allocate(c->translate, c->slow_count * sizeof(struct slow_entry));
    t->slow = (uint16_t)(ref_of(c->translate, entries) - ref_of(c->translate, t));
    t->slow_count = c->slow_count & 0x7f;
    for (unsigned i = 0; i < c->slow_count; i++) {
        const struct slow_path *slow = &c->slow[i];
        uint32_t way = context_slow_emit(c, slow, i);
        entries[i] = (struct slow_entry){
            .insn = (uint16_t)((slow->rip - t->rip) | (slow->exits ? SLOW_EXITS : 0)),
            .resume = (uint16_t)(slow->resume != 0 ? slow->resume - t->code : 0),
            .count = (uint8_t)(slow->end - slow->index + 1),
            .direct = (uint16_t)(slow->is_direct ? way - t->aside + 1 : 0)};
        if (slow->run.span != 0) {
            entries[i].insn |= slow->run.writes ? SLOW_RUN | SLOW_WRITES : SLOW_RUN;
            entries[i].at = slow->at;
            entries[i].span = slow->run.span;
        } else if (slow->alone != 0) {
            entries[i].insn |= SLOW_ALONE;
            entries[i].alone = (uint16_t)(slow->alone - t->code);
        }
    }
}

struct translation *translate_block(struct translate *translate, const struct block *block,
                                    const struct link *link, bool is_hot, bool is_direct)
{
    struct vcpu *vcpu = translate->vcpu;
    /* It may be part of what has to make room. */
    bool is_loop = link != NULL && link->is_backward;
    bool are_in_host = is_direct && link != NULL && link->in_host;
    bool is_relative = relative_is_wanted(translate, block->gpa >> PAGE_SHIFT, vcpu->rip);
    ring_reserve(translate);
    bool is_crossing = (block->gpa & PAGE_MASK) + block->bytes > PAGE_SIZE;
    struct translation *t =
        ring_allocate(translate, is_crossing ? sizeof(struct crossing) : sizeof(*t));
    *t = (struct translation){.rip = vcpu->rip,
                              .ppn = block->gpa >> PAGE_SHIFT & ((1ull << 34) - 1),
                              .privilege = vcpu->privilege & 3,
                              .is_crossing = is_crossing,
                              .is_relative = is_relative,
                              .is_hot = is_hot,
                              .is_direct = is_direct,
                              .vectors = translate_block_vectors(block) & 3,
                              .code = translate->code_ring.at,
                              .aside = translate->aside_ring.at};
    if (is_crossing)
        ((struct crossing *)t)->insn = block->insns[0];
    enum flags_need need = block_need(block, are_in_host);
    struct context c;
    memset(&c, 0, CONTEXT_CLEARED);
    c.e = emit_begin(translate->code.write, t->code);
    c.translate = translate;
    c.translation = t;
    c.privilege = vcpu->privilege;
    c.insns = block->insns;
    c.count = block->count;
    c.rip = vcpu->rip;
    c.in_host = need != FLAGS_SAVED;
    c.in_slot = need == FLAGS_SAVED;
    c.vectors = t->vectors;
    loop_begin(&c, block);
    if (is_loop)
        entry_emit_loop(&c, block, need);
    else if (need == FLAGS_SAVED)
        entry_emit_saving(&c);
    uint32_t body = emit_offset(&c.e);
    trace_find(&c, block);
    emit_blocks(&c);
    flow_emit_loops(&c);
    uint32_t code_end = emit_offset(&c.e);
    c.e.at = c.e.base + t->aside;
    flow_emit_rest(&c);
    emit_slow_paths(&c);
    for (unsigned i = 0; i < c.load_count; i++)
        vectors_load_emit(&c, &c.loads[i]);
    uint32_t aside_end = emit_offset(&c.e);
    c.e.at = c.e.base + code_end;
    entry_emit(&c, need, body);
    translate->code_is_new = true;
    ring_append(translate, t, emit_offset(&c.e), aside_end);
    translate_insert(translate, t);
    return t;
}
