/* Multiboot entry: 32-bit protected mode, no paging. Sets up segments and, in 64-bit kernels, long
 * mode; then calls guest_start. */

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002
    .long 3
    .long -(0x1badb002 + 3)

    .text
    .code32
    .globl _start
_start:
    cli
    cld
    mov %eax, multiboot_magic
    mov %ebx, multiboot_info
    mov $stack_top, %esp
    lgdt start_gdt_pointer
    ljmp $0x58, $1f         /* 32-bit code in either kind of kernel */
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss

#ifdef __x86_64__
    /* PML4, page directory pointers, 4 directories of 2 MiB pages: present, writable, user. */
    mov $(start_tables + 0x1007), %eax
    mov %eax, start_tables
    mov $(start_tables + 0x2007), %eax
    mov $4, %ecx
    mov $(start_tables + 0x1000), %edi
2:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 2b
    mov $(start_tables + 0x2000), %edi
    mov $0x87, %eax
    mov $2048, %ecx
3:  mov %eax, (%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 3b

    mov %cr4, %eax
    or $0x20, %eax          /* PAE */
    mov %eax, %cr4
    mov $start_tables, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax         /* LME */
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $0x08, $4f
    .code64
4:  mov $stack_top, %esp
    xor %ebp, %ebp
    call guest_start
#else
    ljmp $0x08, $4f
4:  xor %ebp, %ebp
    call guest_start
#endif
5:  hlt
    jmp 5b

    .balign 8
    .globl start_gdt_pointer
start_gdt_pointer:
    .word 32 * 8 - 1
    .long gdt
    .long 0

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
#ifdef __x86_64__
    .quad 0x00af9b000000ffff /* 08 kernel code, 64 bit */
#else
    .quad 0x00cf9b000000ffff /* 08 kernel code, 32 bit */
#endif
    .quad 0x00cf93000000ffff /* 10 kernel data */
    .quad 0x00cffb000000ffff /* 18 user code, 32 bit */
    .quad 0x00cff3000000ffff /* 20 user data */
    .quad 0x00affb000000ffff /* 28 user code, 64 bit */
    .quad 0x00cff3000000ffff /* 30 user data, for SYSEXIT */
    .quad 0x00009b000000ffff /* 38 kernel code, 16 bit */
    .quad 0x000093000000ffff /* 40 kernel data, 16 bit */
    .quad 0, 0               /* 48 TSS */
    .quad 0x00cf9b000000ffff /* 58 kernel code, 32 bit */
    .fill 20, 8, 0           /* 60 for tests */

    .globl multiboot_magic, multiboot_info
multiboot_magic: .long 0
multiboot_info: .long 0

    .bss
    .balign 4096
    .globl start_tables
start_tables: .skip 6 * 4096
    .skip 32768
    .globl stack_top
stack_top:

    .section .note.GNU-stack, "", @progbits
