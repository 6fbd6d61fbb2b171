/* Code on both sides of the gates. What CPL 3 code learns it leaves in registers for INT 0x80; what
 * CPL 0 code learns goes to gate_log. */

    .text
    .globl gate_target, gate_user_call, gate_kernel_call, gate_call_pointer
    .globl user_conforming, conforming_target
    .globl sysenter_target, sysenter_user, sysexit_return

#ifdef __x86_64__
    .code64
gate_target:                        /* by a call gate */
    mov %cs, %eax
    mov %eax, gate_log
    mov %ss, %eax
    mov %eax, gate_log + 4
    mov %rsp, gate_log + 8
    mov (%rsp), %rax                /* RIP, CS, RSP, SS */
    mov %rax, gate_log + 16
    mov 8(%rsp), %rax
    mov %rax, gate_log + 24
    lretq
gate_kernel_call:
    push %rbx
    lcall *gate_call_pointer
    mov %cs, %eax
    pop %rbx
    ret
gate_user_call:                     /* rdi: the alias is 0 here */
    mov %rsp, %rsi
    lcall *gate_call_pointer
    .globl gate_user_returned
gate_user_returned:
    mov %rsp, %rdx
    sub %rsi, %rdx
    mov %cs, %ecx
    mov %ss, %ebx
    int $0x80

user_conforming:
    lcall *gate_call_pointer
    int $0x80
conforming_target:
    mov %cs, %eax
    lretl                           /* the far call had a 32-bit operand */

    /* SYSCALL. */
    .globl syscall_user, syscall_target, syscall_target_32
syscall_user:
    mov %rsp, %rbp
    mov $0x1111, %ebx
    xor %ecx, %ecx
    stc
    std
    syscall
    .globl syscall_user_at
syscall_user_at:
    mov %cs, %edx
    mov %ss, %edi
    pushfq
    pop %rax
    cld
    int $0x80
syscall_target:
    mov %rcx, gate_log
    mov %r11, gate_log + 8
    mov %cs, %eax
    mov %eax, gate_log + 16
    mov %ss, %eax
    mov %eax, gate_log + 20
    pushfq
    popq gate_log + 24
    mov %rsp, gate_log + 32
    sysretq
syscall_target_32:                  /* returns to compatibility mode */
    mov $syscall_compat, %ecx
    mov $2, %r11d
    sysretl
    .code32
syscall_compat:
    mov %cs, %edx
    mov %ss, %edi
    xor %eax, %eax
    .byte 0x48                      /* DEC EAX: proves the mode */
    nop
    int $0x80
    .code64

    /* SYSENTER from 64-bit mode, SYSEXIT to it and to 32 bits. */
sysenter_user:
    mov %rsp, %rbp
    sysenter
    ud2
sysenter_target:
    mov %cs, %eax
    mov %eax, gate_log
    mov %ss, %eax
    mov %eax, gate_log + 4
    mov %rsp, gate_log + 8
    pushfq
    popq gate_log + 16
    mov $sysexit_return, %edx
    mov %rbp, %rcx
    sysexitq
sysexit_return:
    mov %cs, %edx
    mov %ss, %edi
    mov %rsp, %rcx
    int $0x80
    .globl sysenter_target_32
sysenter_target_32:
    mov $syscall_compat, %edx
    mov %rbp, %rcx
    sysexitl

    /* SWAPGS. */
    .globl swapgs_twice
swapgs_twice:
    swapgs
    mov %gs:0, %rax
    swapgs
    mov %gs:0, %rdx
    shl $32, %rdx
    or %rdx, %rax
    ret
    .globl user_swapgs, user_swapgs_at
user_swapgs:
user_swapgs_at:
    swapgs
    int $0x80

    /* Compatibility mode at CPL 3, by IRET. */
    .code32
    .globl compat_user
compat_user:
    mov $0x80000000, %eax
    .byte 0x48
    mov %cs, %edx
    mov %esp, %ecx
    push %eax
    sub %esp, %ecx
    int $0x80
    .code64

    .globl return_outer             /* far return to CPL 3, with a kernel selector in DS */
