/*
 * The way into a program on the host CPU, and back. The program owns every register, so ours are
 * found at a fixed address.
 */
#include "arena.h"

#define CTX(offset) (NATIVE_CONTEXT + (offset))

    .set arch_prctl, 158
    .set ARCH_SET_GS, 0x1001
    .set ARCH_SET_FS, 0x1002
    .set ARCH_GET_FS, 0x1003
    .set ARCH_GET_GS, 0x1004

    .text

    /* arch_prctl(what, argument). Changes RAX, RCX, RDX, RSI, RDI, R11, as do the next two. */
    .macro call_arch_prctl what, argument
    movl $arch_prctl, %eax
    movl $\what, %edi
    movq \argument, %rsi
    syscall
    .endm

    /* Sets fs and gs bases to what is at CTX(\fs) and CTX(\gs); by a system call where the kernel has
     * not turned the instructions on. */
    .macro set_bases fs, gs
    cmpl $0, CTX(NATIVE_FSGSBASE)
    je 1f
    movq CTX(\gs), %rax
    wrgsbase %rax
    movq CTX(\fs), %rax
    wrfsbase %rax
    jmp 2f
1:
    call_arch_prctl ARCH_SET_GS, CTX(\gs)
    call_arch_prctl ARCH_SET_FS, CTX(\fs)
2:
    .endm

    .macro get_bases fs, gs
    cmpl $0, CTX(NATIVE_FSGSBASE)
    je 1f
    rdfsbase %rax
    movq %rax, CTX(\fs)
    rdgsbase %rax
    movq %rax, CTX(\gs)
    jmp 2f
1:
    call_arch_prctl ARCH_GET_GS, $CTX(\gs)
    call_arch_prctl ARCH_GET_FS, $CTX(\fs)
2:
    .endm

/* void native_enter(void): returns by native_leave. */
    .globl native_enter
native_enter:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    movq %rsp, CTX(NATIVE_HOST_RSP)
    stmxcsr CTX(NATIVE_MXCSR)
    movl CTX(NATIVE_MASK), %eax
    xorl %edx, %edx
    movl $CTX(NATIVE_XSTATE), %ecx
    xrstor64 (%rcx)
    get_bases NATIVE_HOST_FS, NATIVE_HOST_GS
    set_bases NATIVE_FS, NATIVE_GS
    pushq CTX(NATIVE_RFLAGS)
    popfq
    movq CTX(0), %rax
    movq CTX(8), %rcx
    movq CTX(16), %rdx
    movq CTX(24), %rbx
    movq CTX(40), %rbp
    movq CTX(48), %rsi
    movq CTX(56), %rdi
    movq CTX(64), %r8
    movq CTX(72), %r9
    movq CTX(80), %r10
    movq CTX(88), %r11
    movq CTX(96), %r12
    movq CTX(104), %r13
    movq CTX(112), %r14
    movq CTX(120), %r15
    movq CTX(32), %rsp
    jmp *CTX(NATIVE_RIP)

/* The handler of every signal: lets C code have its own bases, and no flags that it does not expect.
 * It comes back with all registers as they were, but not the bases: a program that goes on needs its
 * own again. May change any register. */
    .globl native_signal
native_signal:
    pushfq
    andq $~0x44400, (%rsp) /* AC, NT, DF */
    popfq
    cmpq $0, CTX(NATIVE_HOST_FS)
    je native_on_signal /* no program has been entered */
    movq %rdi, %r12
    movq %rsi, %r13
    movq %rdx, %r14
    set_bases NATIVE_HOST_FS, NATIVE_HOST_GS
    movq %r12, %rdi
    movq %r13, %rsi
    movq %r14, %rdx
    subq $8, %rsp
    call native_on_signal
    addq $8, %rsp
    testb %al, %al
    jz 3f
    set_bases NATIVE_FS, NATIVE_GS
3:
    ret

/* Where the handler returns to when a program has ended. */
    .globl native_leave
native_leave:
    movq $0, CTX(NATIVE_HOST_FS)
    movq CTX(NATIVE_HOST_RSP), %rsp
    fninit
    ldmxcsr CTX(NATIVE_MXCSR)
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
