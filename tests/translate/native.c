#include "native.h"

#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "arena.h"

struct native_context {
    uint64_t gpr[16];
    uint64_t rip, rflags, fs_base, gs_base;
    uint64_t host_rsp, host_fs, host_gs;
    uint64_t host_mxcsr;
    uint64_t mask, has_fsgsbase;
    _Alignas(64) struct xstate_image xstate;
};

_Static_assert(offsetof(struct native_context, rip) == NATIVE_RIP &&
                   offsetof(struct native_context, rflags) == NATIVE_RFLAGS &&
                   offsetof(struct native_context, fs_base) == NATIVE_FS &&
                   offsetof(struct native_context, gs_base) == NATIVE_GS &&
                   offsetof(struct native_context, host_rsp) == NATIVE_HOST_RSP &&
                   offsetof(struct native_context, host_fs) == NATIVE_HOST_FS &&
                   offsetof(struct native_context, host_gs) == NATIVE_HOST_GS &&
                   offsetof(struct native_context, host_mxcsr) == NATIVE_MXCSR &&
                   offsetof(struct native_context, mask) == NATIVE_MASK &&
                   offsetof(struct native_context, has_fsgsbase) == NATIVE_FSGSBASE &&
                   offsetof(struct native_context, xstate) == NATIVE_XSTATE,
               "native_enter.S knows these");

/* native_enter.S */
void native_enter(void);
void native_leave(void);
void native_signal(int number, siginfo_t *info, void *opaque);
/* Called from there. */
bool native_on_signal(int number, siginfo_t *info, void *opaque);

#define READ_ONLY_SIZE (ARENA_DATA_SIZE - ARENA_DATA_RW)
#define SHARED_SIZE    (ARENA_CODE_SIZE + READ_ONLY_SIZE)
#define COMPONENTS     (XSTATE_X87 | XSTATE_SSE | XSTATE_AVX)
/* What the kernel says of the extended state in a signal frame, in the FXSAVE area's last bytes. */
#define FRAME_MAGIC_OFFSET 464
#define FRAME_MAGIC        0x46505853u

static const int signals[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGVTALRM};
#define SIGNALS (sizeof(signals) / sizeof(signals[0]))

/* One oracle a process: signals are the process's own. */
static uint8_t *code_writable; /* the code, and the data that programs may only read */
static struct sigaction old_actions[SIGNALS];
static stack_t old_stack;
static _Alignas(64) uint8_t signal_stack[128 << 10];
static struct machine_state *volatile running;      /* NULL: no program runs */
static volatile unsigned runs, runs_at_tick, ticks; /* ticks: within this run */
static void (*volatile tick_function)(void);

static struct native_context *context(void)
{
    return (struct native_context *)(uintptr_t)NATIVE_CONTEXT;
}

static void keep_xstate(struct xstate_image *image, const void *frame)
{
    const struct xstate_image *from = frame;
    uint32_t magic;
    memcpy(&magic, (const uint8_t *)frame + FRAME_MAGIC_OFFSET, sizeof(magic));
    bool extended = magic == FRAME_MAGIC;
    memcpy(image, from, extended ? offsetof(struct xstate_image, unused) : 512);
    if (!extended)
        image->xstate_bv = XSTATE_X87 | XSTATE_SSE;
}

static void keep(struct machine_state *state, const ucontext_t *uc)
{
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                  REG_R12, REG_R13, REG_R14, REG_R15};
    const greg_t *gregs = uc->uc_mcontext.gregs;
    for (unsigned i = 0; i < 16; i++)
        state->gpr[i] = (uint64_t)gregs[order[i]];
    state->rip = (uint64_t)gregs[REG_RIP];
    state->rflags = (uint64_t)gregs[REG_EFL];
    state->error_code = (uint32_t)gregs[REG_ERR];
    state->cr2 = (uint64_t)gregs[REG_CR2];
    keep_xstate(&state->xstate, uc->uc_mcontext.fpregs);
}

/* Not a program's: a thunk's, whose handler was there before, or a bug. */
static void pass_on(int number, siginfo_t *info, void *opaque)
{
    for (unsigned i = 0; i < SIGNALS; i++) {
        if (signals[i] == number && old_actions[i].sa_flags & SA_SIGINFO) {
            old_actions[i].sa_sigaction(number, info, opaque);
            return;
        }
    }
    signal(number, SIG_DFL); /* die of it */
}

/* True: a program is running and goes on. */
bool native_on_signal(int number, siginfo_t *info, void *opaque)
{
    ucontext_t *uc = opaque;
    greg_t *gregs = uc->uc_mcontext.gregs;
    struct machine_state *state = running;
    if (number == SIGVTALRM) {
        if (tick_function != NULL)
            tick_function();
        ticks = runs == runs_at_tick ? ticks + 1 : 0;
        runs_at_tick = runs;
        if (state == NULL || ticks < NATIVE_TICKS)
            return state != NULL;
    } else if (state == NULL) {
        pass_on(number, info, opaque);
        return false;
    }
    keep(state, uc);
    state->vector = number == SIGVTALRM ? MACHINE_ENDLESS : (unsigned)gregs[REG_TRAPNO];
    running = NULL;
    gregs[REG_RIP] = (greg_t)(uintptr_t)native_leave;
    gregs[REG_RSP] = (greg_t)context()->host_rsp;
    gregs[REG_EFL] = 0x202;
    return false;
}

