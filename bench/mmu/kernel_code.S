/* What kernel.c times in loops of its own. */

    .text
    .globl bench_syscalls, bench_syscall_entry
bench_syscalls:                     /* at CPL 3: as many system calls as rdi says */
    mov %rdi, %rbx
1:  syscall
    dec %ebx
    jnz 1b
    int $0x80
bench_syscall_entry:                /* back at once, on the user's stack */
    sysretq

    /* Cycles of 64 page faults of a load, which the handler goes past. */
    .globl bench_page_fault, bench_fault_entry
bench_page_fault:
    mov $64, %r8d
    rdtsc
    shl $32, %rdx
    lea (%rdx, %rax), %r9
    .balign 16
1:  mov (%rdi), %eax                /* 2 bytes */
    dec %r8d
    jnz 1b
    rdtsc
    shl $32, %rdx
    add %rdx, %rax
    sub %r9, %rax
    ret
bench_fault_entry:
    add $8, %rsp
    addq $2, (%rsp)
    iretq

    .globl bench_divide, bench_divide_entry
bench_divide:
    mov $64, %r8d
    rdtsc
    shl $32, %rdx
    lea (%rdx, %rax), %r9
    xor %ecx, %ecx
    xor %edx, %edx
    mov $1, %eax
    .balign 16
1:  div %ecx                        /* 2 bytes */
    dec %r8d
    jnz 1b
    rdtsc
    shl $32, %rdx
    add %rdx, %rax
    sub %r9, %rax
    ret
bench_divide_entry:
    addq $2, (%rsp)
    iretq

    .section .note.GNU-stack, "", @progbits
