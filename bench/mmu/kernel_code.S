/* What kernel.c times in loops of its own. */

    /* The loop between these is passed through 64 times; rax: cycles of all. r8 and r9 are taken. */
.macro clock_begin
    mov $64, %r8d
    rdtsc
    shl $32, %rdx
    lea (%rdx, %rax), %r9
.endm
.macro clock_end loop
    dec %r8d
    jnz \loop
    rdtsc
    shl $32, %rdx
    add %rdx, %rax
    sub %r9, %rax
    ret
.endm

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
    clock_begin
    .balign 16
1:  mov (%rdi), %eax                /* 2 bytes */
    clock_end 1b
bench_fault_entry:
    add $8, %rsp
    addq $2, (%rsp)
    iretq

    .globl bench_divide, bench_divide_entry
bench_divide:
    clock_begin
    xor %ecx, %ecx
    xor %edx, %edx
    mov $1, %eax
    .balign 16
1:  div %ecx                        /* 2 bytes */
    clock_end 1b
bench_divide_entry:
    addq $2, (%rsp)
    iretq

    .section .note.GNU-stack, "", @progbits
