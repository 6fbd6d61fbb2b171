/*
 * Probes of the TLB in generated code: a linear address becomes a host address. There are four
 * kinds, by what is known of the address: nothing, that it is near RSP, how far from the page of
 * the code, all of it; and direct accesses (direct.c) have one that asks no TLB. What has failed
 * looks elsewhere, aside (look), before it is the slow path.
 */

#include "cpu/translate/context.h"

/* ------------------------------------------------------------------------- addresses */

void context_address_to(struct context *c, unsigned to)
{
    if (to == T0 || (c->insn->base < GPR_COUNT && host_of(c->insn->base) == HOST_NONE))
        c->held = RUN_NONE;
    const struct insn *insn = c->insn;
    struct emit *e = &c->e;
    unsigned wide = insn->address_size == 8 ? EMIT_W : 0;
    if (insn->base == INSN_REG_RIP) {
        emit_rip(e, c->translation, to, c->next_rip + (uint64_t)insn->displacement);
        if (!wide)
            emit_op(e, 0, 0x8b, to, rm_reg(to));
    } else if (insn->base == INSN_REG_NONE && insn->index == INSN_REG_NONE) {
        uint64_t address = (uint64_t)insn->displacement;
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
        if (wide)
            emit_lea(e, to, rm);
        else
            emit_op(e, 0, 0x8d, to, rm);
    }
    if (insn->seg >= SEG_FS) {
        emit_load(e, T1,
                  rm_vcpu(offsetof(struct vcpu, seg) + insn->seg * sizeof(struct segment) +
                          offsetof(struct segment, base)));
        emit_lea(e, to, (struct emit_rm){1, 0, (uint8_t)to, T1, 0, 0});
    }
}

void context_address(struct context *c)
{
    context_address_to(c, T0);
}

void context_shifted(struct context *c, unsigned to, unsigned from, unsigned count)
{
    struct emit *e = &c->e;
    if (c->translate->has_rorx) {
        emit_vex(e, (struct vex){.map = 3, .pp = 3, .w = true, .opcode = 0xf0}, to, 0,
                 rm_reg(from));
    } else {
        emit_mov(e, to, from);
        emit_op(e, EMIT_W, 0xc1, 5, rm_reg(to)); /* shr */
    }
    emit_u8(e, count);
}

/* ------------------------------------------------------------------------- second looks */

static enum mmu_access access_of(bool write)
{
    return write ? MMU_WRITE : MMU_READ;
}

/* The branch of a probe that has failed, after which comes what completes a hit: then the caller
 * calls look_resume. NULL: it is the slow path at once. */
static struct second_look *look_begin(struct context *c, struct slow_path *slow, bool write,
                                      unsigned condition)
{
    if (slow->look_count == SLOW_LOOKS || c->privilege >= MMU_PRIVILEGES) {
        context_slow_jump(c, slow, condition);
        return NULL;
    }
    struct second_look *look = &slow->looks[slow->look_count++];
    *look = (struct second_look){.jump = emit_jcc(&c->e, condition),
                                 .privilege = (uint8_t)c->privilege,
                                 .access = access_of(write)};
    return look;
}

static void look_resume(struct context *c, struct second_look *look)
{
    context_forget_copies(c);
    if (look != NULL)
        look->back = emit_offset(&c->e);
}

/* After BTC has set its bit, so CF is clear: now CF is, if it is still where low addresses have
 * their places. Spoils T2. */
static void emit_check_low(struct emit *e)
{
    emit_constant(e, T2, -((1ull << WINDOW_BIT) + (1ull << WINDOW_LOW_BITS)));
    emit_op(e, EMIT_66 | EMIT_W, 0x0f38f6, T2, rm_reg(T0)); /* adcx */
}

