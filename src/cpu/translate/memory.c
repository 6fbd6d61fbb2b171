/* Guest memory and slow paths in generated code. See context.h. */

#include "cpu/translate/context.h"

/* ------------------------------------------------------------------------- slow paths */

const struct insn *context_keep(struct context *c, const struct insn *insn)
{
    struct insn *copy = ring_allocate(c->translate, sizeof(*copy));
    *copy = *insn;
    return copy;
}

static struct slow_path *slow_new(struct context *c)
{
    struct slow_path *slow = &c->slow[c->slow_count++];
    unsigned end = c->runs.end[c->index], last = c->count - 1u;
    *slow = (struct slow_path){.rip = c->rip, .index = (uint8_t)c->index, .end = (uint8_t)end};
    slow->exits = end > c->index && end == last && flow_is_inline(&c->insns[last]);
    return slow;
}

struct slow_path *context_slow_begin(struct context *c)
{
    struct slow_path *slow = slow_new(c);
    context_flags_save(c);
    return slow;
}

/* The run that begins with this instruction, or RUN_NONE. */
static unsigned run_begun(const struct context *c)
{
    unsigned number = c->runs.run[c->index];
    return number != RUN_NONE && c->runs.runs[number].first == c->index ? number : RUN_NONE;
}

bool context_may_miss(const struct context *c, unsigned alignment)
{
    unsigned number = c->runs.run[c->index];
    if (c->operand.is_memory)
        return false;
    return alignment != 0 || number == RUN_NONE || run_begun(c) != RUN_NONE;
}

struct slow_path *context_slow_begin_spare(struct context *c)
{
    struct slow_path *slow = slow_new(c);
    flags_spare(c, slow);
    return slow;
}

void context_slow_jump(struct context *c, struct slow_path *slow, unsigned condition)
{
    slow->jumps[slow->jump_count++] = emit_jcc(&c->e, condition);
}

void context_slow_end(struct context *c, struct slow_path *slow)
{
    if (slow == NULL)
        return;
    context_forget_copies(c);
    slow->vectors = (uint8_t)c->vectors;
    if (slow->end == c->index)
        slow->resume = emit_offset(&c->e);
    /* Else context_run_end will. What T0 holds of a run is lost in C; what the frame has is not. */
    else if (slow->run.span == 0 && c->held == RUN_NONE)
        slow->alone = emit_offset(&c->e);
}

void context_run_end(struct context *c)
{
    for (unsigned i = c->slow_count; i-- > 0 && c->slow[i].end == c->index;) {
        if (c->slow[i].resume == 0)
            context_slow_end(c, &c->slow[i]);
    }
}

void context_slow_unless_canonical(struct context *c, struct slow_path *slow, unsigned reg)
{
    emit_compare_canonical(&c->e, T1, reg);
    context_slow_jump(c, slow, CONDITION_NE);
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
                                 .access = write ? MMU_WRITE : MMU_READ};
    return look;
}

static void look_resume(struct context *c, struct second_look *look)
{
    context_forget_copies(c);
    if (look != NULL)
        look->back = emit_offset(&c->e);
}

/* T0 becomes a host address, and it resumes; or what follows is the slow path. */
static void look_emit(struct context *c, const struct second_look *look)
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
        __attribute__((fallthrough));
    case LOOK_OFFSET:
        emit_op(e, EMIT_W, 0x03, T0, look->tag); /* add */
        emit_lea(e, T2, rm_at(T0, (int32_t)look->span - 1));
        break;
    case LOOK_CONSTANT:
        emit_constant(e, T0, look->page);
        emit_mov(e, T2, T0);
        break;
    }
    emit_call_to(e, routine);
    emit_link(e, emit_jcc(e, CONDITION_E), look->back);
}

void context_slow_emit(struct context *c, const struct slow_path *slow, unsigned number)
{
    struct emit *e = &c->e;
    uint32_t misses[SLOW_LOOKS];
    for (unsigned i = 0; i < slow->look_count; i++) {
        look_emit(c, &slow->looks[i]);
        if (i + 1 < slow->look_count)
            misses[i] = emit_jmp(e);
    }
    for (unsigned i = 0; i + 1 < slow->look_count; i++)
        emit_link(e, misses[i], emit_offset(e));
    for (unsigned i = 0; i < slow->jump_count; i++)
        emit_link(e, slow->jumps[i], emit_offset(e));
    flags_emit_slow(c, &slow->recipe);
    emit_constant(e, T0, ref_of(c->translate, c->translation) << SLOW_KEY_BITS | number);
    emit_jmp_to(e, c->translate->slow[slow->vectors]);
}

