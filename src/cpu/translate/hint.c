/*
 * Hints: TLB probes that do not wait for the address.
 *
 * A probe finds the entry by the address, and what it finds there makes the host address: all of
 * that lies between the address and the load, nine cycles or so where a load takes five. In a loop
 * most accesses are to the page that they were to the last time. There a probe takes the slot of
 * the last time, which is known long before the address; that the entry is the page's is checked
 * beside the load, by a branch that the CPU predicts:
 *
 *      mov  r10d, gs:[hint.slot]
 *      mov  r11, r9
 *      and  r11, -4096 | (size - 1)    not aligned: no tag matches
 *      cmp  r11, gs:[r10 + tag]
 *      jne  wrong
 *      add  r9, gs:[r10 + addend]
 *    back:
 *
 *    wrong:                            out of line
 *      sub  gs:[hint.budget], 1
 *      jb   slow
 *      the probe by the address, which goes to back if it hits
 *    slow:
 *
 * A slot has the tag of no page but those that belong there, so a match is a hit, wherever it is.
 * Entries that were never used are all zeros, and no hint leads to one of them, which would match
 * page 0: the first slot is empty in another way, and all other slots in a hint have been hit in
 * the same table, which is why hints are by privilege and access. The probe by the address sees to
 * accesses that are not aligned.
 *
 * A wrong guess costs a mispredicted branch, more than all good ones gain where pages change often.
 * So wrong ones are counted: a budget ends on the slow path, in C, which looks at how long it took
 * (hint_weigh). The instruction is remembered as a bad one if that was short, and translated anew.
 */

#include <x86intrin.h>

#include "cpu/translate/context.h"

#define BUDGET       256u
#define WRONG_CYCLES 500u /* on average between two wrong guesses, at least */

/* Of a slow path: its place among those of one kind. They may share one. */
static unsigned hint_of(uint32_t key)
{
    return (key ^ key >> SLOW_KEY_BITS) % VCPU_HINTS;
}

static struct emit_rm hint_member(unsigned kind, unsigned hint, size_t offset)
{
    return rm_vcpu(offsetof(struct vcpu, hints) +
                   (kind * VCPU_HINTS + hint) * sizeof(struct vcpu_hint) + offset);
}

static uint32_t key_of(const struct context *c, unsigned number)
{
    return ref_of(c->translate, c->translation) << SLOW_KEY_BITS | number;
}

/* gpa: the instruction's. */
static uint64_t bad_bit(uint64_t gpa, unsigned *word)
{
    unsigned hash = (unsigned)(gpa ^ gpa >> 14) % BAD_HINTS;
    *word = hash / 64;
    return bit(hash % 64);
}

static bool is_bad(const struct translate *translate, uint64_t gpa)
{
    unsigned word;
    uint64_t mask = bad_bit(gpa, &word);
    return translate->bad_hints[word] & mask;
}

bool hint_probe(struct context *c, struct slow_path *slow, unsigned size, bool write)
{
    struct emit *e = &c->e;
    struct emit_rm tag, addend;
    const struct translation *t = c->translation;
    if (!t->is_hot || c->translate->is_lockstep || slow->hint.jump != 0 || size > 8 ||
        (size & (size - 1)) != 0 || is_bad(c->translate, translation_gpa(t) + (slow->rip - t->rip)))
        return false;
    unsigned number = (unsigned)(slow - c->slow),
             kind = hint_kind(c->privilege, write ? MMU_WRITE : MMU_READ);
    context_find_table(c, write, &tag, &addend);
    tag.reg = addend.reg = T1;
    c->in_host = false;
    emit_op(e, 0, 0x8b, T1,
            hint_member(kind, hint_of(key_of(c, number)), offsetof(struct vcpu_hint, slot)));
    emit_mov(e, T2, T0);
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK | (size - 1));
    emit_op(e, EMIT_W, 0x3b, T2, tag);
    slow->hint.jump = emit_jcc(e, CONDITION_NE);
    slow->hint.privilege = (uint8_t)c->privilege;
    slow->hint.size = (uint8_t)size;
    slow->hint.write = write;
    emit_op(e, EMIT_W, 0x03, T0, addend);
    slow->hint.back = emit_offset(e);
    return true;
}

void hint_emit_wrong(struct context *c, const struct slow_path *slow, unsigned number)
{
    struct emit *e = &c->e;
    unsigned hint = hint_of(key_of(c, number)), privilege = c->privilege;
    unsigned kind = hint_kind(slow->hint.privilege, slow->hint.write ? MMU_WRITE : MMU_READ);
    emit_link(e, slow->hint.jump, emit_offset(e));
    emit_alu_immediate(e, 5, 4, hint_member(kind, hint, offsetof(struct vcpu_hint, budget)), 1);
    uint32_t out = emit_jcc(e, CONDITION_B);
    c->privilege = slow->hint.privilege;
    struct emit_rm addend = context_probe_tag(c, rm_at(T0, slow->hint.size - 1), slow->hint.write);
    c->privilege = privilege;
    uint32_t miss = emit_jcc(e, CONDITION_NE);
    emit_op(e, 0, 0x89, T1, hint_member(kind, hint, offsetof(struct vcpu_hint, slot)));
    emit_op(e, EMIT_W, 0x03, T0, addend);
    emit_jmp_to(e, slow->hint.back);
    emit_link(e, out, emit_offset(e));
    emit_link(e, miss, emit_offset(e));
}

void hint_weigh(struct translate *translate, struct translation *t, uint32_t key, unsigned kind,
                uint64_t gpa)
{
    struct vcpu_hint *hint = &translate->vcpu->hints[kind][hint_of(key)];
    if (hint->budget <= BUDGET)
        return;
    uint64_t now = __rdtsc(), *since = &translate->hints_since[kind][hint_of(key)];
    hint->budget = BUDGET;
    if (now - *since < BUDGET * WRONG_CYCLES && !t->is_dead) {
        unsigned word;
        uint64_t mask = bad_bit(gpa, &word);
        translate->bad_hints[word] |= mask;
        translate_unlink(translate, t);
    }
    *since = now;
}
