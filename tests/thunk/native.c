#include "native.h"
#include "util/xorshift.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

static sigjmp_buf host_fault;
static volatile sig_atomic_t host_running;
static volatile int host_vector;
static volatile uint32_t host_mxcsr;

static void note_fault(int signal, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    if (!host_running) {
        sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        return;
    }
    host_vector = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    host_mxcsr = uc->uc_mcontext.fpregs->mxcsr;
    siglongjmp(host_fault, 1);
}

int native_run_host(struct native_state *state, const void *code)
{
    struct native_state before = *state;
    host_running = 1;
    host_vector = NATIVE_NO_FAULT;
    if (sigsetjmp(host_fault, 1) == 0) {
        host_run(state, code);
    } else {
        *state = before;
        if (host_vector == VECTOR_XM)
            state->image.mxcsr = host_mxcsr;
    }
    host_running = 0;
    return host_vector;
}

void native_code_write(uint8_t *page, const uint8_t *code, size_t length)
{
    assert_int_equal(mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE), 0);
    memcpy(page, code, length);
    assert_int_equal(mprotect(page, PAGE_SIZE, PROT_READ | PROT_EXEC), 0);
}

uint8_t *native_code_page(const uint8_t *code, size_t length)
{
    uint8_t *page =
        mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(page, MAP_FAILED);
    native_code_write(page, code, length);
    return page;
}

void native_code_free(uint8_t *code)
{
    munmap(code, PAGE_SIZE);
}