void context_look_emit(struct context *c, const struct second_look *look)
{
    struct emit *e = &c->e;
    emit_link(e, look->jump, emit_offset(e));
    uint32_t routine = c->translate->second_look[look->privilege][look->access];
    switch (look->from) {
    case LOOK_PAGE:
        emit_mov(e, T2, T0);
        break;
    case LOOK_LAST:
        break;
    case LOOK_STACK:
        routine = c->translate->stack_look[look->privilege][look->access];
        emit_op(e, EMIT_W, 0x03, T0,
                rm_stack(look->privilege, offsetof(struct stack_page, page), 0)); /* add */
        __attribute__((fallthrough));
    case LOOK_SPAN:
        emit_lea(e, T2, rm_at(T0, (int32_t)look->span - 1));
        break;
    case LOOK_CONSTANT:
        emit_constant(e, T0, look->page);
        emit_mov(e, T2, T0);
        break;
    case LOOK_LOW:
        emit_check_low(e);
        emit_link(e, emit_jcc(e, CONDITION_AE), look->back);
        return;
    }
    emit_call_to(e, routine);
    emit_lea(e, T0, rm_at(T0, -look->less));
    emit_link(e, emit_jcc(e, CONDITION_E), look->back);
}

/* ------------------------------------------------------------------------- probes */

static struct tlb_rm rm_entry(size_t table, enum mmu_access access, unsigned slot)
{
    size_t entry = table + offsetof(struct tlb_slot, of) + access * sizeof(struct tlb_entry);
    struct tlb_rm rm = {rm_vcpu(entry + offsetof(struct tlb_entry, tag)),
                        rm_vcpu(entry + offsetof(struct tlb_entry, addend))};
    rm.tag.reg = rm.addend.reg = (uint8_t)slot;
    return rm;
}

struct tlb_rm rm_tlb(unsigned privilege, enum mmu_access access, unsigned slot)
{
    return rm_entry(offsetof(struct vcpu, mmu.tlb) +
                        privilege * sizeof(((struct vcpu *)0)->mmu.tlb[0]),
                    access, slot);
}

struct tlb_rm rm_tlb_spare(unsigned privilege, enum mmu_access access, unsigned slot)
{
    return rm_entry(offsetof(struct vcpu, mmu.tlb_spare) +
                        privilege * sizeof(((struct vcpu *)0)->mmu.tlb_spare[0]),
                    access, slot);
}

/* T1 = where the slot of T0 is in a table. */
static void emit_slot(struct context *c)
{
    context_shifted(c, T1, T0, PAGE_SHIFT - ENTRY_SHIFT);
    emit_alu_immediate(&c->e, 4, 4, rm_reg(T1), (TLB_ENTRIES - 1) << ENTRY_SHIFT);
}

/* That of T0's slot. Spoils T1, which it is given by. */
static struct tlb_rm find_entry(struct context *c, bool write)
{
    c->in_host = false;
    emit_slot(c);
    return rm_tlb(c->privilege, access_of(write), T1);
}

struct emit_rm context_probe_tag(struct context *c, struct emit_rm last, bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = find_entry(c, write);
    emit_lea(e, T2, last);
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK);
    emit_op(e, EMIT_W, 0x3b, T2, entry.tag);
    return entry.addend;
}

void context_probe_to(struct context *c, struct slow_path *slow, struct emit_rm last, bool write)
{
    struct emit_rm addend = context_probe_tag(c, last, write);
    struct second_look *look = look_begin(c, slow, write, CONDITION_NE);
    emit_op(&c->e, EMIT_W, 0x03, T0, addend);
    if (look != NULL)
        look->from = LOOK_LAST;
    look_resume(c, look);
}

/*
 *      rorx r10, r9, 7                 or MOV and SHR; a slot is 32 bytes
 *      and  r10d, 0x3ffe0              8192 slots
 *      mov  r11, r9
 *      sub  r11, gs:[r10 + tag]        where it is in that page,
 *      cmp  r11, 4096 - size           if it is, with all its bytes
 *      ja   slow
 *      add  r9, gs:[r10 + addend]
 */
void context_probe(struct context *c, struct slow_path *slow, unsigned size, bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = find_entry(c, write);
    emit_mov(e, T2, T0);
    emit_op(e, EMIT_W, 0x2b, T2, entry.tag);
    emit_alu_immediate(e, 7, 8, rm_reg(T2), PAGE_SIZE - size);
    struct second_look *look = look_begin(c, slow, write, CONDITION_A);
    emit_op(e, EMIT_W, 0x03, T0, entry.addend);
    if (look != NULL) {
        look->from = LOOK_SPAN;
        look->span = size;
    }
    look_resume(c, look);
}

/* The same for what is near RSP.
 *
 *      sub  r9, [rsp + page]
 *      cmp  r9, [rsp + limit]
 *      jae  slow
 *      add  r9, [rsp + host]
 */
