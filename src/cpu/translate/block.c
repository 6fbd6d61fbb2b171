/*
 * One block of decoded instructions to host code.
 *
 *      entry      flags in the CPU or in the slot, whichever its first instructions want
 *      each instruction; the last leads to other translations, or to the dispatcher
 *      slow paths
 *      the other entry: brings the flags where they are wanted, jumps to the first
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
        bool is_last = i + 1 == block->count;
        c->next_rip = c->rip + insn->length;
        if (is_last && flow_emit(c))
            return;
        if (!integer_emit(c) && !vector_emit(c)) {
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

/* Entries for both places where flags may be, of code at `at` that wants them where `need` says. */
static void emit_entries(struct context *c, enum flags_need need, uint32_t at, uint32_t *host,
                         uint32_t *saved)
{
    *host = *saved = at;
    if (need != FLAGS_HOST && need != FLAGS_SAVED)
        return;
    bool loads = need == FLAGS_HOST;
    *(loads ? saved : host) = emit_offset(&c->e);
    c->in_host = !loads;
    c->in_slot = loads;
    if (loads)
        context_flags_load(c);
    else
        context_flags_save(c);
    emit_jmp_to(&c->e, at);
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
    t->vectors = (uint8_t)translate_block_vectors(block);
    enum flags_need need = block_need(block), first_need = need;
    if (t->vectors != VECTORS_NONE && need == FLAGS_OVERWRITTEN)
        first_need = FLAGS_SAVED; /* loading vector registers may end in an exception */
    struct context c = {
        .e = {translate->code.write, translate->code.write + translate->code_used},
        .translate = translate,
        .translation = t,
        .privilege = vcpu->privilege,
        .rip = vcpu->rip,
        .in_host = first_need != FLAGS_SAVED,
        .in_slot = first_need == FLAGS_SAVED,
    };
    uint32_t entry = emit_offset(&c.e);
    vectors_require(&c, t->vectors);
    if (need == FLAGS_OVERWRITTEN)
        context_flags_written(&c);
    uint32_t loaded = emit_offset(&c.e);
    emit_body(&c, block);
    for (unsigned i = 0; i < c.slow_count; i++)
        context_slow_emit(&c, &c.slow[i]);
    for (unsigned i = 0; i < c.load_count; i++)
        vectors_load_emit(&c, &c.loads[i]);
    emit_entries(&c, first_need, entry, &t->entry_host, &t->entry_saved);
    if (loaded == entry) {
        t->loaded_host = t->entry_host;
        t->loaded_saved = t->entry_saved;
    } else {
        emit_entries(&c, need, loaded, &t->loaded_host, &t->loaded_saved);
    }
    translate->code_used = align_up(emit_offset(&c.e), 16);
    translate_insert(translate, t);
    translate_serialize();
    return t;
}
