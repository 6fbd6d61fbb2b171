/*
 * Faults of generated code.
 *
 * Instructions run with the guest's own exception masks and at the guest's own misalignment, so an
 * unmasked SIMD exception or a misaligned operand is found by the host CPU, which is exact about
 * it, and arrives here as a signal. The handler notes the CPU's vector and the MXCSR in the frame
 * (RDI, which generated code never changes) and sends the thread to the code's way out.
 *
 * Signal handlers are a property of the process, and so is the table of code ranges; it holds no
 * state of any VM. Faults outside of the ranges, or of kinds that generated code cannot make, go to
 * the handler that was there before.
 */

#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#include "cpu/thunk/thunk_internal.h"

#define MAX_RANGES 64u

static const int fault_signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS};

static struct {
    _Atomic uintptr_t ranges[MAX_RANGES]; /* start of THUNK_CODE_SIZE bytes; 0: free */
    struct sigaction previous[ARRAY_LENGTH(fault_signals)];
    pthread_mutex_t install_lock;
} process = {.install_lock = PTHREAD_MUTEX_INITIALIZER};

static bool in_thunk(uintptr_t address)
{
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        uintptr_t start = atomic_load_explicit(&process.ranges[i], memory_order_acquire);
        if (start != 0 && address - start < THUNK_CODE_SIZE)
            return true;
    }
    return false;
}

static bool is_guest_vector(long long vector)
{
    switch (vector) {
    case VECTOR_UD:
    case VECTOR_GP:
    case VECTOR_MF:
    case VECTOR_AC:
    case VECTOR_XM:
        return true;
    default:
        return false;
    }
}

static void pass_on(int signal, siginfo_t *info, void *context)
{
    struct sigaction *previous = NULL;
    for (unsigned i = 0; i < ARRAY_LENGTH(fault_signals); i++)
        if (fault_signals[i] == signal)
            previous = &process.previous[i];
    if (previous == NULL)
        return;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal, info, context);
    } else if (previous->sa_handler == SIG_DFL || previous->sa_handler == SIG_IGN) {
        /* A fault happens again on return, and then ends the process; a signal that was sent has
         * to be sent again. */
        bool was_sent = info->si_code <= 0;
        if (was_sent && previous->sa_handler == SIG_IGN)
            return;
        sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        if (was_sent)
            raise(signal);
    } else {
        previous->sa_handler(signal);
    }
}

static void handle_fault(int signal, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    greg_t *registers = uc->uc_mcontext.gregs;
    if (info->si_code <= 0 || !in_thunk((uintptr_t)registers[REG_RIP]) ||
        !is_guest_vector(registers[REG_TRAPNO])) {
        pass_on(signal, info, context);
        return;
    }
    struct thunk_frame *frame = (struct thunk_frame *)(uintptr_t)registers[REG_RDI];
    frame->fault = (uint64_t)registers[REG_TRAPNO] + 1;
    if (uc->uc_mcontext.fpregs != NULL)
        frame->mxcsr = uc->uc_mcontext.fpregs->mxcsr;
    registers[REG_RIP] = (greg_t)frame->out;
}

/* Again for each set: a test framework may have put its own handlers back meanwhile. */
static void install_handlers(void)
{
    struct sigaction action = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&process.install_lock);
    for (unsigned i = 0; i < ARRAY_LENGTH(fault_signals); i++) {
        struct sigaction current;
        if (sigaction(fault_signals[i], NULL, &current) != 0 ||
            ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == handle_fault))
            continue;
        process.previous[i] = current;
        sigaction(fault_signals[i], &action, NULL);
    }
    pthread_mutex_unlock(&process.install_lock);
}

bool thunk_fault_register(const void *code, size_t size)
{
    _Static_assert(sizeof(uintptr_t) == 8, "x86-64");
    if (size != THUNK_CODE_SIZE)
        return false;
    install_handlers();
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        uintptr_t none = 0;
        if (atomic_compare_exchange_strong(&process.ranges[i], &none, (uintptr_t)code))
            return true;
    }
    return false;
}

void thunk_fault_unregister(const void *code)
{
    for (unsigned i = 0; i < MAX_RANGES; i++) {
        uintptr_t start = (uintptr_t)code;
        if (atomic_compare_exchange_strong(&process.ranges[i], &start, 0))
            return;
    }
}

_Thread_local bool thunk_thread_is_ready;

void thunk_thread_prepare(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_LENGTH(fault_signals); i++)
        sigaddset(&set, fault_signals[i]);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    thunk_thread_is_ready = true;
}