static bool map_at(uint64_t address, size_t size, int protection, int fd, off_t offset)
{
    void *want = (void *)(uintptr_t)address;
    int flags = MAP_FIXED_NOREPLACE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);
    /* Populated: present, as the guest's pages are. */
    flags |= protection == PROT_NONE ? MAP_NORESERVE : MAP_POPULATE;
    return mmap(want, size, protection, flags, fd, offset) == want;
}

/* Nothing of this process's may come to be where a program expects an exception. */
static bool reserve_far(void)
{
    return map_at(ARENA_FAR - ARENA_FAR_EDGE, ARENA_FAR_SIZE + 2 * ARENA_FAR_EDGE, PROT_NONE, -1,
                  0);
}

static void set_timer(unsigned microseconds)
{
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_VIRTUAL, &timer, NULL);
}

static uint64_t enabled_components(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(c & 1u << 27)) /* OSXSAVE */
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a & COMPONENTS;
}

bool native_open(void)
{
    uint64_t mask = enabled_components();
    int fd = memfd_create("code", 0);
    if (mask == 0 || fd < 0 || ftruncate(fd, SHARED_SIZE) != 0)
        return false;
    const int both = PROT_READ | PROT_WRITE;
    code_writable = mmap(NULL, SHARED_SIZE, both, MAP_SHARED, fd, 0);
    bool good =
        code_writable != MAP_FAILED &&
        map_at(ARENA_CODE, ARENA_CODE_SIZE, PROT_READ | PROT_EXEC, fd, 0) &&
        map_at(ARENA_DATA, ARENA_DATA_RW, both, -1, 0) &&
        map_at(ARENA_DATA + ARENA_DATA_RW, READ_ONLY_SIZE, PROT_READ, fd, ARENA_CODE_SIZE) &&
        map_at(ARENA_STACK, ARENA_STACK_SIZE, both, -1, 0) &&
        map_at(ARENA_CONTROL, ARENA_CONTROL_SIZE, both, -1, 0) &&
        map_at(NATIVE_CONTEXT, sizeof(struct native_context), both, -1, 0) && reserve_far();
    close(fd);
    if (!good)
        return false;
    memset(code_writable, 0xcc, ARENA_CODE_SIZE);
    context()->mask = mask;
    context()->has_fsgsbase = (getauxval(AT_HWCAP2) & 2) != 0;

    stack_t stack = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};
    sigaltstack(&stack, &old_stack);
    struct sigaction action = {.sa_sigaction = native_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigfillset(&action.sa_mask);
    for (unsigned i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &action, &old_actions[i]);
    set_timer(100000);
    return true;
}

void native_close(void)
{
    set_timer(0);
    for (unsigned i = 0; i < SIGNALS; i++)
        sigaction(signals[i], &old_actions[i], NULL);
    sigaltstack(&old_stack, NULL);
    munmap(code_writable, SHARED_SIZE);
    munmap((void *)(uintptr_t)ARENA_CODE, ARENA_CODE_SIZE);
    munmap((void *)(uintptr_t)ARENA_DATA, ARENA_DATA_SIZE);
    munmap((void *)(uintptr_t)ARENA_STACK, ARENA_STACK_SIZE);
    munmap((void *)(uintptr_t)ARENA_CONTROL, ARENA_CONTROL_SIZE);
    munmap((void *)(uintptr_t)NATIVE_CONTEXT, sizeof(struct native_context));
    munmap((void *)(uintptr_t)(ARENA_FAR - ARENA_FAR_EDGE), ARENA_FAR_SIZE + 2 * ARENA_FAR_EDGE);
}

bool native_has_fsgsbase(void)
{
    return context()->has_fsgsbase;
}

void native_on_tick(void (*tick)(void))
{
    tick_function = tick;
}

static void copy(void *ours, uint64_t arena, size_t size, bool in)
{
    void *theirs = (void *)(uintptr_t)arena;
    memcpy(in ? theirs : ours, in ? ours : theirs, size);
}

static void copy_memory(struct machine_memory *memory, bool in)
{
    copy(memory->data, ARENA_DATA, ARENA_DATA_RW, in);
    copy(memory->stack, ARENA_STACK, ARENA_STACK_SIZE, in);
    copy(memory->control, ARENA_CONTROL, ARENA_CONTROL_SIZE, in);
    if (in)
        memcpy(code_writable + ARENA_CODE_SIZE, memory->data + ARENA_DATA_RW, READ_ONLY_SIZE);
}

void native_run(const uint8_t *code, size_t code_size, struct machine_state *state,
                struct machine_memory *memory)
{
    struct native_context *ctx = context();
    memcpy(code_writable, code, code_size);
    copy_memory(memory, true);
    memcpy(ctx->gpr, state->gpr, sizeof(ctx->gpr));
    ctx->rip = state->rip;
    ctx->rflags = state->rflags;
    ctx->fs_base = state->fs_base;
    ctx->gs_base = state->gs_base;
    ctx->xstate = state->xstate;
    runs++;
    running = state;
    native_enter();
    runs++;
    copy_memory(memory, false);
}
