#include "host_run.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "host_context.h"

struct context {
    uint64_t gpr[16];
    uint64_t rflags;
    uint64_t entry;
    uint64_t exit;
    uint64_t safe_rsp;
    uint64_t exit_number;
    uint32_t far_offset;
    uint16_t far_selector;
};

_Static_assert(offsetof(struct context, rflags) == CONTEXT_RFLAGS &&
                   offsetof(struct context, entry) == CONTEXT_ENTRY &&
                   offsetof(struct context, exit) == CONTEXT_EXIT &&
                   offsetof(struct context, safe_rsp) == CONTEXT_SAFE_RSP &&
                   offsetof(struct context, exit_number) == CONTEXT_EXIT_NUMBER &&
                   offsetof(struct context, far_offset) == CONTEXT_FAR_OFFSET &&
                   offsetof(struct context, far_selector) == CONTEXT_FAR_SELECTOR,
               "host_enter.S knows these");

/* host_enter.S */
void host_enter(void);
void host_enter32(void);
void host_exit(void);
void host_exit_fault(void);

#define SELECTOR_CODE32 0x23
#define SELECTOR_CODE64 0x33
#define SELECTOR_DATA   0x2b

#define EXIT64_OFFSET 0x200 /* in the code page: 64-bit code that goes to host_exit */

static uint8_t *code_writable;
static volatile sig_atomic_t caught_signal;
static uint64_t caught_rip;
static const int fault_signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP};
static struct sigaction old_actions[5];
static stack_t old_stack;
static uint8_t signal_stack[64 << 10];

static struct context *context(void)
{
    return (struct context *)(uintptr_t)CONTEXT;
}

/* A fault of the instruction: keeps what it left in the registers, goes on at host_exit_fault. */
static void on_fault(int number, siginfo_t *info, void *opaque)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    ucontext_t *uc = opaque;
    greg_t *gregs = uc->uc_mcontext.gregs;
    uint64_t rip = (uint64_t)gregs[REG_RIP];
    if (rip < HOST_CODE || rip >= HOST_CODE + 0x1000) {
        signal(number, SIG_DFL); /* ours: die of it */
        return;
    }
    caught_signal = number;
    caught_rip = rip;
    for (unsigned i = 0; i < 16; i++)
        context()->gpr[i] = (uint64_t)gregs[order[i]];
    context()->rflags = (uint64_t)gregs[REG_EFL];
    gregs[REG_RIP] = (greg_t)(uintptr_t)host_exit_fault;
    gregs[REG_RSP] = (greg_t)context()->safe_rsp;
    gregs[REG_EFL] &= ~0x400;
    gregs[REG_CSGSFS] = (gregs[REG_CSGSFS] & ~(greg_t)0xffff) | SELECTOR_CODE64;
}

static bool map_at(uint64_t address, size_t size)
{
    void *want = (void *)(uintptr_t)address;
    return mmap(want, size, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == want;
}

bool host_open(void)
{
    int fd = memfd_create("code", 0);
    void *want = (void *)(uintptr_t)HOST_CODE;
    if (fd < 0 || ftruncate(fd, 0x1000) != 0)
        return false;
    code_writable = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    bool good = code_writable != MAP_FAILED &&
                mmap(want, 0x1000, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, fd,
                     0) == want &&
                map_at(HOST_DATA, HOST_DATA_SIZE) && map_at(HOST_STACK, HOST_STACK_SIZE) &&
                map_at(CONTEXT, 0x1000);
    close(fd);
    if (!good)
        return false;

    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
    sigaltstack(&stack, &old_stack);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (unsigned i = 0; i < 5; i++)
        sigaction(fault_signals[i], &action, &old_actions[i]);
    /* 32-bit code needs real data segments; 64-bit code does not care. */
    __asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(SELECTOR_DATA));
    return true;
}

void host_close(void)
{
    for (unsigned i = 0; i < 5; i++)
        sigaction(fault_signals[i], &old_actions[i], NULL);
    sigaltstack(&old_stack, NULL);
    munmap((void *)(uintptr_t)HOST_CODE, 0x1000);
    munmap(code_writable, 0x1000);
    munmap((void *)(uintptr_t)HOST_DATA, HOST_DATA_SIZE);
    munmap((void *)(uintptr_t)HOST_STACK, HOST_STACK_SIZE);
    munmap((void *)(uintptr_t)CONTEXT, 0x1000);
}

/* Asks the descriptor table itself: the kernel does not tell, nor does CPUID. */
bool host_has_code32(void)
{
    const uint32_t is_code = 1u << 11, is_present = 1u << 15, is_32bit = 1u << 22;
    const uint32_t wanted = is_code | is_present | is_32bit;
    uint32_t rights;
    bool visible;
    __asm__("lar %2, %0" : "=r"(rights), "=@ccz"(visible) : "r"(SELECTOR_CODE32));
    return visible && (rights & wanted) == wanted;
}

static uint8_t *emit(uint8_t *at, const void *bytes, size_t length)
{
    memcpy(at, bytes, length);
    return at + length;
}

static uint8_t *emit_u32(uint8_t *at, uint32_t value)
{
    return emit(at, &value, sizeof(value));
}

/* context()->exit_number = number, then out. Touches neither registers nor flags. */
static void emit_exit(uint8_t *at, uint32_t number, bool code32)
{
    uint32_t number_at = CONTEXT + CONTEXT_EXIT_NUMBER;
    if (code32) {
        at = emit(at, "\xc7\x05", 2);
        at = emit_u32(at, number_at);
        at = emit_u32(at, number);
        at = emit(at, "\xea", 1);
        at = emit_u32(at, HOST_CODE + EXIT64_OFFSET);
        emit(at, "\x33\x00", 2);
    } else {
        at = emit(at, "\xc7\x04\x25", 3);
        at = emit_u32(at, number_at);
        at = emit_u32(at, number);
        at = emit(at, "\xff\x24\x25", 3);
        emit_u32(at, CONTEXT + CONTEXT_EXIT);
    }
}

static size_t loaded_length;
static bool loaded32;

void host_load(const uint8_t *bytes, size_t length, bool code32)
{
    memcpy(code_writable, bytes, length);
    emit_exit(code_writable + length, 0, code32);
    emit_exit(code_writable + (HOST_TARGET - HOST_CODE), 1, code32);
    uint8_t *at = emit(code_writable + EXIT64_OFFSET, "\xff\x24\x25", 3);
    emit_u32(at, CONTEXT + CONTEXT_EXIT);
    loaded_length = length;
    loaded32 = code32;
}

void host_run(struct host_state *state)
{
    struct context *ctx = context();
    memcpy(ctx->gpr, state->gpr, sizeof(ctx->gpr));
    ctx->rflags = state->rflags;
    ctx->entry = HOST_CODE;
    ctx->exit = (uint64_t)(uintptr_t)host_exit;
    ctx->far_offset = HOST_CODE;
    ctx->far_selector = SELECTOR_CODE32;
    ctx->exit_number = 99;
    caught_signal = 0;
    if (loaded32)
        host_enter32();
    else
        host_enter();
    memcpy(state->gpr, ctx->gpr, sizeof(ctx->gpr));
    state->rflags = ctx->rflags;
    state->signal = caught_signal;
    if (caught_signal != 0)
        state->rip = caught_rip;
    else
        state->rip = ctx->exit_number == 0 ? HOST_CODE + loaded_length : HOST_TARGET;
}
