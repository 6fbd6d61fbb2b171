/* Interrupt stubs, trap_try, and the way to CPL 3. */

    .text
#ifdef __x86_64__
#define WORD .quad
    .macro PUSH_ALL
    push %rax; push %rcx; push %rdx; push %rbx; push %rbp; push %rsi; push %rdi
    push %r8; push %r9; push %r10; push %r11; push %r12; push %r13; push %r14; push %r15
    .endm
    .macro POP_ALL
    pop %r15; pop %r14; pop %r13; pop %r12; pop %r11; pop %r10; pop %r9; pop %r8
    pop %rdi; pop %rsi; pop %rbp; pop %rbx; pop %rdx; pop %rcx; pop %rax
    .endm
#else
#define WORD .long
    .macro PUSH_ALL
    push %eax; push %ecx; push %edx; push %ebx; push %ebp; push %esi; push %edi
    .endm
    .macro POP_ALL
    pop %edi; pop %esi; pop %ebp; pop %ebx; pop %edx; pop %ecx; pop %eax
    .endm
#endif

    /* A stub a vector: error code (0 where the CPU pushes none), vector. */
    .macro STUB vector
    .balign 16
    .if (\vector == 8) || (\vector >= 10 && \vector <= 14) || (\vector == 17) || (\vector == 21)
    .else
    push $0
    .endif
    push $\vector
    jmp trap_common
    .endm

    .balign 16
    .globl trap_stubs
trap_stubs:
    .set v, 0
    .rept 256
    STUB v
    .set v, v + 1
    .endr

trap_common:
    PUSH_ALL
    cld
#ifdef __x86_64__
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap_dispatch
    mov %rbp, %rsp
    POP_ALL
    add $16, %rsp
    iretq
#else
    mov %ds, %ebx           /* kept over the call */
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    push %esp
    call trap_dispatch
    add $4, %esp
    mov %ebx, %ds
    mov %ebx, %es
    POP_ALL
    add $8, %esp
    iret
#endif

    /* int trap_try(void (*fn)(void *), void *arg) */
    .globl trap_try, trap_unwind
trap_try:
#ifdef __x86_64__
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    push try_stack          /* tries nest */
    mov %rsp, try_stack
    mov %rdi, %rax
    mov %rsi, %rdi
    call *%rax
    mov $-1, %eax
    jmp 1f
trap_unwind:
    mov try_stack, %rsp
    mov $0x10, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    pushq $2
    popfq
    mov trap, %eax          /* trap.vector */
1:  pop try_stack
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret
#else
    push %ebp; push %ebx; push %esi; push %edi
    push try_stack
    mov %esp, try_stack
    mov 24(%esp), %eax
    push 28(%esp)
    call *%eax
    add $4, %esp
    mov $-1, %eax
    jmp 1f
trap_unwind:
    mov $0x10, %eax
    mov %eax, %ss
    mov try_stack, %esp
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    pushl $2
    popfl
    mov trap, %eax
1:  popl try_stack
    pop %edi; pop %esi; pop %ebx; pop %ebp
    ret
#endif

    /* void user_run(void *user): struct user in guest.h */
    .globl user_run
user_run:
#ifdef __x86_64__
    pushq 32(%rdi)
    pushq 8(%rdi)
    pushq 16(%rdi)
    pushq 24(%rdi)
    pushq 0(%rdi)
    mov 32(%rdi), %eax
    mov %eax, %ds
    mov %eax, %es
    mov 40(%rdi), %rdi
    mov %rdi, %rbx
    iretq
#else
    mov 4(%esp), %ecx
    pushl 16(%ecx)
    pushl 4(%ecx)
    pushl 8(%ecx)
    pushl 12(%ecx)
    pushl 0(%ecx)
    mov 20(%ecx), %ebx
    mov 16(%ecx), %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    iret
#endif

    .bss
    .balign 16
    .globl try_stack
try_stack: .skip 8

    .section .note.GNU-stack, "", @progbits
