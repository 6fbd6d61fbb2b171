/*
 * Runs: several accesses, one probe.
 *
 * Most code gets at memory by few pointers: the stack's, a structure's, an array's. Accesses of a
 * translation whose addresses differ by constants are a run: the first one probes for all of them,
 * from the lowest byte to the end of the highest, for writing if one of them writes. The host
 * address is kept in the frame, and the others have no more to do than to use it:
 *
 *      push rbp        ; [RSP - 8]     probe [RSP - 24, RSP), to T0 and the frame
 *      push rbx        ; [RSP - 16]    mov [T0 + 8], rbx
 *      push rax        ; [RSP - 24]    mov [T0], rax
 *
 * Which addresses differ by constants is found by numbering values: a register has a number and an
 * offset from it. PUSH, POP, LEA, ADD, INC and MOV of registers change the offset or copy the pair,
 * all else makes a new number. Nothing between the accesses of a run calls C, so that what the
 * probe has said stays true: blocks have no safepoint inside, and code that calls handlers in line
 * ends all runs.
 *
 * When the probe of a run fails C runs everything up to its end, or that of all runs that overlap,
 * by handlers; generated code goes on after that. That is exact, and slow for who does it often: a
 * run over a page border. So it is counted, and the block translated again without runs (slow.c).
 * When the probe of an access between those of a run fails, that alone is for C, unless the MMU
 * parks meanwhile, after which the host address in the frame is no good. A run may go on behind
 * branches that are not taken; where C takes one, it leaves for the dispatcher.
 */

#include "cpu/translate/run.h"

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"
#include "cpu/translate/plan.h"

/* Numbers of values: registers at the start of the block have their own, then come new ones. */
enum { VALUE_NONE = GPR_COUNT, VALUE_RIP, VALUE_NEW };

#define OFFSET_MAX ((int64_t)1 << 30)

struct value {
    uint16_t number;
    int64_t offset;
};

/* Where an access is, and how much of it is constant. */
struct place {
    uint16_t base, index;
    uint8_t scale, seg;
    int64_t offset;
    unsigned size;
    bool writes;
};

struct finder {
    struct runs *runs;
    const struct translate *translate;
    const struct translation *t;
    struct value gpr[GPR_COUNT];
    uint16_t next;
    uint64_t rip; /* of the instruction, from the start of the block */
    unsigned count, sealed;
    struct {
        struct place place;
        int64_t min, max;
        unsigned accesses;
    } found[RUNS_MAX];
    int64_t offset[BLOCK_MAX_INSNS];
};

/* ------------------------------------------------------------------------- values */

static void forget(struct finder *f, unsigned gpr)
{
    f->gpr[gpr] = (struct value){.number = f->next++};
}

static void forget_all(struct finder *f)
{
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
        forget(f, gpr);
}

/* gpr = from + by */
static void derive(struct finder *f, unsigned gpr, unsigned from, int64_t by)
{
    struct value value = f->gpr[from];
    value.offset += by;
    if (value.offset < -OFFSET_MAX || value.offset > OFFSET_MAX || by < -OFFSET_MAX ||
        by > OFFSET_MAX)
        forget(f, gpr);
    else
        f->gpr[gpr] = value;
}

static bool is_wide(const struct insn *insn, unsigned n)
{
    return is_gpr(insn, n) && insn->op[n].size == 8;
}

/* Registers whose new value is an old one and a constant. */
static bool derive_registers(struct finder *f, const struct insn *insn)
{
    unsigned to = insn->op[0].reg;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        derive(f, GPR_RSP, GPR_RSP, -8);
        return true;
    case ZYDIS_MNEMONIC_POP:
        derive(f, GPR_RSP, GPR_RSP, 8);
        forget(f, to);
        return true;
    case ZYDIS_MNEMONIC_LEAVE:
        derive(f, GPR_RSP, GPR_RBP, 8);
        forget(f, GPR_RBP);
        return true;
    default:
        break;
    }
    if (!is_wide(insn, 0))
        return false;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (!is_wide(insn, 1))
            return false;
        derive(f, to, insn->op[1].reg, 0);
        return true;
    case ZYDIS_MNEMONIC_LEA:
        if (insn->base >= GPR_COUNT || insn->index != INSN_REG_NONE || insn->address_size != 8)
            return false;
        derive(f, to, insn->base, insn->displacement);
        return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (!is_immediate(insn, 1))
            return false;
        derive(f, to, to,
               insn->mnemonic == ZYDIS_MNEMONIC_ADD ? (int64_t)insn->immediate
                                                    : (int64_t)(0 - insn->immediate));
        return true;
    case ZYDIS_MNEMONIC_INC:
        derive(f, to, to, 1);
        return true;
    case ZYDIS_MNEMONIC_DEC:
        derive(f, to, to, -1);
        return true;
    default:
        return false;
    }
}

