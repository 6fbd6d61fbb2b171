#include "cpu/vcpu.h"

#include <string.h>
#include <sys/mman.h>

#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/system/control.h"
#include "cpu/system/cpuid.h"
#include "cpu/system/debug.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/msr.h"
#include "util/clock.h"

/* Life of a vCPU: made, reset, woken, parked. */

#define RESET_SELECTOR  0xf000u
#define RESET_CODE_BASE 0xffff0000u
#define RESET_RIP       0xfff0u
#define RESET_FCW       0x0040u
#define RESET_MXCSR     0x1f80u

static enum status wake_init(struct vcpu *vcpu, struct error *err)
{
    if (pthread_mutex_init(&vcpu->wake_lock, NULL) != 0)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a vCPU's lock");
    if (pthread_cond_init(&vcpu->wake, NULL) != 0) {
        pthread_mutex_destroy(&vcpu->wake_lock);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a vCPU's wake-up");
    }
    return STATUS_OK;
}

enum status vcpu_create(struct vcpu **out, const struct vcpu_config *config, struct error *err)
{
    /* Zeros that take no memory: the TLB is large, and seldom used in full. */
    struct vcpu *vcpu =
        mmap(NULL, sizeof(*vcpu), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vcpu == MAP_FAILED)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a vCPU");
    vcpu->index = config->index;
    vcpu->cpu_count = config->cpu_count;
    vcpu->features = config->features;
    vcpu->ports = config->ports;
    vcpu->thunks = config->thunks;
    vcpu->apic = config->apic;
    vcpu->apic_context = config->apic_context;

    enum status status = wake_init(vcpu, err);
    if (status != STATUS_OK)
        goto free_vcpu;
    /* The engine sets mmu.code_drop when it attaches. */
    status = mmu_init(&vcpu->mmu, config->domain, config->mmio, &vcpu->attention, ATTENTION_MMU,
                      NULL, NULL, err);
    if (status != STATUS_OK)
        goto destroy_wake;
    vcpu_reset(vcpu, false);
    *out = vcpu;
    return STATUS_OK;

destroy_wake:
    pthread_cond_destroy(&vcpu->wake);
    pthread_mutex_destroy(&vcpu->wake_lock);
free_vcpu:
    munmap(vcpu, sizeof(*vcpu));
    return status;
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (vcpu == NULL)
        return;
    mmu_destroy(&vcpu->mmu);
    pthread_cond_destroy(&vcpu->wake);
    pthread_mutex_destroy(&vcpu->wake_lock);
    munmap(vcpu, sizeof(*vcpu));
}

/* Flushing is for a running vCPU; a parked one has lent its TLB to others. */
static void flush_any(struct mmu *mmu)
{
    bool parked = mmu->parked;
    if (parked)
        mmu_unpark(mmu);
    mmu_flush(mmu, false);
    mmu_watch(mmu, NULL, 0);
    if (parked)
        mmu_park(mmu);
}

static void reset_segments(struct vcpu *vcpu)
{
    const uint32_t data = SEG_P | SEG_S | TYPE_WRITABLE | TYPE_ACCESSED;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        vcpu->seg[i] = (struct segment){.limit = 0xffff, .attributes = data};
    vcpu->seg[SEG_CS] = (struct segment){.base = RESET_CODE_BASE,
                                         .limit = 0xffff,
                                         .attributes = data | TYPE_CODE,
                                         .selector = RESET_SELECTOR};
    vcpu->ldtr = (struct segment){.limit = 0xffff, .attributes = SEG_P | TYPE_LDT};
    vcpu->tr = (struct segment){.limit = 0xffff, .attributes = SEG_P | TYPE_TSS32_BUSY};
    vcpu->gdtr = (struct descriptor_table){.limit = 0xffff};
    vcpu->idtr = (struct descriptor_table){.limit = 0xffff};
}

