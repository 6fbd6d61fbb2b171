#include "host_run.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

/*
 * The way in and out uses no registers, since the instruction owns them all: state lies in a page at
 * a fixed low address that instructions name absolutely. Offsets are those of struct context.
 */
#define CONTEXT 0x20030000

struct context {
    uint64_t gpr[16];     /* 0 */
    uint64_t rflags;      /* 128 */
    uint64_t entry;       /* 136 */
    uint64_t exit;        /* 144 */
    uint64_t safe_rsp;    /* 152 */
    uint64_t exit_number; /* 160 */
    uint32_t far_offset;  /* 168 */
    uint16_t far_selector; /* 172 */
};

void host_enter(void);
void host_enter32(void);
void host_exit(void);
void host_exit_fault(void);

#define CTX(offset) "(0x20030000 + " #offset ")"

#define LOAD_ALL                                                                                   \
    "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"    \
    "    movq %rsp, " CTX(152) "\n"                                                                \
    "    pushq " CTX(128) "\n    popfq\n"                                                          \
    "    movq " CTX(0) ", %rax\n    movq " CTX(8) ", %rcx\n"                                       \
    "    movq " CTX(16) ", %rdx\n    movq " CTX(24) ", %rbx\n"                                     \
    "    movq " CTX(40) ", %rbp\n    movq " CTX(48) ", %rsi\n"                                     \
    "    movq " CTX(56) ", %rdi\n    movq " CTX(64) ", %r8\n"                                      \
    "    movq " CTX(72) ", %r9\n    movq " CTX(80) ", %r10\n"                                      \
    "    movq " CTX(88) ", %r11\n    movq " CTX(96) ", %r12\n"                                     \
    "    movq " CTX(104) ", %r13\n    movq " CTX(112) ", %r14\n"                                   \
    "    movq " CTX(120) ", %r15\n    movq " CTX(32) ", %rsp\n"

__asm__(".text\n"
        ".globl host_enter\nhost_enter:\n" LOAD_ALL
        "    jmp *" CTX(136) "\n"
        ".globl host_enter32\nhost_enter32:\n" LOAD_ALL
        "    ljmpl *" CTX(168) "\n"
        ".globl host_exit\nhost_exit:\n"
        "    movq %rax, " CTX(0) "\n    movq %rcx, " CTX(8) "\n"
        "    movq %rdx, " CTX(16) "\n    movq %rbx, " CTX(24) "\n"
        "    movq %rsp, " CTX(32) "\n    movq %rbp, " CTX(40) "\n"
        "    movq %rsi, " CTX(48) "\n    movq %rdi, " CTX(56) "\n"
        "    movq %r8, " CTX(64) "\n    movq %r9, " CTX(72) "\n"
        "    movq %r10, " CTX(80) "\n    movq %r11, " CTX(88) "\n"
        "    movq %r12, " CTX(96) "\n    movq %r13, " CTX(104) "\n"
        "    movq %r14, " CTX(112) "\n    movq %r15, " CTX(120) "\n"
        "    movq " CTX(152) ", %rsp\n    pushfq\n    popq " CTX(128) "\n"
        ".globl host_exit_fault\nhost_exit_fault:\n"
        "    cld\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
        "    ret\n");

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
    uint32_t number_at = CONTEXT + offsetof(struct context, exit_number);
    if (code32) {
        at = emit(at, "\xc7\x05", 2);
        at = emit_u32(at, number_at);
        at = emit_u32(at, number);
        at = emit(at, "\xea", 1);
        at = emit_u32(at, HOST_CODE + EXIT64_OFFSET);
        at = emit(at, "\x33\x00", 2);
    } else {
        at = emit(at, "\xc7\x04\x25", 3);
        at = emit_u32(at, number_at);
        at = emit_u32(at, number);
        at = emit(at, "\xff\x24\x25", 3);
        at = emit_u32(at, CONTEXT + offsetof(struct context, exit));
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
    emit_u32(at, CONTEXT + offsetof(struct context, exit));
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
