/*
 * One block of decoded instructions to host code.
 *
 *      entry      flags in the CPU; where its first instructions want them in the slot:
 *      entry      saves them
 *      each instruction; the last leads to other translations, or to the dispatcher
 *      slow paths
 *      where they want them in the CPU: the other entry, which brings them there
 */

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"
#include "cpu/translate/crossing.h"

/* Instructions that change the privilege without asking to leave the block, where their handler
 * runs them. */
static bool changes_privilege(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_STAC || insn->mnemonic == ZYDIS_MNEMONIC_CLAC;
}

/* The state of the flags that the block would like to begin with. */
static enum flags_need block_need(const struct block *block)
{
    for (unsigned i = 0; i < block->count; i++) {
        const struct insn *insn = &block->insns[i];
        if (flow_is_inline(insn))
            return insn->exec == jcc_bind(insn) ||
                           (insn->exec == exec_jmp && insn->op[0].kind == OPERAND_IMMEDIATE)
                       ? FLAGS_HOST
                       : FLAGS_SAVED;
        enum flags_need need = vector_is_inline(insn) ? vector_need(insn) : integer_need(insn);
        if (need != FLAGS_INDIFFERENT)
            return need;
    }
    return FLAGS_HOST;
}

unsigned translate_block_vectors(const struct block *block)
{
    unsigned vectors = VECTORS_NONE;
    for (unsigned i = 0; i < block->count && translate_is_inline(&block->insns[i]); i++) {
        unsigned level = vector_level(&block->insns[i]);
        vectors = level > vectors ? level : vectors;
    }
    return vectors;
}

static void emit_body(struct context *c, const struct block *block)
{
    for (unsigned i = 0; i < block->count; i++) {
        const struct insn *insn = c->insn = &block->insns[i];
        c->index = i;
        bool is_last = i + 1 == block->count;
        c->next_rip = c->rip + insn->length;
        bool done = integer_emit(c);
        if (!done || is_last)
            context_flags_settle(c);
        if (!done && is_last && (flow_emit(c) || level_emit(c)))
            return;
        if (!done && !vector_emit(c) && !privileged_emit(c, is_last)) {
            bool exits = is_last || changes_privilege(insn);
            context_call_handler(c, exits);
            if (exits)
                return;
        }
        context_run_end(c);
        if (!done && c->runs.run[i] == RUN_NONE)
            c->held = RUN_NONE;
        if (is_last)
            flow_edge(c, c->next_rip);
        c->rip = c->next_rip;
    }
}

/* Before code that wants flags in their slot: saves them. Who comes to a block that begins with
 * memory mostly has them in the CPU. */
static void emit_saving_entry(struct context *c)
{
    c->in_host = true;
    c->in_slot = false;
    context_flags_save(c);
    c->in_host = false;
}

/* Entries for both places where flags may be, of code at `at` that wants them where `need` says. */
static void emit_entries(struct context *c, enum flags_need need, uint32_t at, uint16_t *host,
                         uint16_t *saved)
{
    const uint32_t code = c->translation->code;
    *host = *saved = (uint16_t)(at - code);
    if (need != FLAGS_HOST && need != FLAGS_SAVED)
        return;
    bool loads = need == FLAGS_HOST;
    *(loads ? saved : host) = (uint16_t)(emit_offset(&c->e) - code);
    c->in_host = !loads;
    c->in_slot = loads;
    c->recipe.kind = RECIPE_NONE;
    if (loads)
        context_flags_load(c);
    else
        context_flags_save(c);
    emit_jmp_to(&c->e, at);
}

/* The slow paths' code, and what slow.c has to know of each. */
static void emit_slow_paths(struct context *c)
{
    struct translation *t = c->translation;
    if (c->slow_count == 0)
        return;
    struct slow_entry *entries =
        ring_allocate(c->translate, c->slow_count * sizeof(struct slow_entry));
    t->slow = ref_of(c->translate, entries);
    for (unsigned i = 0; i < c->slow_count; i++) {
        const struct slow_path *slow = &c->slow[i];
        context_slow_emit(c, slow, i);
        entries[i] = (struct slow_entry){
            .insn = (uint16_t)((slow->rip - t->rip) | (slow->exits ? SLOW_EXITS : 0)),
            .resume = (uint16_t)(slow->exits ? 0 : slow->resume - t->code),
            .count = (uint8_t)(slow->end - slow->index + 1)};
        if (slow->run == RUN_NONE)
            continue;
        const struct run *run = &c->runs.runs[slow->run];
        entries[i].insn |= run->writes ? SLOW_WRITES : 0;
        entries[i].at = c->runs.at[slow->index];
        entries[i].span = run->span;
    }
}

struct translation *translate_block(struct translate *translate, const struct block *block)
{
    struct vcpu *vcpu = translate->vcpu;
    ring_reserve(translate);
    bool is_crossing = (block->gpa & PAGE_MASK) + block->bytes > PAGE_SIZE;
    struct translation *t =
        ring_allocate(translate, is_crossing ? sizeof(struct crossing) : sizeof(*t));
    *t = (struct translation){.rip = vcpu->rip,
                              .gpa = block->gpa,
                              .privilege = (uint8_t)vcpu->privilege,
                              .is_crossing = is_crossing,
                              .vectors = (uint8_t)translate_block_vectors(block),
                              .code = translate->code_ring.at};
    if (is_crossing)
        ((struct crossing *)t)->insn = block->insns[0];
    enum flags_need need = block_need(block), first_need = need;
    if (t->vectors != VECTORS_NONE && need == FLAGS_OVERWRITTEN)
        first_need = FLAGS_SAVED; /* loading vector registers may end in an exception */
    struct context c = {
        .e = {translate->code.write, translate->code.write + t->code},
        .translate = translate,
        .translation = t,
        .privilege = vcpu->privilege,
        .block = block,
        .held = RUN_NONE,
        .rip = vcpu->rip,
        .in_host = first_need != FLAGS_SAVED,
    };
    runs_find(&c.runs, block, !slow_has_bad_runs(translate, t->rip));
    if (first_need == FLAGS_SAVED)
        emit_saving_entry(&c);
    uint32_t entry = emit_offset(&c.e);
    vectors_require(&c, t->vectors);
    if (need == FLAGS_OVERWRITTEN)
        context_flags_written(&c);
    uint32_t loaded = emit_offset(&c.e);
    emit_body(&c, block);
    flow_emit_rest(&c);
    emit_slow_paths(&c);
    for (unsigned i = 0; i < c.load_count; i++)
        vectors_load_emit(&c, &c.loads[i]);
    if (first_need == FLAGS_SAVED)
        t->entry_saved = (uint16_t)(entry - t->code); /* entry_host is 0 */
    else
        emit_entries(&c, first_need, entry, &t->entry_host, &t->entry_saved);
    if (loaded == entry) {
        t->loaded_host = t->entry_host;
        t->loaded_saved = t->entry_saved;
    } else {
        emit_entries(&c, need, loaded, &t->loaded_host, &t->loaded_saved);
    }
    translate->code_is_new = true;
    ring_append(translate, t, emit_offset(&c.e));
    translate_insert(translate, t);
    return t;
}
