/* Guest flags, guest memory and slow paths in generated code. See context.h. */

#include "cpu/translate/context.h"

/* ------------------------------------------------------------------------- flags */

void context_flags_save(struct context *c)
{
    if (c->in_slot)
        return;
    emit_u8(&c->e, 0x9c); /* pushf */
    emit_lea(&c->e, HOST_RSP, rm_at(HOST_RSP, 8));
    c->in_slot = true;
}

/* POPF would be slow. SAHF takes SF ZF AF PF CF from AH; OF comes from adding 0x78 to its bit 3 of
 * the image's second byte, which overflows where it is set. */
void emit_flags_load(struct emit *e)
{
    emit_mov(e, T2, HOST_RAX);
    emit_op(e, 0, 0x8b, HOST_RAX, rm_at(HOST_RSP, FLAGS_SLOT));
    emit_op(e, EMIT_66, 0xc1, 1, rm_reg(HOST_RAX)); /* ror ax, 8 */
    emit_u8(e, 8);
    emit_alu_immediate(e, 4, 1, rm_reg(HOST_RAX), 0x08); /* and al, 8 */
    emit_alu_immediate(e, 0, 1, rm_reg(HOST_RAX), 0x78); /* add al, 0x78 */
    emit_u8(e, 0x9e);                                    /* sahf */
    emit_mov(e, HOST_RAX, T2);
}

void context_flags_load(struct context *c)
{
    if (c->in_host)
        return;
    emit_flags_load(&c->e);
    c->in_host = true;
}

/* ------------------------------------------------------------------------- slow paths */

const struct insn *context_keep(struct context *c, const struct insn *insn)
{
    struct insn *copy = ring_allocate(c->translate, sizeof(*copy));
    *copy = *insn;
    return copy;
}

struct slow_path *context_slow_begin(struct context *c)
{
    struct slow_path *slow = &c->slow[c->slow_count++];
    *slow = (struct slow_path){.rip = c->rip};
    context_flags_save(c);
    return slow;
}

void context_slow_jump(struct context *c, struct slow_path *slow, unsigned condition)
{
    slow->jumps[slow->jump_count++] = emit_jcc(&c->e, condition);
}

void context_slow_end(struct context *c, struct slow_path *slow)
{
    slow->resume = emit_offset(&c->e);
    slow->vectors = (uint8_t)c->vectors;
}

void context_slow_unless_canonical(struct context *c, struct slow_path *slow, unsigned reg)
{
    struct emit *e = &c->e;
    emit_mov(e, T1, reg);
    emit_op(e, EMIT_W, 0xc1, 4, rm_reg(T1)); /* shl */
    emit_u8(e, 16);
    emit_op(e, EMIT_W, 0xc1, 7, rm_reg(T1)); /* sar */
    emit_u8(e, 16);
    emit_op(e, EMIT_W, 0x3b, T1, rm_reg(reg));
    context_slow_jump(c, slow, CONDITION_NE);
}

void context_slow_emit(struct context *c, const struct slow_path *slow, unsigned number)
{
    struct emit *e = &c->e;
    for (unsigned i = 0; i < slow->jump_count; i++)
        emit_link(e, slow->jumps[i], emit_offset(e));
    emit_constant(e, T0, ref_of(c->translate, c->translation) << SLOW_KEY_BITS | number);
    emit_jmp_to(e, c->translate->slow[slow->vectors]);
}

void context_call_handler(struct context *c, bool exits)
{
    const struct insn *copy = context_keep(c, c->insn);
    struct emit *e = &c->e;
    context_flags_save(c);
    emit_constant(e, T0, (uint64_t)(uintptr_t)copy);
    emit_constant(e, T1, c->rip);
    emit_lea(e, HOST_RSP, rm_at(HOST_RSP, -8));
    emit_call_to(e, exits ? c->translate->call_handler_exit : c->translate->call_handler);
    if (!exits)
        emit_lea(e, HOST_RSP, rm_at(HOST_RSP, 8));
    c->in_host = false;
    c->vectors = VECTORS_NONE;
}

/* ------------------------------------------------------------------------- addresses */

void context_address_to(struct context *c, unsigned to)
{
    const struct insn *insn = c->insn;
    struct emit *e = &c->e;
    unsigned wide = insn->address_size == 8 ? EMIT_W : 0;
    if (insn->base == INSN_REG_RIP ||
        (insn->base == INSN_REG_NONE && insn->index == INSN_REG_NONE)) {
        uint64_t address = (uint64_t)insn->displacement;
        if (insn->base == INSN_REG_RIP)
            address += c->next_rip;
        emit_constant(e, to, wide ? address : (uint32_t)address);
    } else {
        struct emit_rm rm = rm_at(HOST_NONE, (int32_t)insn->displacement);
        rm.index = HOST_NONE;
        if (insn->base < GPR_COUNT)
            rm.reg = (uint8_t)context_get(c, insn->base, T0);
        if (insn->index < GPR_COUNT) {
            rm.index = (uint8_t)context_get(c, insn->index, T1);
            rm.scale = insn->scale;
        }
        emit_op(e, wide, 0x8d, to, rm);
    }
    if (insn->seg >= SEG_FS)
        emit_op(e, EMIT_W, 0x03, to,
                rm_vcpu(offsetof(struct vcpu, seg) + insn->seg * sizeof(struct segment) +
                        offsetof(struct segment, base)));
}

void context_address(struct context *c)
{
    context_address_to(c, T0);
}

/*
 *      mov  r10, r9
 *      shr  r10, 7                     entries are 32 bytes
 *      and  r10d, 0x1ffe0              4096 entries; 2048 for a write
 *      lea  r11, [r9 + size - 1]       in another page: its tag is not in this entry
 *      and  r11, -4096
 *      cmp  r11, gs:[r10 + tag]
 *      jne  slow
 *      add  r9, gs:[r10 + addend]
 */
void context_probe(struct context *c, struct slow_path *slow, unsigned size, bool write)
{
    struct emit *e = &c->e;
    _Static_assert(sizeof(struct tlb_entry) == 32, "the shift below");
    const struct mmu *mmu = &c->translate->vcpu->mmu;
    size_t table =
        write ? offsetof(struct vcpu, mmu.tlb_write) + c->privilege * sizeof(mmu->tlb_write[0])
              : offsetof(struct vcpu, mmu.tlb) + c->privilege * sizeof(mmu->tlb[0]);
    unsigned entries = write ? TLB_WRITE_ENTRIES : TLB_ENTRIES;
    struct emit_rm tag = rm_vcpu(table + (write ? offsetof(struct tlb_entry, write_tag)
                                                : offsetof(struct tlb_entry, read_tag)));
    struct emit_rm addend = rm_vcpu(table + offsetof(struct tlb_entry, addend));
    tag.reg = addend.reg = T1;
    c->in_host = false;
    emit_mov(e, T1, T0);
    emit_op(e, EMIT_W, 0xc1, 5, rm_reg(T1));
    emit_u8(e, PAGE_SHIFT - 5);
    emit_alu_immediate(e, 4, 4, rm_reg(T1), (entries - 1) * 32);
    emit_lea(e, T2, rm_at(T0, (int32_t)size - 1));
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK);
    emit_op(e, EMIT_W, 0x3b, T2, tag);
    context_slow_jump(c, slow, CONDITION_NE);
    emit_op(e, EMIT_W, 0x03, T0, addend);
}
