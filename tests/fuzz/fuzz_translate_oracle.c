/*
 * The interpreter, with a look at each instruction before it is executed: so a run has a bound, and
 * what its end is worth is known (struct fuzz_end).
 */

#include <setjmp.h>
#include <string.h>

#include "cpu/exception.h"
#include "cpu/interp/block.h"
#include "fuzz_translate.h"
#include "program_generator.h"

#define STEPS_MAX 3000u

struct oracle {
    struct vcpu *vcpu;
    struct fuzz_end *end;
    bool handles;
    unsigned steps;
};

/* The bytes of the instruction at RIP, `at` bytes from the start of the block, whose pages have all
 * just been brought in. */
static void fetch(struct vcpu *vcpu, const struct block *block, const struct insn *insn,
                  unsigned at, uint8_t bytes[INSN_MAX_LENGTH])
{
    uint64_t gpa = block->gpa + at;
    uint64_t linear = vcpu->rip + (vcpu->mode != MODE_LONG ? vcpu->seg[SEG_CS].base : 0);
    unsigned in_page = (unsigned)(PAGE_SIZE - (gpa & PAGE_MASK));
    unsigned length = insn->length < in_page ? insn->length : in_page;
    memset(bytes, 0x90, INSN_MAX_LENGTH);
    pmap_read(vcpu->mmu.map, gpa, bytes, length);
    if (length < insn->length) {
        const struct itlb_entry *entry =
            &vcpu->mmu.itlb[vcpu->cpl != 3][(linear / PAGE_SIZE + 1) & (ITLB_ENTRIES - 1)];
        memcpy(bytes + length, entry->host, insn->length - length);
    }
}

static bool decode(const struct vcpu *vcpu, const uint8_t bytes[INSN_MAX_LENGTH],
                   struct decoded *decoded)
{
    ZydisDecoder decoder;
    if (vcpu->code_size == 8)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    else if (vcpu->code_size == 4)
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16);
    memset(decoded, 0, sizeof(*decoded));
    ZydisDecoderContext context;
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, &context, bytes, INSN_MAX_LENGTH,
                                                      &decoded->insn)) &&
           ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&decoder, &context, &decoded->insn,
                                                   decoded->operands, decoded->insn.operand_count));
}

/* Time, chance, and what the engines may do unlike. */
static bool is_steady(const struct vcpu *vcpu, const struct insn *insn)
{
    uint32_t msr = (uint32_t)vcpu->gpr[GPR_RCX];
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        return false;
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_WRMSR:
        return msr > 0x8b || msr < 0x10 ? msr >> 8 != 0x4b564d : msr == 0x1b;
    default:
        return true;
    }
}

static uint32_t flags_read(const struct oracle *o, const struct flag_effect *effect,
                           const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return F_ALL;
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
        return o->handles ? F_ALL : 0;
    default:
        return effect->reads;
    }
}

/* False: this instruction's end cannot be told. */
static bool may_run(struct oracle *o, const struct insn *insn, const uint8_t bytes[INSN_MAX_LENGTH],
                    struct flag_effect *effect)
{
    struct decoded decoded;
    *effect = (struct flag_effect){0};
    if (decode(o->vcpu, bytes, &decoded))
        generator_flag_effect(&decoded, effect);
    return (flags_read(o, effect, insn) & o->end->undefined) == 0 && is_steady(o->vcpu, insn) &&
           o->steps++ < STEPS_MAX;
}

/* As the interpreter's block_run. What it raises leaves by longjmp. */
static void run_block(struct oracle *o, unsigned count)
{
    struct vcpu *vcpu = o->vcpu;
    struct fuzz_end *end = o->end;
    uint64_t mask = vcpu->mode == MODE_LONG ? UINT64_MAX : UINT32_MAX;
    vcpu->leave_block = false;
    const struct block *block = block_find(vcpu);
    count = count < block->count ? count : block->count;
    for (unsigned i = 0, at = 0; i < count && !vcpu->leave_block; i++) {
        const struct insn *insn = &block->insns[i];
        struct flag_effect effect;
        uint8_t bytes[INSN_MAX_LENGTH];
        fetch(vcpu, block, insn, at, bytes);
        end->is_unclear = !may_run(o, insn, bytes, &effect);
        if (end->is_unclear)
            return;
        at += insn->length;
        vcpu->next_rip = (vcpu->rip + insn->length) & mask;
        insn->exec(vcpu, insn);
        vcpu->rip = vcpu->next_rip;
        end->undefined = (end->undefined & ~effect.writes) | effect.leaves;
    }
}

static void run(struct oracle *o)
{
    struct vcpu *vcpu = o->vcpu;
    while (!o->end->is_unclear) {
        bool single = false;
        if (atomic_load(&vcpu->attention) != 0) {
            if (vcpu_service(vcpu, &o->end->exit))
                return;
            single = atomic_load(&vcpu->attention) & ATTENTION_STEP;
        }
        if (vcpu->halted || vcpu->wait_for_sipi) {
            o->end->exit = VCPU_EXIT_HALTED;
            return;
        }
        run_block(o, single ? 1 : BLOCK_MAX_INSNS);
    }
}

static void run_after_fault(struct oracle *o)
{
    /* Its flags go to memory, where the program may look at them. */
    if (o->handles && o->end->undefined != 0)
        o->end->is_unclear = true;
    if (++o->steps > STEPS_MAX)
        o->end->is_unclear = true;
    else if (vcpu_deliver_fault(o->vcpu))
        run(o);
    else
        o->end->exit = VCPU_EXIT_SHUTDOWN;
}

void fuzz_oracle_run(struct testvm *vm, const struct fuzz_input *input, struct fuzz_end *end)
{
    struct vcpu *vcpu = vm->vcpu;
    jmp_buf fault_exit;
    /* What is changed while setjmp may return again. */
    static struct oracle oracle;
    oracle = (struct oracle){.vcpu = vcpu, .end = end, .handles = input->options & FUZZ_HANDLES};
    *end = (struct fuzz_end){.exit = VCPU_EXIT_HALTED};
    mmu_unpark(&vcpu->mmu);
    vcpu->fault_exit = &fault_exit;
    if (setjmp(fault_exit) == 0)
        run(&oracle);
    else
        run_after_fault(&oracle);
    vcpu->fault_exit = NULL;
    mmu_park(&vcpu->mmu);
}
