/*
 * The way into a program on the host CPU, and back. The program owns every register, so ours are
 * found at a fixed address.
 */
#include "arena.h"

#define CTX(offset) (NATIVE_CONTEXT + (offset))

    .text

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
    cmpl $0, CTX(NATIVE_BASES)
    je 1f
    rdfsbase %rax
    movq %rax, CTX(NATIVE_HOST_FS)
    rdgsbase %rax
    movq %rax, CTX(NATIVE_HOST_GS)
    movq CTX(NATIVE_GS), %rax
    wrgsbase %rax
    movq CTX(NATIVE_FS), %rax
    wrfsbase %rax
1:
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

/* The handler of every signal: puts back what C code needs, in the signal's own frame. */
    .globl native_signal
native_signal:
    pushfq
    andq $~0x44400, (%rsp) /* AC, NT, DF */
    popfq
    cmpl $0, CTX(NATIVE_BASES)
    je 1f
    cmpq $0, CTX(NATIVE_HOST_FS)
    je 1f /* no program has been entered */
    movq CTX(NATIVE_HOST_FS), %rax
    wrfsbase %rax
    movq CTX(NATIVE_HOST_GS), %rax
    wrgsbase %rax
1:
    jmp native_on_signal

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