void native_create(struct native *n)
{
    memset(n, 0, sizeof(*n));
    const char *seed = getenv("AEROSTAT_TEST_SEED");
    n->random = seed != NULL ? strtoull(seed, NULL, 0) | 1 : 0x2545f4914f6cdd1d;
    struct sigaction action = {.sa_sigaction = note_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
    sigaction(SIGILL, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    n->page = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(n->page, MAP_FAILED);
    assert_int_equal(mprotect(n->page + PAGE_SIZE, PAGE_SIZE, PROT_NONE), 0);

    testvm_create(&n->vm, 4 * MIB);
    testvm_set_mode(&n->vm, MODE_LONG, 8);
    const uint64_t not_present = 0;
    testvm_put(&n->vm, 0x3008, &not_present, 8); /* 2 to 4 MiB */
    mmu_unpark(&n->vm.vcpu->mmu);
}

void native_destroy(struct native *n)
{
    mmu_park(&n->vm.vcpu->mmu);
    testvm_destroy(&n->vm);
    munmap(n->page, 2 * PAGE_SIZE);
}

uint64_t native_random(struct native *n)
{
    return xorshift_next(&n->random) * 0x9e3779b97f4a7c15;
}

/* Bits that are interesting as integers, singles and doubles. */
static uint64_t random_lane(struct native *n)
{
    static const uint64_t doubles[] = {
        0,
        1,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        0x000fffffffffffff,
        0x7fefffffffffffff,
        0x0010000000000000,
        0x41dfffffffc00000,
        0x4340000000000000,
        0x3fb999999999999a,
        ~(uint64_t)0,
    };
    static const uint32_t singles[] = {
        0,          1,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
        0xff800000, 0x7fc00000, 0x7f800001, 0x007fffff, 0x7f7fffff, 0x00800000,
        0x4effffff, 0x4b800000, 0x3dcccccd, 0xffffffff,
    };
    uint64_t random = native_random(n);
    switch (random >> 60) {
    case 0:
    case 1:
    case 2:
    case 3:
        return doubles[random & 15];
    case 4:
    case 5:
    case 6:
    case 7:
        return (uint64_t)singles[random & 15] << 32 | singles[random >> 4 & 15];
    case 8: /* doubles and singles of small magnitude */
        return 0x3fe0000000000000 + (random & 0x803fffffffffffff);
    case 9:
        return 0x3f0000003f000000 + (random & 0x80ffffff80ffffff);
    default:
        return native_random(n);
    }
}

static void random_bytes(struct native *n, void *buffer, size_t size)
{
    uint8_t *bytes = buffer;
    for (size_t i = 0; i < size; i += 8) {
        uint64_t lane = random_lane(n);
        memcpy(bytes + i, &lane, size - i < 8 ? size - i : 8);
    }
}

void native_random_state(struct native *n, struct native_state *state, bool tame_x87)
{
    memset(state, 0, sizeof(*state));
    random_bytes(n, state->gpr, sizeof(state->gpr));
    state->rflags = (native_random(n) & FLAGS_STATUS) | FLAG_FIXED | FLAG_IF;

    struct xstate_image *image = &state->image;
    uint64_t random = native_random(n);
    random_bytes(n, image->xmm, sizeof(image->xmm));
    random_bytes(n, image->ymm_high, sizeof(image->ymm_high));
    image->xstate_bv = XSTATE_X87 | XSTATE_SSE | XSTATE_AVX;
    image->mxcsr = MXCSR_INITIAL | (random & 0x603f);
    if ((random >> 16 & 3) == 0)
        image->mxcsr = (uint32_t)(random & 0xffff);
    image->fcw = FCW_INITIAL;
    if (!tame_x87) {
        random = native_random(n);
        image->fcw = (uint16_t)(0x7f | (random & 0xf00));
        image->fsw = (uint16_t)(random >> 16 & 0x7f00);
        if ((random >> 32 & 3) == 0) {
            image->fcw = (uint16_t)(random & 0xf7f);
            image->fsw = (uint16_t)(random >> 16);
        }
        image->ftw = (uint8_t)(random >> 40 | random >> 48);
        for (unsigned i = 0; i < 8; i++) {
            static const uint16_t exponents[] = {0x3fff, 0x4005, 0xbfff, 0, 0x7fff, 0x3ff0, 0x4030};
            random_bytes(n, image->st[i], 8);
            random = native_random(n);
            uint16_t exponent = exponents[random % 7];
            if ((random >> 8 & 3) == 0)
                exponent = (uint16_t)(random >> 16);
            memcpy(image->st[i] + 8, &exponent, 2);
            if (random >> 32 & 3)
                image->st[i][7] |= 0x80; /* a normal number */
        }
    }
    assert_int_equal(native_run_host(state, (const void *)(uintptr_t)host_nop), NATIVE_NO_FAULT);
}

void native_random_memory(struct native *n)
{
    random_bytes(n, n->page, PAGE_SIZE);
    testvm_put(&n->vm, NATIVE_PAGE, n->page, PAGE_SIZE);
}

bool native_memory_equal(struct native *n)
{
    uint8_t page[PAGE_SIZE];
    assert_int_equal(pmap_read(n->vm.map, NATIVE_PAGE, page, PAGE_SIZE), STATUS_OK);
    return memcmp(page, n->page, PAGE_SIZE) == 0;
}

bool native_decode(struct native *n, const uint8_t *bytes, unsigned length, struct insn *insn)
{
    bool ends_block;
    return insn_decode(n->vm.vcpu, bytes, length, insn, &ends_block) == INSN_DECODED;
}

int native_exec(struct native *n, const struct insn *insn)
{
    struct vcpu *vcpu = n->vm.vcpu;
    jmp_buf fault;
    vcpu->fault_exit = &fault;
    vcpu->fault.vector = 0xff;
    if (setjmp(fault) != 0)
        return vcpu->fault.vector;
    insn->exec(vcpu, insn);
    return NATIVE_NO_FAULT;
}

void native_load_guest(struct native *n, const struct native_state *state)
{
    struct vcpu *vcpu = n->vm.vcpu;
    memcpy(vcpu->xstate, &state->image, sizeof(state->image));
    for (unsigned i = 0; i < GPR_COUNT; i++)
        vcpu->gpr[i] = state->gpr[i];
    vcpu->rflags = state->rflags;
    vcpu->rip = 0x123456;
}

void native_store_guest(struct native *n, struct native_state *state)
{
    struct vcpu *vcpu = n->vm.vcpu;
    memcpy(&state->image, vcpu->xstate, sizeof(state->image));
    for (unsigned i = 0; i < GPR_COUNT; i++)
        state->gpr[i] = vcpu->gpr[i];
    state->rflags = vcpu->rflags;
}

int native_run_guest(struct native *n, struct native_state *state, const struct insn *insn)
{
    native_load_guest(n, state);
    int vector = native_exec(n, insn);
    native_store_guest(n, state);
    return vector;
}

int native_do(struct native *n, const uint8_t *bytes, unsigned length)
{
    struct insn insn;
    assert_true(native_decode(n, bytes, length, &insn));
    return native_exec(n, &insn);
}

const char *native_difference(const struct native_state *a, const struct native_state *b)
{
    static const char *const gprs[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    const struct xstate_image *x = &a->image, *y = &b->image;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        if (i != GPR_RSP && a->gpr[i] != b->gpr[i])
            return gprs[i];
    if ((a->rflags ^ b->rflags) & FLAGS_STATUS)
        return "flags";
    if (x->mxcsr != y->mxcsr)
        return "mxcsr";
    if (x->fcw != y->fcw)
        return "fcw";
    if (x->fsw != y->fsw)
        return "fsw";
    if (x->ftw != y->ftw)
        return "ftw";
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(x->st[i], y->st[i], 10) != 0)
            return "st";
    if (memcmp(x->xmm, y->xmm, sizeof(x->xmm)) != 0)
        return "xmm";
    if (memcmp(x->ymm_high, y->ymm_high, sizeof(x->ymm_high)) != 0)
        return "ymm";
    return NULL;
}
