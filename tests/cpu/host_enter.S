/*
 * The way into an instruction under test and back, for host_run.c.
 *
 * The instruction owns every register, so state is named by absolute addresses: struct context lies
 * at CONTEXT, and the offsets here are those of its members.
 */
#include "host_context.h"

#define CTX(offset) (CONTEXT + (offset))

    .text

    .macro load_all
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    movq %rsp, CTX(CONTEXT_SAFE_RSP)
    pushq CTX(CONTEXT_RFLAGS)
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
    .endm

/* void host_enter(void): runs 64-bit code, returns by host_exit or host_exit_fault. */
    .globl host_enter
host_enter:
    load_all
    jmp *CTX(CONTEXT_ENTRY)

/* void host_enter32(void): the same for 32-bit code. */
    .globl host_enter32
host_enter32:
    load_all
    ljmpl *CTX(CONTEXT_FAR_OFFSET)

/* The instruction has ended: keeps registers and flags, and returns from host_enter. */
    .globl host_exit
host_exit:
    movq %rax, CTX(0)
    movq %rcx, CTX(8)
    movq %rdx, CTX(16)
    movq %rbx, CTX(24)
    movq %rsp, CTX(32)
    movq %rbp, CTX(40)
    movq %rsi, CTX(48)
    movq %rdi, CTX(56)
    movq %r8, CTX(64)
    movq %r9, CTX(72)
    movq %r10, CTX(80)
    movq %r11, CTX(88)
    movq %r12, CTX(96)
    movq %r13, CTX(104)
    movq %r14, CTX(112)
    movq %r15, CTX(120)
    movq CTX(CONTEXT_SAFE_RSP), %rsp
    pushfq
    popq CTX(CONTEXT_RFLAGS)

/* It has faulted: the signal's handler has kept everything. */
    .globl host_exit_fault
host_exit_fault:
    cld
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .note.GNU-stack, "", @progbits