static void probe_stack(struct context *c, struct slow_path *slow, unsigned size, bool write)
{
    struct emit *e = &c->e;
    if (c->privilege >= STACK_PAGES || size > STACK_SPAN_MAX || slow->look_count == SLOW_LOOKS) {
        context_probe(c, slow, size, write);
        return;
    }
    c->in_host = false;
    emit_op(e, EMIT_W, 0x2b, T0, rm_stack(c->privilege, offsetof(struct stack_page, page), 0));
    emit_op(e, EMIT_W, 0x3b, T0, rm_stack(c->privilege, offsetof(struct stack_page, limit), 0));
    struct second_look *look = look_begin(c, slow, write, CONDITION_AE);
    emit_op(e, EMIT_W, 0x03, T0, rm_stack(c->privilege, offsetof(struct stack_page, host), 0));
    look->from = LOOK_STACK;
    look->span = size;
    look_resume(c, look);
}

static bool is_on_stack(const struct insn *insn)
{
    return insn->base == GPR_RSP && insn->index == INSN_REG_NONE && insn->seg < SEG_FS &&
           insn->address_size == 8;
}

/* The memory operand is at an address that is known now. In relative code that is its address
 * where the code is made, if it depends on RIP. */
static bool find_constant(const struct context *c, uint64_t *address)
{
    const struct insn *insn = c->insn;
    *address = (uint64_t)insn->displacement;
    if (insn->base == INSN_REG_RIP)
        *address += c->next_rip;
    else if (insn->base != INSN_REG_NONE || insn->index != INSN_REG_NONE)
        return false;
    if (insn->address_size != 8) {
        *address = (uint32_t)*address;
        if (insn->base == INSN_REG_RIP && c->translation->is_relative)
            return false;
    }
    return insn->seg < SEG_FS;
}

static bool is_displacement(uint64_t value)
{
    return (int64_t)value == (int32_t)value;
}

/* The same for such an address: which entry it is, its tag, and where in its page it is, are known
 * as well.
 *
 *      cmp  gs:[tag], page             or MOV R10 and CMP,
 *      jne  slow
 *      mov  r9, gs:[addend]            and ADD of R10
 */
static struct emit_rm probe_constant(struct context *c, struct slow_path *slow, uint64_t address,
                                     bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = rm_tlb(c->privilege, access_of(write), HOST_NONE);
    uint64_t page = address & ~PAGE_MASK, slot = address >> PAGE_SHIFT & (TLB_ENTRIES - 1);
    /* What is added to T0, and what is taken from it again (look). */
    bool is_short = is_displacement(page) && is_displacement(-page);
    entry.tag.displacement += (int32_t)(slot << ENTRY_SHIFT);
    entry.addend.displacement += (int32_t)(slot << ENTRY_SHIFT);
    c->in_host = false;
    c->held = RUN_NONE;
    if (is_short) {
        emit_alu_immediate(e, 7, 8, entry.tag, page);
    } else {
        emit_constant(e, T1, page);
        emit_op(e, EMIT_W, 0x3b, T1, entry.tag);
    }
    struct second_look *look = look_begin(c, slow, write, CONDITION_NE);
    emit_load(e, T0, entry.addend);
    if (!is_short)
        emit_op(e, EMIT_W, 0x03, T0, rm_reg(T1));
    int32_t less = is_short ? (int32_t)page : 0;
    if (look != NULL) {
        look->from = LOOK_CONSTANT;
        look->page = page;
        look->less = less;
    }
    look_resume(c, look);
    return rm_at(T0, less + (int32_t)(address & PAGE_MASK));
}

/* The same for one that is a constant away from code_page.
 *
 *      mov  r9, gs:[code_page]
 *      lea  r9, [r9 + pages]
 *      the probe of its first byte, with R9 for its tag
 */
static struct emit_rm probe_relative(struct context *c, struct slow_path *slow, uint64_t address,
                                     bool write)
{
    struct emit *e = &c->e;
    c->held = RUN_NONE;
    emit_rip(e, c->translation, T0, address & ~PAGE_MASK);
    struct tlb_rm entry = find_entry(c, write);
    emit_op(e, EMIT_W, 0x3b, T0, entry.tag);
    struct second_look *look = look_begin(c, slow, write, CONDITION_NE);
    emit_op(e, EMIT_W, 0x03, T0, entry.addend);
    if (look != NULL)
        look->from = LOOK_PAGE;
    look_resume(c, look);
    return rm_at(T0, (int32_t)(address & PAGE_MASK));
}