return_outer:
    mov $0x10, %eax
    mov %eax, %ds
    pushq $0x23
    pushq $outer_stack
    pushq $0x2b
    pushq $outer
    lretq
outer:
    mov %ds, %eax
    mov %es, %ecx
    int $0x80
    .globl iret_nt, iret_nt_at
iret_nt:
    pushfq
    orl $0x4000, (%rsp)
    popfq
    pushq $0x10
    pushq $0
    pushq $2
    pushq $8
    pushq $0
iret_nt_at:
    iretq
    .globl iret_noncanonical, iret_bad_ss, iret_bad_ss_at
iret_bad_ss:                        /* CPL 3 with a stack for CPL 0 */
    pushq $0x10
    pushq $0
    pushq $2
    pushq $0x2b
    pushq $0
iret_bad_ss_at:
    iretq
    .globl iret_stack               /* IRET loads SS:RSP even when the CPL stays */
iret_stack:
    mov %rsp, %rdx
    mov %ss, %eax
    push %rax
    lea -256(%rdx), %rcx
    push %rcx
    push $2
    mov %cs, %eax
    push %rax
    push $1f
    iretq
1:  mov %rsp, %rax
    sub %rdx, %rax
    mov %rdx, %rsp
    ret

#else
    .code32
gate_target:
    mov %cs, %eax
    mov %eax, gate_log
    mov %ss, %eax
    mov %eax, gate_log + 4
    mov %esp, gate_log + 8
    mov (%esp), %eax                /* EIP, CS, two parameters, ESP, SS */
    mov %eax, gate_log + 16
    mov 4(%esp), %eax
    mov %eax, gate_log + 24
    mov 8(%esp), %eax
    mov %eax, gate_log + 28
    mov 12(%esp), %eax
    mov %eax, gate_log + 32
    lret $8
gate_kernel_call:
    push %ebx
    push $0x77
    push $0x66
    lcall *gate_call_pointer
    mov %cs, %eax
    pop %ebx
    ret
gate_user_call:
    mov %esp, %esi
    push $0x77
    push $0x66
    lcall *gate_call_pointer
    .globl gate_user_returned
gate_user_returned:
    mov %esp, %edx
    sub %esi, %edx
    mov %cs, %ecx
    mov %ss, %ebx
    int $0x80

user_conforming:
    lcall *gate_call_pointer
    int $0x80
conforming_target:
    mov %cs, %eax
    lret

sysenter_user:
    mov %esp, %ebp
    sysenter
    ud2
sysenter_target:
    mov %cs, %eax
    mov %eax, gate_log
    mov %ss, %eax
    mov %eax, gate_log + 4
    mov %esp, gate_log + 8
    pushfl
    popl gate_log + 16
    mov $sysexit_return, %edx
    mov %ebp, %ecx
    sysexit
sysexit_return:
    mov %cs, %edx
    mov %ss, %edi
    mov %esp, %ecx
    int $0x80

    .globl return_outer
return_outer:
    mov $0x10, %eax
    mov %eax, %ds
    pushl $0x23
    pushl $outer_stack
    pushl $0x1b
    pushl $outer
    lret
outer:
    mov %ds, %eax
    mov %es, %ecx
    int $0x80
    .globl iret_bad_ss, iret_bad_ss_at
iret_bad_ss:
    pushl $0x10
    pushl $0
    pushl $2
    pushl $0x1b
    pushl $0
iret_bad_ss_at:
    iret

    /* Virtual-8086 mode: 16-bit real-mode code at CPL 3, copied to 0x8000. */
    .globl v86_start, v86_end
    .code16
v86_start:
    mov $0x0900, %ax
    mov %ax, %es
    movw $0x8686, %es:0
    mov %cs, %ax
    int3                            /* to CPL 0 through its gate */
v86_end:
    .code32
#endif

    .data
    .balign 8
    .globl gate_log
gate_log: .fill 16, 4, 0
gate_call_pointer:
    .long 0
    .word 0                         /* the test sets the selector */
    .bss
    .skip 4096
outer_stack:

    .section .note.GNU-stack, "", @progbits