static void reset_xstate(struct vcpu *vcpu)
{
    const uint16_t control = RESET_FCW;
    const uint32_t mxcsr = RESET_MXCSR;
    const uint64_t in_use = XCR0_X87;
    memset(vcpu->xstate, 0, sizeof(vcpu->xstate));
    memcpy(vcpu->xstate + XSAVE_FCW, &control, sizeof(control));
    vcpu->xstate[XSAVE_FTW] = 0xff; /* tag word 5555h: all registers hold zero, none is empty */
    memcpy(vcpu->xstate + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
    memcpy(vcpu->xstate + XSAVE_XSTATE_BV, &in_use, sizeof(in_use));
    vcpu->xcr0 = XCR0_X87;
}

void vcpu_reset(struct vcpu *vcpu, bool init)
{
    uint64_t kept_cache_bits =
        init ? vcpu->mmu.cr0 & (CR0_CD | CR0_NW) : (uint64_t)(CR0_CD | CR0_NW);

    memset(vcpu->gpr, 0, sizeof(vcpu->gpr));
    vcpu->gpr[GPR_RDX] = cpuid_signature(vcpu->features);
    vcpu->rip = vcpu->next_rip = RESET_RIP;
    vcpu->rflags = FLAG_FIXED;
    reset_segments(vcpu);
    vcpu->mmu.cr0 = CR0_ET | kept_cache_bits;
    vcpu->cr2 = vcpu->mmu.cr3 = vcpu->mmu.cr4 = vcpu->mmu.efer = 0;
    memset(vcpu->dr, 0, sizeof(vcpu->dr));
    vcpu->dr[6] = DR6_FIXED;
    vcpu->dr[7] = DR7_FIXED;
    if (!init) {
        reset_xstate(vcpu);
        vcpu->msr = (struct vcpu_msrs){.pat = PAT_POWER_ON, .misc_enable = MISC_ENABLE_POWER_ON};
        mtrr_reset(&vcpu->msr);
    }
    flush_any(&vcpu->mmu);

    vcpu->interrupt_shadow = vcpu->halted = vcpu->nmi_blocked = false;
    vcpu->undelivered = 0;
    vcpu->pending_debug = 0;
    vcpu->step = (struct vcpu_step){0};
    vcpu->leave_block = true;
    /* Application processors wait; ATTENTION_STEP makes the engine ask vcpu_service, which says so.
     */
    vcpu->wait_for_sipi = vcpu->index != 0;
    atomic_fetch_or(&vcpu->attention, ATTENTION_STEP);
    vcpu_update_mode(vcpu);
}

void vcpu_kick(struct vcpu *vcpu, uint32_t attention)
{
    atomic_fetch_or(&vcpu->attention, attention);
    atomic_store(&vcpu->mmu.jump_mask, 0);
    /* The lock orders this with the test in vcpu_wait, so that no wake-up is lost. */
    pthread_mutex_lock(&vcpu->wake_lock);
    pthread_cond_signal(&vcpu->wake);
    pthread_mutex_unlock(&vcpu->wake_lock);
}

/* The attention bits that may end a wait in the state the vCPU is in. */
static uint32_t wake_bits(const struct vcpu *vcpu)
{
    uint32_t bits = ATTENTION_EXIT | ATTENTION_INIT;
    if (vcpu->wait_for_sipi)
        return bits | ATTENTION_SIPI;
    if (!vcpu->nmi_blocked)
        bits |= ATTENTION_NMI;
    if ((vcpu->rflags & FLAG_IF) != 0)
        bits |= ATTENTION_IRQ;
    return bits;
}

/* ATTENTION_IRQ only says that there may be one. The bit is cleared before the APIC is asked, so
 * that what comes after the question sets it again. */
static bool interrupt_is_deliverable(struct vcpu *vcpu)
{
    atomic_fetch_and(&vcpu->attention, ~(uint32_t)ATTENTION_IRQ);
    if (vcpu->apic == NULL || vcpu->apic->pending(vcpu->apic_context) < 0)
        return false;
    atomic_fetch_or(&vcpu->attention, ATTENTION_IRQ);
    return true;
}

void vcpu_wait(struct vcpu *vcpu)
{
    uint32_t bits = wake_bits(vcpu);
    for (;;) {
        /* No lock is held while the APIC is asked: it kicks with its own held. */
        uint32_t attention = atomic_load(&vcpu->attention) & bits;
        if ((attention & ~(uint32_t)ATTENTION_IRQ) != 0)
            return;
        if (attention != 0 && interrupt_is_deliverable(vcpu))
            return;
        pthread_mutex_lock(&vcpu->wake_lock);
        while ((atomic_load(&vcpu->attention) & bits) == 0)
            pthread_cond_wait(&vcpu->wake, &vcpu->wake_lock);
        pthread_mutex_unlock(&vcpu->wake_lock);
    }
}

uint64_t vcpu_tsc(const struct vcpu *vcpu)
{
    return clock_tsc() + (uint64_t)vcpu->tsc_offset;
}
