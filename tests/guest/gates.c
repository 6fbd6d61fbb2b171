/* Ways between privilege levels: call gates, far returns, IRET, SYSENTER, SYSCALL, SWAPGS. */

#include "guest.h"

extern char gate_target[], gate_user_returned[], conforming_target[];
extern char sysenter_target[], sysexit_return[], return_outer[], iret_bad_ss_at[];
void gate_user_call(void), user_conforming(void), sysenter_user(void);
word gate_kernel_call(void);
void iret_bad_ss(void *);
extern volatile uint32_t gate_log[16];
extern struct __attribute__((packed)) {
    uint32_t offset;
    uint16_t selector;
} gate_call_pointer;

enum {
    SEL_GATE = SEL_SPARE, /* two entries in 64 bit */
    SEL_CONFORMING = SEL_SPARE + 16,
    SEL_RING1_CODE = SEL_SPARE + 24,
    SEL_RING1_GATE = SEL_SPARE + 32,
};
enum { TS = 10, GP = 13, SS = 12, UD = 6, PARAMETERS = IS_64 ? 0 : 2 };

static word log_word(unsigned byte)
{
    return *(volatile word *)((volatile uint8_t *)gate_log + byte);
}

static void set_call_gate(unsigned selector, word target, unsigned code, unsigned dpl)
{
    uint64_t low = (target & 0xffff) | (uint64_t)code << 16 | (uint64_t)PARAMETERS << 32 |
                   (uint64_t)(0x8c | dpl << 5) << 40 | (uint64_t)(target >> 16 & 0xffff) << 48;
    gdt[selector / 8] = low;
#ifdef __x86_64__
    gdt[selector / 8 + 1] = target >> 32;
#endif
}

static word kernel_stack_top(void)
{
#ifdef __x86_64__
    return tss.rsp[0];
#else
    return tss.esp0;
#endif
}

static void call_gates(void)
{
    gate_call_pointer.selector = SEL_GATE;
    set_call_gate(SEL_GATE, (word)gate_target, SEL_KCODE, 0);
    check_equal("call gate at CPL 0", gate_kernel_call(), SEL_KCODE);
    check_equal("call gate at CPL 0: CS inside", gate_log[0], SEL_KCODE);

    gate_call_pointer.selector = SEL_GATE | 3;
    int vector = user_try(gate_user_call, 0);
    check("call gate of DPL 0 from CPL 3", vector == GP && trap.frame.error == SEL_GATE);

    set_call_gate(SEL_GATE, (word)gate_target, SEL_KCODE, 3);
    memory_set((void *)gate_log, 0, 64);
    vector = user_try(gate_user_call, 0);
    check_equal("call gate from CPL 3 returns", vector, 0x80);
    check_equal("call gate: CPL 0 inside", gate_log[0], SEL_KCODE);
    /* A new stack segment is null in 64-bit mode. */
    check_equal("call gate: SS inside", gate_log[1], IS_64 ? 0 : SEL_KDATA);
    check_equal("call gate: stack inside", log_word(8),
                kernel_stack_top() - (4 + PARAMETERS) * sizeof(word));
    check_equal("call gate: return address", log_word(16), (word)gate_user_returned);
    check_equal("call gate: return CS", gate_log[6], SEL_UCODE);
#ifndef __x86_64__
    check("call gate: parameters", gate_log[7] == 0x66 && gate_log[8] == 0x77);
#endif
    check_equal("call gate: CS after", trap.frame.cx, SEL_UCODE);
    check_equal("call gate: SS after", trap.frame.bx, SEL_UDATA);
    check_equal("call gate: SP after", trap.frame.dx, 0);

    gdt[SEL_GATE / 8] &= ~((uint64_t)0x80 << 40);
    vector = user_try(gate_user_call, 0);
    check("call gate that is not present", vector == 11 && trap.frame.error == SEL_GATE);

    /* Conforming code runs at the caller's level. */
    gdt[SEL_CONFORMING / 8] = IS_64 ? 0x00af9f000000ffff : 0x00cf9f000000ffff;
    gate_call_pointer.offset = (uint32_t)(word)conforming_target;
    gate_call_pointer.selector = SEL_CONFORMING;
    vector = user_try(user_conforming, 0);
    check("conforming code stays at CPL 3",
          vector == 0x80 && trap.frame.ax == (SEL_CONFORMING | 3));

#ifndef __x86_64__
    /* To ring 1, whose stack in the TSS is no stack of ring 1. */
    gdt[SEL_RING1_CODE / 8] = 0x00cfbb000000ffff;
    set_call_gate(SEL_RING1_GATE, (word)gate_target, SEL_RING1_CODE | 1, 3);
    gate_call_pointer.selector = SEL_RING1_GATE | 3;
    tss.ss1 = SEL_KDATA;
    tss.esp1 = kernel_stack_top() - 1024;
    vector = user_try(gate_user_call, 0);
    check("#TS: the TSS has a wrong stack for ring 1",
          vector == TS && trap.frame.error == SEL_KDATA);
    tss.ss1 = 0;
    vector = user_try(gate_user_call, 0);
    check("#TS: the TSS has no stack for ring 1", vector == TS && trap.frame.error == 0);
#endif
}