struct emit_rm context_probe_operand(struct context *c, struct slow_path *slow, unsigned size,
                                     bool write)
{
    uint64_t address;
    if (find_constant(c, &address) && (address & PAGE_MASK) <= PAGE_SIZE - size) {
        if (c->insn->base == INSN_REG_RIP && c->translation->is_relative)
            return probe_relative(c, slow, address, write);
        return probe_constant(c, slow, address, write);
    }
    context_address(c);
    if (is_on_stack(c->insn))
        probe_stack(c, slow, size, write);
    else
        context_probe(c, slow, size, write);
    return rm_at(T0, 0);
}

void context_probe_base(struct context *c, struct slow_path *slow, unsigned base,
                        int32_t displacement, unsigned size, bool write)
{
    emit_lea(&c->e, T0, rm_at(host_of(base), displacement));
    if (base == GPR_RSP)
        probe_stack(c, slow, size, write);
    else
        context_probe(c, slow, size, write);
}

/* ------------------------------------------------------------------------- the window */

/* Which half of the window an address is in is a guess: what it would be now, where its registers
 * have no other values before the instruction. */
static bool is_low(const struct context *c, uint64_t address)
{
    if (!window_has_place(address) || address < MIB)
        address = c->rip;
    return address >> WINDOW_LOW_BITS == 0;
}

/* C may be reached from here on, and not by a branch. */
void context_direct_mark(struct context *c, struct slow_path *slow)
{
    slow->is_direct = true;
    emit_offset(&c->e);
}

/*
 * T0, a linear address, becomes a host address in the window or nowhere, or it is the slow path.
 * BTC and ADCX write no flag but CF (direct.c).
 *
 * High:                                    low:
 *      btc  r9, 46     the bit was set            btc  r9, 46
 *      jnc  other                                 jc   high
 *                                                 mov  r11, -0x410000000000
 *                                                 adcx r11, r9
 *                                                 jc   slow
 */
static void emit_direct(struct context *c, struct slow_path *slow, bool is_low)
{
    struct emit *e = &c->e;
    c->in_host = false;
    emit_op(e, EMIT_W, 0x0fba, 7, rm_reg(T0)); /* btc */
    emit_u8(e, WINDOW_BIT);
    if (is_low) {
        uint32_t high = emit_jcc(e, CONDITION_B);
        emit_check_low(e);
        context_slow_jump(c, slow, CONDITION_B);
        emit_link(e, high, emit_offset(e));
        context_forget_copies(c);
    } else {
        struct second_look *look = look_begin(c, slow, false, CONDITION_AE);
        if (look != NULL)
            look->from = LOOK_LOW;
        look_resume(c, look);
    }
}

struct emit_rm context_direct_operand(struct context *c, struct slow_path *slow)
{
    const struct insn *insn = c->insn;
    const struct vcpu *vcpu = c->translate->vcpu;
    uint64_t address;
    bool is_relative = insn->base == INSN_REG_RIP && c->translation->is_relative;
    context_direct_mark(c, slow);
    if (!is_relative && find_constant(c, &address) && window_has_place(address)) {
        c->held = RUN_NONE;
        emit_constant(&c->e, T0, window_flip(address));
        return rm_at(T0, 0);
    }
    context_address(c);
    address = insn->base == INSN_REG_RIP ? c->rip : insn_address(vcpu, insn);
    emit_direct(c, slow,
                is_low(c, insn->seg >= SEG_FS ? address + vcpu->seg[insn->seg].base : address));
    return rm_at(T0, 0);
}

struct emit_rm context_direct_base(struct context *c, struct slow_path *slow, unsigned base,
                                   int32_t displacement)
{
    context_direct_mark(c, slow);
    c->held = RUN_NONE;
    emit_lea(&c->e, T0, rm_at(host_of(base), displacement));
    emit_direct(c, slow, is_low(c, c->translate->vcpu->gpr[base]));
    return rm_at(T0, 0);
}
