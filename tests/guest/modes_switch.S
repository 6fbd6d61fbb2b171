/*
 * From 64-bit mode down to every other mode and back, leaving evidence on the way:
 * 64-bit -> compatibility 32 -> compatibility 16 -> paging off, LME off: protected 32 -> PAE paging
 * -> 32-bit paging -> protected 16 -> real -> protected 32 -> long mode.
 *
 * Each stage stores a word in modes_log; modes.c says what it must be.
 */

    .text
    .code64
    .globl modes_round_trip
modes_round_trip:
    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
    mov %rsp, saved_sp
    mov %cr3, %rax
    mov %eax, saved_cr3
    mov $0x1122334455667788, %r15   /* must survive every mode without REX prefixes */

    /* Into compatibility mode. */
    pushq $0x58
    pushq $compat32
    lretq

    .code32
compat32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov %eax, %es
    mov $modes_stack_top, %esp
    /* 0x48 is DEC EAX here, a REX prefix in 64-bit mode. */
    mov $5, %eax
    .byte 0x48
    mov %eax, modes_log + 0
    /* Addresses wrap at 32 bits. */
    mov $0xfffffff0, %ebx
    mov modes_value + 0x10(%ebx), %eax
    mov %eax, modes_log + 4
    /* Pushes are 4 bytes. */
    mov %esp, %eax
    push %eax
    sub %esp, %eax
    mov %eax, modes_log + 8
    pop %eax
    ljmp $0x60, $0                  /* a 16-bit segment based at modes_compat16 */

    .code16
    .globl modes_compat16
modes_compat16:
    mov $0x12345678, %eax
    mov $0x9abc, %ax
    mov $modes_log + 12, %ebx
    mov %eax, (%ebx)
    ljmpl $0x58, $leave_long

    .code32
leave_long:
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0                  /* paging off: leaves long mode */
    mov $0xc0000080, %ecx
    rdmsr
    mov %eax, modes_log + 16        /* LMA clear, LME set */
    and $~0x100, %eax
    wrmsr
    ljmp $0x58, $1f
1:  mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $modes_stack_top, %esp

    /* PAE paging: the first 1 GiB identity-mapped, and one page elsewhere. */
    mov $modes_pae, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    mov 0x40000000, %eax            /* the page at 1 GiB is modes_page */
    mov %eax, modes_log + 20
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0

    /* 32-bit paging with 4 MiB pages. */
    mov %cr4, %eax
    and $~0x20, %eax
    or $0x10, %eax
    mov %eax, %cr4
    mov $modes_legacy, %eax
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    mov 0x40000000, %eax
    mov %eax, modes_log + 24
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    xor %eax, %eax
    mov %eax, %cr3

    /* 16-bit protected mode needs its code below 64 KiB of its segment: copied to 0x8000. */
    mov $low_start, %esi
    mov $0x8000, %edi
    mov $low_end - low_start, %ecx
    rep movsb
    sidt saved_idt
    ljmp $0x38, $0x8000

    .code16
low_start:
    mov $0x40, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7ff0, %sp
    pushw $0x1234
    mov %sp, %ax
    mov %ax, 0x9004                 /* 0x7fee */
    pop %ax
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $0, $0x8000 + (real - low_start)

real:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x7ff0, %sp
    lidtl 0x8000 + (real_idt - low_start)
    /* Segment * 16 + offset. */
    mov $0x0900, %ax
    mov %ax, %es
    movw $0x4242, %es:0x0008        /* 0x9008 */
    /* An interrupt through the table at 0. */
    movw $0x8000 + (real_int - low_start), 0x60 * 4
    movw $0, 0x60 * 4 + 2
    int $0x60
    /* A 32-bit operand and address in real mode. */
    mov $0x0000900c, %ebx
    movl $0xcafef00d, (%ebx)
    /* PUSHF/POPF, far call and return. */
    lcall $0, $0x8000 + (real_far - low_start)
    mov $1, %ax
    mov $0, %dx
    mov $0, %cx
    movw $0x8000 + (real_divide - low_start), 0
    movw $0, 2
    div %cx                         /* #DE: a fault, the handler skips it */
    movw $0x600d, 0x9014
    /* Wraps at 64 KiB. */
    mov $0xffff, %bx
    movb $0x77, 0x9018
    movb 0x9019(%bx), %al
    mov %al, 0x9016
    /* And back. */
    lgdtl 0x8000 + (real_gdt - low_start)
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x58, $back32

real_int:
    movw $0x6060, 0x900a
    iret
real_far:
    movw $0xfa12, 0x9010
    lret
real_divide:
    push %bp
    mov %sp, %bp
    addw $2, 2(%bp)
    movw $0xd1d1, 0x9012
    pop %bp
    iret
    .balign 4
real_idt:
    .word 0x3ff
    .long 0
real_gdt:
    .word 32 * 8 - 1
    .long gdt
low_end:

    .code32
back32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $modes_stack_top, %esp
    lidt saved_idt
    mov %cr4, %eax
    and $~0x10, %eax
    or $0x20, %eax
    mov %eax, %cr4
    mov saved_cr3, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    rdmsr
    mov %eax, modes_log + 28        /* LME alone */
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    rdmsr
    mov %eax, modes_log + 32        /* LME and LMA */
    mov %cs, %eax
    mov %eax, modes_log + 36        /* still compatibility mode */
    ljmp $0x08, $back64
    .code64
back64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov saved_sp, %rsp
    mov %r15, %rax
    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
    ret

    .data
    .balign 8
    .globl modes_log, modes_value
modes_log: .fill 16, 4, 0
modes_value: .long 0x76543210
saved_sp: .quad 0
saved_cr3: .long 0
    .balign 8
saved_idt: .skip 16

    .bss
    .balign 4096
    .globl modes_pae, modes_pae_directory, modes_pae_high, modes_pae_table, modes_legacy
    .globl modes_legacy_table, modes_page
modes_pae: .skip 4096
modes_pae_directory: .skip 4096
modes_pae_high: .skip 4096
modes_pae_table: .skip 4096
modes_legacy: .skip 4096
modes_legacy_table: .skip 4096
modes_page: .skip 4096
    .skip 4096
modes_stack_top:

    .section .note.GNU-stack, "", @progbits