/* What the instruction, one that is generated, does to registers. `plan`: NULL where it has none.
 */
static void note_registers(struct finder *f, const struct insn *insn, const struct plan *plan)
{
    struct insn_effects effects;
    if (derive_registers(f, insn))
        return;
    if (plan != NULL) {
        if (plan->effects & RM_WRITE && is_gpr(insn, plan->rm))
            forget(f, insn->op[plan->rm].reg);
        if (plan->effects & REG_WRITE)
            forget(f, insn->op[plan->reg].reg);
    } else if (vector_effects(insn, &effects)) {
        /* PCMPISTRI writes RCX, which is no operand of it. */
        for (unsigned written = effects.written; written != 0; written &= written - 1)
            forget(f, (unsigned)__builtin_ctz(written));
    } else {
        for (unsigned n = 0; n < INSN_MAX_OPERANDS; n++) {
            if (is_gpr(insn, n) || insn->op[n].kind == OPERAND_GPR_HIGH)
                forget(f, insn->op[n].reg);
        }
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_IMUL:
        if (insn->operand_count != 1)
            break;
        /* fallthrough */
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
        forget(f, GPR_RAX);
        forget(f, GPR_RDX);
        break;
    default:
        break;
    }
}

/* ------------------------------------------------------------------------- accesses */

static void place_at(const struct finder *f, struct place *p, unsigned gpr, int64_t displacement)
{
    p->base = f->gpr[gpr].number;
    p->offset = f->gpr[gpr].offset + displacement;
}

static bool find_stack(const struct finder *f, const struct insn *insn, struct place *p)
{
    *p = (struct place){.index = VALUE_NONE, .size = 8};
    if (insn->mnemonic == ZYDIS_MNEMONIC_PUSH || insn->exec == exec_call) {
        place_at(f, p, GPR_RSP, -8);
        p->writes = true;
        return insn->exec == exec_call || !is_memory(insn, 0);
    }
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEAVE) {
        place_at(f, p, GPR_RBP, 0);
        return true;
    }
    place_at(f, p, GPR_RSP, 0);
    return insn->mnemonic == ZYDIS_MNEMONIC_POP || insn->exec == exec_ret;
}

static bool find_operand(const struct finder *f, const struct insn *insn, const struct plan *plan,
                         struct place *p)
{
    *p = (struct place){.base = VALUE_NONE, .index = VALUE_NONE};
    if (plan != NULL) {
        if (!is_memory(insn, plan->rm))
            return false;
        p->size = insn->op[plan->rm].size;
        p->writes = plan->effects & RM_WRITE;
    } else {
        p->size = vector_memory_size(insn);
        p->writes = vector_store_size(insn) != 0;
    }
    if (p->size == 0 || insn->address_size != 8 || insn->displacement < -OFFSET_MAX ||
        insn->displacement > OFFSET_MAX)
        return false;
    if (insn->base < GPR_COUNT)
        place_at(f, p, insn->base, 0);
    else if (insn->base == INSN_REG_RIP) {
        p->base = VALUE_RIP;
        p->offset = (int64_t)f->rip + insn->length;
    }
    p->offset += insn->displacement;
    if (insn->index < GPR_COUNT) {
        p->index = f->gpr[insn->index].number;
        p->scale = insn->scale;
        p->offset += f->gpr[insn->index].offset * (1 << insn->scale);
    }
    p->seg = insn->seg >= SEG_FS ? insn->seg : 0;
    return true;
}

/* ------------------------------------------------------------------------- runs */

/* In a direct translation an access that may not be direct is of no run. */
static bool may_run(const struct finder *f, const struct place *p)
{
    return !f->t->is_direct || (p->base != VALUE_NONE && p->base != VALUE_RIP &&
                                direct_is_wanted(f->translate, translation_gpa(f->t) + f->rip));
}

static bool is_near(const struct place *a, const struct place *b)
{
    return a->base == b->base && a->index == b->index && a->scale == b->scale && a->seg == b->seg;
}