void context_call_handler(struct context *c, bool exits)
{
    const struct insn *copy = context_keep(c, c->insn);
    struct emit *e = &c->e;
    context_flags_save(c);
    emit_constant(e, T0, (uint64_t)(uintptr_t)copy);
    emit_rip(e, c->translation, T1, c->rip);
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
    if (insn->seg >= SEG_FS)
        emit_op(e, EMIT_W, 0x03, to,
                rm_vcpu(offsetof(struct vcpu, seg) + insn->seg * sizeof(struct segment) +
                        offsetof(struct segment, base)));
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

/* The entry in the first slot of the table. */
static struct tlb_rm find_table(const struct context *c, bool write)
{
    size_t entry =
        offsetof(struct vcpu, mmu.tlb) + c->privilege * sizeof(((struct vcpu *)0)->mmu.tlb[0]) +
        offsetof(struct tlb_slot, of) + (write ? MMU_WRITE : MMU_READ) * sizeof(struct tlb_entry);
    return (struct tlb_rm){rm_vcpu(entry + offsetof(struct tlb_entry, tag)),
                           rm_vcpu(entry + offsetof(struct tlb_entry, host))};
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
    struct tlb_rm entry = find_table(c, write);
    entry.tag.reg = entry.host.reg = T1;
    c->in_host = false;
    emit_slot(c);
    return entry;
}

struct tlb_rm context_probe_tag(struct context *c, struct emit_rm last, bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = find_entry(c, write);
    emit_lea(e, T2, last);
    emit_alu_immediate(e, 4, 8, rm_reg(T2), ~PAGE_MASK);
    emit_op(e, EMIT_W, 0x3b, T2, entry.tag);
    return entry;
}

void context_probe_to(struct context *c, struct slow_path *slow, struct emit_rm last, bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = context_probe_tag(c, last, write);
    struct second_look *look = look_begin(c, slow, write, CONDITION_NE);
    emit_op(e, EMIT_W, 0x2b, T0, rm_reg(T2)); /* sub */
    emit_op(e, EMIT_W, 0x03, T0, entry.host);
    if (look != NULL)
        look->from = LOOK_LAST;
    look_resume(c, look);
}

/*
 *      rorx r10, r9, 7                 or MOV and SHR; a slot is 32 bytes
 *      and  r10d, 0x3ffe0              8192 slots
 *      sub  r9, gs:[r10 + tag]         where it is in that page,
 *      cmp  r9, 4096 - size            if it is, with all its bytes
 *      ja   slow
 *      add  r9, gs:[r10 + host]
 */
void context_probe(struct context *c, struct slow_path *slow, unsigned size, bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = find_entry(c, write);
    emit_op(e, EMIT_W, 0x2b, T0, entry.tag);
    emit_alu_immediate(e, 7, 8, rm_reg(T0), PAGE_SIZE - size);
    struct second_look *look = look_begin(c, slow, write, CONDITION_A);
    emit_op(e, EMIT_W, 0x03, T0, entry.host);
    if (look != NULL) {
        look->from = LOOK_OFFSET;
        look->tag = entry.tag;
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
    look->tag = rm_stack(c->privilege, offsetof(struct stack_page, page), 0);
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

/* The same for such an address: which entry it is, its tag, and where in its page it is, are known
 * as well.
 *
 *      cmp  gs:[tag], page             or MOV R10 and CMP
 *      jne  slow
 *      mov  r9, gs:[host]
 */
static struct emit_rm probe_constant(struct context *c, struct slow_path *slow, uint64_t address,
                                     bool write)
{
    struct emit *e = &c->e;
    struct tlb_rm entry = find_table(c, write);
    uint64_t page = address & ~PAGE_MASK, slot = address >> PAGE_SHIFT & (TLB_ENTRIES - 1);
    entry.tag.displacement += (int32_t)(slot << ENTRY_SHIFT);
    entry.host.displacement += (int32_t)(slot << ENTRY_SHIFT);
    c->in_host = false;
    c->held = RUN_NONE;
    if ((int64_t)page == (int32_t)page) {
        emit_alu_immediate(e, 7, 8, entry.tag, page);
    } else {
        emit_constant(e, T1, page);
        emit_op(e, EMIT_W, 0x3b, T1, entry.tag);
    }
    struct second_look *look = look_begin(c, slow, write, CONDITION_NE);
    emit_load(e, T0, entry.host);
    if (look != NULL) {
        look->from = LOOK_CONSTANT;
        look->page = page;
    }
    look_resume(c, look);
    return rm_at(T0, (int32_t)(address & PAGE_MASK));
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
    emit_load(e, T0, entry.host);
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

/* ------------------------------------------------------------------------- operands */

static int32_t frame_slot(const struct run *run)
{
    return FRAME_RUNS + 8 * run->slot;
}

/* The run has just been probed, at its first access: T0 is where it begins. */
static void hold_run(struct context *c, struct slow_path *slow, unsigned number)
{
    slow->run = c->runs.runs[number];
    slow->at = c->runs.at[c->index];
    emit_store(&c->e, rm_at(HOST_RSP, frame_slot(&c->runs.runs[number])), T0);
    c->held = number;
}

/* Its run has been probed: T0 = where it begins. */
static void take_run(struct context *c, unsigned number)
{
    if (c->held != number)
        emit_load(&c->e, T0, rm_at(HOST_RSP, frame_slot(&c->runs.runs[number])));
    c->held = number;
}

/* A host address has the bits below a page's of the linear one. */
static void require_aligned(struct context *c, struct slow_path *slow, struct emit_rm rm,
                            unsigned alignment)
{
    struct emit *e = &c->e;
    unsigned reg = T0;
    if (alignment == 0)
        return;
    c->in_host = false;
    if (rm.displacement != 0)
        emit_lea(e, reg = T1, rm);
    emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(reg)); /* test */
    emit_u8(e, alignment);
    context_slow_jump(c, slow, CONDITION_NE);
}

struct emit_rm context_operand(struct context *c, struct slow_path *slow, unsigned size, bool write,
                               unsigned alignment)
{
    unsigned number = c->runs.run[c->index];
    struct emit_rm rm = rm_at(T0, 0);
    if (c->operand.is_memory)
        return c->operand;
    if (number == RUN_NONE) {
        rm = context_probe_operand(c, slow, size, write);
    } else {
        rm.displacement = c->runs.at[c->index];
        if (run_begun(c) != RUN_NONE) {
            const struct insn *insn = c->insn;
            struct insn first = *insn;
            first.displacement -= rm.displacement;
            const struct run *run = &c->runs.runs[number];
            c->insn = &first;
            struct emit_rm start = context_probe_operand(c, slow, run->span, run->writes);
            c->insn = insn;
            if (start.displacement != 0)
                emit_lea(&c->e, T0, start);
            hold_run(c, slow, number);
        } else {
            take_run(c, number);
        }
    }
    require_aligned(c, slow, rm, alignment);
    return rm;
}

static void probe_base(struct context *c, struct slow_path *slow, unsigned base,
                       int32_t displacement, unsigned size, bool write)
{
    emit_lea(&c->e, T0, rm_at(host_of(base), displacement));
    if (base == GPR_RSP)
        probe_stack(c, slow, size, write);
    else
        context_probe(c, slow, size, write);
}

struct emit_rm context_stack(struct context *c, struct slow_path *slow, unsigned base,
                             int32_t displacement, bool write)
{
    unsigned number = c->runs.run[c->index];
    if (number == RUN_NONE) {
        c->held = RUN_NONE;
        probe_base(c, slow, base, displacement, 8, write);
        return rm_at(T0, 0);
    }
    int32_t at = c->runs.at[c->index];
    if (run_begun(c) != RUN_NONE) {
        const struct run *run = &c->runs.runs[number];
        probe_base(c, slow, base, displacement - at, run->span, run->writes);
        hold_run(c, slow, number);
    } else {
        take_run(c, number);
    }
    return rm_at(T0, at);
}