static void run_at(void *code)
{
    ((void (*)(void))code)();
}

static void returns(void)
{
    int vector = trap_try(run_at, return_outer);
    check("far return to CPL 3", vector == 0x80 && trap.frame.cs == SEL_UCODE);
    check_equal("a segment that CPL 3 may not have is nulled", trap.frame.ax, 0);
    vector = trap_try(iret_bad_ss, 0);
    check("IRET to CPL 3 with a stack of CPL 0",
          vector == GP && trap.frame.error == SEL_KDATA && trap.frame.ip == (word)iret_bad_ss_at);
}

static void fast_calls(void)
{
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    wrmsr(MSR_SYSENTER_ESP, kernel_stack_top());
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_target);
    int vector = user_try(sysenter_user, 0);
    if (vector == UD && IS_64) {
        skip("SYSENTER", "not in 64-bit mode on this processor");
    } else {
        check_equal("SYSENTER and SYSEXIT", vector, 0x80);
        check("SYSENTER: segments", gate_log[0] == SEL_KCODE && gate_log[1] == SEL_KDATA);
        check_equal("SYSENTER: stack", log_word(8), kernel_stack_top());
        check_equal("SYSENTER: interrupts off", gate_log[4] & FLAG_IF, 0);
        check_equal("SYSEXIT: CS", trap.frame.dx, SEL_UCODE);
        check_equal("SYSEXIT: SS", trap.frame.di, (IS_64 ? 0x30 : 0x20) | 3);
        check_equal("SYSEXIT: SP", trap.frame.cx, trap.frame.bp);
    }
    wrmsr(MSR_SYSENTER_CS, 0);
    vector = user_try(sysenter_user, 0);
    check("SYSENTER without a target", vector == GP || (vector == UD && IS_64));
}

#ifdef __x86_64__
extern char syscall_user_at[], syscall_target[], syscall_target_32[], sysenter_target_32[];
extern char user_swapgs_at[], iret_nt_at[];
void syscall_user(void), user_swapgs(void), compat_user(void), iret_nt(void *);
word swapgs_twice(void), iret_stack(void);

static void fast_calls_64(void)
{
    wrmsr(MSR_SYSENTER_CS, SEL_KCODE);
    wrmsr(MSR_SYSENTER_EIP, (word)sysenter_target_32);
    int vector = user_try(sysenter_user, 0);
    if (vector == UD)
        skip("SYSEXIT to 32 bits", "no SYSENTER in 64-bit mode on this processor");
    else
        check("SYSEXIT to 32 bits", vector == 0x80 && trap.frame.dx == SEL_UCODE32 &&
                                        (uint32_t)trap.frame.ax == 0xffffffff);

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    vector = user_try(syscall_user, 0);
    check_equal("SYSCALL without SCE", vector, UD);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    /* SYSCALL: CS 0x08, SS 0x10. SYSRET: CS 0x18 or 0x28, SS 0x20. */
    wrmsr(MSR_STAR, (uint64_t)0x18 << 48 | (uint64_t)0x08 << 32);
    wrmsr(MSR_LSTAR, (word)syscall_target);
    wrmsr(MSR_SFMASK, FLAG_DF | FLAG_IF | FLAG_TF);
    vector = user_try(syscall_user, 0);
    check_equal("SYSCALL and SYSRET", vector, 0x80);
    check_equal("SYSCALL: RCX", log_word(0), (word)syscall_user_at);
    check_equal("SYSCALL: R11", log_word(8) & (FLAG_DF | FLAG_CF), FLAG_DF | FLAG_CF);
    check("SYSCALL: segments", gate_log[4] == SEL_KCODE && gate_log[5] == SEL_KDATA);
    check_equal("SYSCALL: flags masked", log_word(24) & FLAG_DF, 0);
    if (on_tcg())
        skip("SYSCALL: other flags kept", "QEMU clears CF");
    else
        check_equal("SYSCALL: other flags kept", log_word(24) & FLAG_CF, FLAG_CF);
    check_equal("SYSCALL: RSP is the user's", log_word(32), trap.frame.bp);
    check("SYSRET: segments", trap.frame.dx == SEL_UCODE64 && trap.frame.di == SEL_UDATA);
    check_equal("SYSRET: flags", trap.frame.ax & (FLAG_DF | FLAG_CF), FLAG_DF | FLAG_CF);
    check_equal("SYSRET: other registers", trap.frame.bx, 0x1111);
    wrmsr(MSR_LSTAR, (word)syscall_target_32);
    vector = user_try(syscall_user, 0);
    check("SYSRET to 32 bits", vector == 0x80 && trap.frame.dx == SEL_UCODE32 &&
                                   trap.frame.di == SEL_UDATA &&
                                   (uint32_t)trap.frame.ax == 0xffffffff);
}

