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

/* Room that any block surely fits in. */
#define BLOCK_CODE_MAX ((size_t)48 << 10)
#define BLOCK_DATA_MAX (sizeof(struct translation) + BLOCK_MAX_INSNS * (sizeof(struct insn) + 8))

/* Instructions that change what translated code was made for (its privilege) without asking to
 * leave the block. */
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
        enum flags_need need = integer_need(insn);
        if (need != FLAGS_INDIFFERENT)
            return need;
    }
    return FLAGS_HOST;
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
        if (!done && is_last && flow_emit(c))
            return;
        if (!done && !vector_emit(c)) {
            bool exits = is_last || changes_privilege(insn);
            context_call_handler(c, exits);
            if (exits)
                return;
        }
        if (is_last)
            flow_edge(c, c->next_rip);
        c->rip = c->next_rip;
    }
}

/* Where the body wants the flags in their slot, who comes with them in the CPU comes this way: the
 * likelier way to come to a block that begins with memory. */
static void emit_saving_entry(struct context *c)
{
    c->translation->entry_host = emit_offset(&c->e);
    c->in_host = true;
    context_flags_save(c);
    c->in_host = false;
}

/* The body wants them in the CPU: who comes with them in the slot comes this way. */
static void emit_loading_entry(struct context *c, uint32_t body)
{
    c->translation->entry_saved = emit_offset(&c->e);
    c->in_host = false;
    c->in_slot = true;
    c->recipe.kind = RECIPE_NONE;
    context_flags_load(c);
    emit_jmp_to(&c->e, body);
}

struct translation *translate_block(struct translate *translate, const struct block *block)
{
    struct vcpu *vcpu = translate->vcpu;
    if (TRANSLATE_CODE_SIZE - translate->code_used < BLOCK_CODE_MAX ||
        TRANSLATE_DATA_SIZE - translate->data_used < BLOCK_DATA_MAX)
        translate_evict_all(translate);

    struct translation *t = translate_allocate(translate, sizeof(*t));
    *t = (struct translation){
        .rip = vcpu->rip, .gpa = block->gpa, .privilege = (uint8_t)vcpu->privilege};
    enum flags_need need = block_need(block);
    struct context c = {
        .e = {translate->code.write, translate->code.write + translate->code_used},
        .translate = translate,
        .translation = t,
        .privilege = vcpu->privilege,
        .block = block,
        .rip = vcpu->rip,
        .in_host = need != FLAGS_SAVED,
    };
    t->entry_host = emit_offset(&c.e);
    if (need == FLAGS_SAVED)
        emit_saving_entry(&c);
    uint32_t body = t->entry_saved = emit_offset(&c.e);
    emit_body(&c, block);
    for (unsigned i = 0; i < c.slow_count; i++)
        context_slow_emit(&c, &c.slow[i]);
    if (need == FLAGS_HOST)
        emit_loading_entry(&c, body);
    translate->code_used = align_up(emit_offset(&c.e), 16);
    translate_insert(translate, t);
    translate_serialize();
    return t;
}
