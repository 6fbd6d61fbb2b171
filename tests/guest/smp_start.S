/* Where an application processor starts: real mode at 0x8000 after SIPI with vector 8. Copied there;
 * goes to the mode of the kernel and calls smp_main on a stack of its own. */

    .text
    .globl smp_start, smp_start_end
    .code16
smp_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + (smp_gdt - smp_start)
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x58, $smp_32
    .balign 4
smp_gdt:
    .word 32 * 8 - 1
    .long gdt
smp_start_end:

    .code32
smp_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    /* A stack of 8 KiB each. */
    mov $1, %ebx
    lock xadd %ebx, smp_arrived
    mov %ebx, %esp
    inc %esp
    shl $13, %esp
    add $smp_stacks, %esp
#ifdef __x86_64__
    mov %cr4, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov $start_tables, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    and $0x9fffffff, %eax           /* caches on */
    mov %eax, %cr0
    ljmp $0x08, $1f
    .code64
1:  mov %ebx, %edi
    call smp_main
#else
    push %ebx
    call smp_main
#endif
2:  cli
    hlt
    jmp 2b

    .data
    .globl smp_arrived
smp_arrived: .long 0
    .bss
    .balign 16
smp_stacks: .skip 16 * 8192

    .section .note.GNU-stack, "", @progbits