static void add_access(struct finder *f, unsigned i, const struct place *p)
{
    int64_t min = p->offset, max = p->offset + p->size;
    f->offset[i] = p->offset;
    for (unsigned r = f->count; r-- > f->sealed;) {
        if (!is_near(&f->found[r].place, p))
            continue;
        int64_t low = f->found[r].min < min ? f->found[r].min : min;
        int64_t high = f->found[r].max > max ? f->found[r].max : max;
        if (high - low > RUN_SPAN)
            break;
        f->found[r].min = low;
        f->found[r].max = high;
        f->found[r].accesses++;
        f->runs->runs[r].last = (uint8_t)i;
        f->runs->runs[r].writes |= p->writes;
        f->runs->run[i] = (uint8_t)r;
        return;
    }
    if (f->count == RUNS_MAX)
        return;
    unsigned r = f->count++;
    f->found[r].place = *p;
    f->found[r].min = min;
    f->found[r].max = max;
    f->found[r].accesses = 1;
    f->runs->runs[r] = (struct run){.first = (uint8_t)i, .last = (uint8_t)i, .writes = p->writes};
    f->runs->run[i] = (uint8_t)r;
}

static void scan(struct finder *f, const struct insn *insns, unsigned count, unsigned first)
{
    for (unsigned i = 0; i < count; i++) {
        const struct insn *insn = &insns[i];
        struct place place;
        struct plan planned, *plan = integer_plan(&planned, insn) ? &planned : NULL;
        if (i < first) {
            /* only RIP counts */
        } else if (plan == NULL && !translate_is_inline(insn)) {
            f->sealed = f->count;
            forget_all(f);
        } else {
            bool stack = stack_is_inline(insn) || insn->exec == exec_call || insn->exec == exec_ret;
            bool found = stack ? find_stack(f, insn, &place) : find_operand(f, insn, plan, &place);
            if (found && may_run(f, &place))
                add_access(f, i, &place);
            note_registers(f, insn, plan);
        }
        f->rip += insn->length;
        if (insn->exec == exec_jmp && is_immediate(insn, 0))
            f->rip += insn->immediate;
    }
}

/* It may have two accesses that make a run. */
static bool is_worth_it(const struct insn *insns, unsigned count, unsigned first)
{
    unsigned accesses = 0;
    for (unsigned i = first; i < count && accesses < 2; i++) {
        const struct insn *insn = &insns[i];
        accesses += stack_is_inline(insn) || insn->exec == exec_call || insn->exec == exec_ret ||
                    insn->base != INSN_REG_NONE || insn->index != INSN_REG_NONE ||
                    is_memory(insn, 0) || is_memory(insn, 1);
    }
    return accesses == 2;
}

/* A slot of the frame for each run of more than one access, in the order in which they begin.
 * Those that get none are no runs. */
static void give_slots(struct finder *f)
{
    struct runs *runs = f->runs;
    int free_from[RUN_SLOTS] = {0};
    bool is_good[RUNS_MAX] = {0};
    for (unsigned r = 0; r < f->count; r++) {
        struct run *run = &runs->runs[r];
        run->span = (uint16_t)(f->found[r].max - f->found[r].min);
        for (unsigned slot = 0; f->found[r].accesses > 1 && slot < RUN_SLOTS; slot++) {
            if (free_from[slot] > run->first)
                continue;
            free_from[slot] = run->last + 1;
            run->slot = (uint8_t)slot;
            is_good[r] = true;
            break;
        }
    }
    for (unsigned i = 0; i < BLOCK_MAX_INSNS; i++) {
        unsigned r = runs->run[i];
        if (r == RUN_NONE)
            continue;
        if (is_good[r])
            runs->at[i] = (uint8_t)(f->offset[i] - f->found[r].min);
        else
            runs->run[i] = RUN_NONE;
    }
}

/* Direct accesses fault each for itself: C does one at a time. */
static void find_ends(struct runs *runs, unsigned count, bool is_direct)
{
    unsigned end = 0, first = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct run *run = runs->run[i] != RUN_NONE ? &runs->runs[runs->run[i]] : NULL;
        if (run != NULL && run->first == i && !is_direct) {
            if (i >= end)
                first = i;
            end = run->last > end ? run->last : end;
            for (unsigned k = first; k < end; k++)
                runs->end[k] = (uint8_t)end;
        }
        if (i >= end)
            runs->end[i] = (uint8_t)i;
    }
}

void runs_find(struct runs *runs, const struct translate *translate, const struct translation *t,
               const struct insn *insns, unsigned count, unsigned first)
{
    memset(runs->run, RUN_NONE, sizeof(runs->run));
    if (!is_worth_it(insns, count, first)) {
        for (unsigned i = 0; i < count; i++)
            runs->end[i] = (uint8_t)i;
        return;
    }
    struct finder f;
    f.runs = runs;
    f.translate = translate;
    f.t = t;
    f.next = VALUE_NEW;
    f.rip = 0;
    f.count = f.sealed = 0;
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
        f.gpr[gpr] = (struct value){.number = (uint16_t)gpr};
    scan(&f, insns, count, first);
    give_slots(&f);
    find_ends(runs, count, t->is_direct);
}
