/*
 * Blocks of decoded instructions to host code: one, and those that follow in line (flow.c).
 *
 *      entry      flags in the CPU or in the slot, whichever its first instructions want
 *      each instruction; the last leads to other translations, or to the dispatcher
 *      exits and slow paths
 *      the other entry: brings the flags where they are wanted, jumps to the first
 */

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"
#include "cpu/translate/crossing.h"

/* Room that any block surely fits in. */
#define BLOCK_CODE_MAX ((size_t)48 << 10)
#define BLOCK_DATA_MAX                                                                             \
    (sizeof(struct crossing) +                                                                     \
     (BLOCK_MAX_INSNS + 1) * (sizeof(struct insn) + sizeof(struct link) + 16))

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
        enum flags_need need = integer_need(insn);
        if (need != FLAGS_INDIFFERENT)
            return need;
    }
    return FLAGS_HOST;
}

/* Returns the block that follows in line; NULL: none does. */
static const struct block *emit_block(struct context *c, const struct block *block)
{
    const struct block *next = NULL;
    c->insn_count += block->count;
    for (unsigned i = 0; i < block->count; i++) {
        const struct insn *insn = c->insn = &block->insns[i];
        bool is_last = i + 1 == block->count;
        c->next_rip = c->rip + insn->length;
        if (is_last && (flow_emit(c, &next) || level_emit(c)))
            break;
        if (!integer_emit(c) && !vector_emit(c) && !privileged_emit(c, is_last)) {
            bool exits = is_last || changes_privilege(insn);
            context_call_handler(c, exits);
            if (exits)
                break;
        }
        if (is_last)
            flow_edge(c, c->next_rip);
        c->rip = c->next_rip;
    }
    c->rip = c->next_rip;
    return next;
}

struct translation *translate_block(struct translate *translate, const struct block *block,
                                    bool is_loop)
{
    struct vcpu *vcpu = translate->vcpu;
    if (TRANSLATE_CODE_SIZE - translate->code_used < BLOCK_CODE_MAX ||
        TRANSLATE_DATA_SIZE - translate->data_used < BLOCK_DATA_MAX)
        translate_evict_all(translate);

    bool is_crossing = (block->gpa & PAGE_MASK) + block->bytes > PAGE_SIZE;
    struct translation *t =
        translate_allocate(translate, is_crossing ? sizeof(struct crossing) : sizeof(*t));
    *t = (struct translation){.rip = vcpu->rip,
                              .gpa = block->gpa,
                              .privilege = (uint8_t)vcpu->privilege,
                              .is_crossing = is_crossing,
                              .is_hot = is_loop};
    enum flags_need need = block_need(block);
    struct context c = {
        .e = {translate->code.write, translate->code.write + translate->code_used},
        .translate = translate,
        .translation = t,
        .privilege = vcpu->privilege,
        .rip = vcpu->rip,
        .in_host = need != FLAGS_SAVED,
        .in_slot = need == FLAGS_SAVED,
    };
    if (is_loop)
        entry_emit_loop(&c, block, need);
    uint32_t body = emit_offset(&c.e);
    while (block != NULL)
        block = emit_block(&c, block);
    flow_emit_rest(&c);
    for (unsigned i = 0; i < c.slow_count; i++)
        context_slow_emit(&c, &c.slow[i]);
    entry_emit(&c, need, body);
    translate->code_used = align_up(emit_offset(&c.e), 16);
    translate_insert(translate, t);
    translate_serialize();
    return t;
}