static void gs_bases(void)
{
    static uint64_t first = 0x11, second = 0x22;
    wrmsr(MSR_GS_BASE, (word)&first);
    wrmsr(MSR_KERNEL_GS, (word)&second);
    check_equal("SWAPGS", swapgs_twice(), (word)0x11 << 32 | 0x22);
    int vector = user_try(user_swapgs, 0);
    check("SWAPGS at CPL 3", vector == GP && trap.frame.ip == (word)user_swapgs_at);
    wrmsr(MSR_FS_BASE, (word)&second);
    uint64_t value;
    __asm__ volatile("mov %%fs:0, %0" : "=r"(value));
    check_equal("FS base by MSR", value, 0x22);
    __asm__ volatile("mov %0, %%fs" : : "r"(SEL_KDATA));
    check_equal("loading FS sets its base from the descriptor", rdmsr(MSR_FS_BASE), 0);
}

static void compatibility(void)
{
    static uint8_t stack[1024] __attribute__((aligned(16)));
    struct user user = {.ip = (word)compat_user,
                        .sp = (word)stack + sizeof(stack),
                        .flags = 2,
                        .cs = SEL_UCODE32,
                        .ss = SEL_UDATA};
    int vector = trap_try(user_run, &user);
    check("IRET to compatibility mode at CPL 3",
          vector == 0x80 && trap.frame.cs == SEL_UCODE32 && trap.frame.dx == SEL_UCODE32);
    check_equal("it runs 32-bit code", (uint32_t)trap.frame.ax, 0x7fffffff);
    check_equal("and pushes 4 bytes", trap.frame.cx, 4);
    vector = trap_try(iret_nt, 0);
    check("IRET with NT",
          vector == GP && trap.frame.error == 0 && trap.frame.ip == (word)iret_nt_at);
    check_equal("IRET loads RSP at the same CPL", iret_stack(), (word)-256);
}
#else
extern char v86_start[], v86_end[];

static void enter_v86(void *unused)
{
    (void)unused;
    /* GS, FS, DS, ES, SS, ESP, EFLAGS with VM, CS, EIP */
    __asm__ volatile("pushl $0; pushl $0; pushl $0; pushl $0; pushl $0; pushl $0x7ff0;"
                     "pushl $0x23002; pushl $0x0800; pushl $0; iret");
}

static void virtual_8086(void)
{
    memory_copy((void *)0x8000, v86_start, (size_t)(v86_end - v86_start));
    idt[3].type = GATE_USER;
    int vector = trap_try(enter_v86, 0);
    idt[3].type = GATE_INTERRUPT;
    if (vector == GP && !(trap.frame.cs & 3)) {
        skip("virtual-8086 mode", "IRET to it is refused");
        return;
    }
    check("virtual-8086 mode: INT3 to CPL 0", vector == 3 && (trap.frame.flags & 0x20000) != 0);
    check_equal("virtual-8086 mode: CS is a paragraph", trap.frame.ax & 0xffff, 0x0800);
    check_equal("virtual-8086 mode: store", *(volatile uint16_t *)0x9000, 0x8686);
}
#endif

void guest_main(void)
{
    call_gates();
    returns();
    fast_calls();
#ifdef __x86_64__
    fast_calls_64();
    gs_bases();
    compatibility();
#else
    virtual_8086();
#endif
}
