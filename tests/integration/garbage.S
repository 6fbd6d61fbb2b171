/*
 * A test kernel that executes garbage, in any mode of the processor.
 *
 * The multiboot module is the input: a 32-bit mode number (below), a 32-bit random seed, and up to
 * 64 KiB of bytes, which are copied to 0x10000 and jumped into at a random offset. Every exception
 * and every tick of the timer starts the bytes again at another offset; after MAX_STARTS of them
 * the kernel ends through the debug-exit port with 0. Garbage that overwrites this code, its tables
 * or its mode may end the machine earlier, in any of the ways a guest has.
 *
 * What must hold is checked outside: the VMM neither crashes nor hangs.
 */

#define MODE_REAL       0
#define MODE_PROT16     1
#define MODE_PROT32     2
#define MODE_PAGING32   3 /* 32-bit paging, 4 MiB pages */
#define MODE_PAE        4
#define MODE_LONG       5
#define MODE_COMPAT32   6
#define MODE_COMPAT16   7
#define MODE_LONG_USER  8
#define MODE_PROT_USER  9 /* 32-bit, paging, CPL 3 */
#define MODE_COUNT      10

#define MAX_STARTS  4000
#define GARBAGE     0x10000
#define LOW         0x8000 /* copy of the real-mode part */
#define STACK       0x90000

#define SEL_CODE32  0x08
#define SEL_DATA    0x10
#define SEL_CODE16  0x18 /* base GARBAGE */
#define SEL_DATA16  0x20
#define SEL_CODE64  0x28
#define SEL_UCODE32 0x33
#define SEL_UDATA   0x3b
#define SEL_UCODE64 0x43
#define SEL_LOW16   0x48 /* base 0 */
#define SEL_TSS     0x50

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002
    .long 2
    .long -(0x1badb002 + 2)

    .text
    .code32
    .globl _start
_start:
    cli
    cld
    mov $STACK, %esp
    lgdt gdt_pointer
    ljmp $SEL_CODE32, $1f
1:  mov $SEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss

    /* No module, no garbage: end with 1. */
    testb $8, (%ebx)
    jz no_input
    cmpl $0, 20(%ebx)
    je no_input
    mov 24(%ebx), %esi
    mov 4(%esi), %ecx       /* end, then start of the first module */
    mov (%esi), %esi
    sub %esi, %ecx
    sub $8, %ecx
    jle no_input
    cmp $0x10000, %ecx
    jbe 2f
    mov $0x10000, %ecx
2:  lodsl
    xor %edx, %edx
    mov $MODE_COUNT, %ebp
    div %ebp
    mov %edx, mode
    lodsl
    mov %eax, random
    mov $GARBAGE, %edi
    rep movsb
    mov $low_start, %esi
    mov $LOW, %edi
    mov $(low_end - low_start), %ecx
    rep movsb
    mov mode, %eax
    mov %eax, LOW + low_mode - low_start
    mov random, %eax
    mov %eax, LOW + low_random - low_start

    /* Timer: 8259 at vectors 0x20, only the PIT's line, wired through the local APIC's LINT0. */
    movl $0x1ff, 0xfee000f0
    movl $0x700, 0xfee00350
    mov $0x11, %al
    out %al, $0x20
    mov $0x20, %al
    out %al, $0x21
    mov $4, %al
    out %al, $0x21
    mov $1, %al
    out %al, $0x21
    mov $0xfe, %al
    out %al, $0x21
    mov $0x34, %al
    out %al, $0x43
    mov $(1193 * 2) & 0xff, %al
    out %al, $0x40
    mov $(1193 * 2) >> 8, %al
    out %al, $0x40

    /* 256 gates of both kinds, all to one handler: exceptions with and without error code alike,
     * since the handler starts from an empty stack. */
    mov $idt32, %edi
    mov $256, %ecx
3:  mov $handler32, %eax
    mov %ax, (%edi)
    movw $SEL_CODE32, 2(%edi)
    movw $0xee00, 4(%edi)
    shr $16, %eax
    mov %ax, 6(%edi)
    add $8, %edi
    loop 3b
    mov $idt64, %edi
    mov $256, %ecx
4:  mov $handler64, %eax
    mov %ax, (%edi)
    movw $SEL_CODE64, 2(%edi)
    movw $0xee00, 4(%edi)
    shr $16, %eax
    mov %ax, 6(%edi)
    movl $0, 8(%edi)
    movl $0, 12(%edi)
    add $16, %edi
    loop 4b

    cmpl $MODE_REAL, mode
    je enter_real
    lidt idt32_pointer
    /* The TSS serves both formats: ESP0/SS0 and RSP0 overlap, and a stack below 4 GiB with SS0 as
     * its upper half is a canonical RSP0 only in the 64-bit modes, where it is patched. */
    movl $STACK, tss + 4
    movl $SEL_DATA, tss + 8
    mov $tss, %eax
    mov %ax, gdt + SEL_TSS + 2
    shr $16, %eax
    mov %al, gdt + SEL_TSS + 4
    mov %ah, gdt + SEL_TSS + 7
    mov mode, %eax
    cmp $MODE_PAGING32, %eax
    je enter_paging32
    cmp $MODE_PROT_USER, %eax
    je enter_paging32
    cmp $MODE_PAE, %eax
    je enter_pae
    cmp $MODE_LONG, %eax
    jb start32

    /* Long mode: identity map of 4 GiB by 2 MiB pages. */
    movl $0, tss + 8
    call fill_directories
    movl $(pdpt + 7), pml4
    mov %cr4, %eax
    or $0x620, %eax         /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax         /* SCE, LME, NXE */
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    ljmp $SEL_CODE64, $enter_long

fill_directories:
    mov $(directories + 7), %eax
    mov $pdpt, %edi
    mov $4, %ecx
5:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 5b
    mov $directories, %edi
    mov $0xe7, %eax
    mov $2048, %ecx
6:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 6b
    ret

enter_paging32:
    mov $pml4, %edi
    mov $0xe7, %eax
    mov $1024, %ecx
7:  mov %eax, (%edi)
    add $0x400000, %eax
    add $4, %edi
    loop 7b
    mov %cr4, %eax
    or $0x610, %eax         /* PSE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $pml4, %eax
    jmp enable_paging

enter_pae:
    call fill_directories
    movl $(directories + 0x0001), pdpt /* PAE pointers have no U and W bits */
    movl $(directories + 0x1001), pdpt + 8
    movl $(directories + 0x2001), pdpt + 16
    movl $(directories + 0x3001), pdpt + 24
    mov %cr4, %eax
    or $0x630, %eax
    mov %eax, %cr4
    mov $pdpt, %eax

enable_paging:
    mov %eax, %cr3
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0
    mov $SEL_TSS, %eax
    ltr %ax
    jmp start32

no_input:
    mov $1, %eax
    out %eax, $0xf4
8:  hlt
    jmp 8b

    /* Every exception and interrupt of the 32-bit and 16-bit protected modes comes here. */
handler32:
    mov $SEL_DATA, %eax
    mov %eax, %ss
    mov $STACK, %esp
    mov %eax, %ds
    mov %eax, %es
start32:
    cld
    mov $0x20, %al
    out %al, $0x20
    incl starts
    cmpl $MAX_STARTS, starts
    ja finish32
    mov random, %eax
    imul $1664525, %eax, %eax
    add $1013904223, %eax
    mov %eax, random
    shr $16, %eax           /* an offset into 64 KiB; the low bits of this generator are weak */
    mov mode, %ecx
    cmp $MODE_PROT16, %ecx
    je start16
    cmp $MODE_PROT_USER, %ecx
    je start_user32
    add $GARBAGE, %eax
    sti
    jmp *%eax
start16:
    mov $SEL_DATA16, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    mov %ecx, %ss
    mov $0xfff0, %esp
    push $0x202
    push $SEL_CODE16
    push %eax
    iretl
start_user32:
    add $GARBAGE, %eax
    mov $SEL_UDATA, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    push %ecx
    push $(STACK - 0x1000)
    push $0x202
    push $SEL_UCODE32
    push %eax
    iretl
finish32:
    xor %eax, %eax
    out %eax, $0xf4
9:  hlt
    jmp 9b

enter_real:
    ljmp $SEL_LOW16, $(LOW + low_entry - low_start)

    .code64
enter_long:
    lidt idt64_pointer
    mov $SEL_TSS, %eax
    ltr %ax
    jmp start64
handler64:
    mov $SEL_DATA, %eax
    mov %eax, %ss
    mov $STACK, %esp
    mov %eax, %ds
    mov %eax, %es
start64:
    cld
    mov $0x20, %al
    out %al, $0x20
    incl starts
    cmpl $MAX_STARTS, starts
    ja finish64
    mov random, %eax
    imul $1664525, %eax, %eax
    add $1013904223, %eax
    mov %eax, random
    shr $16, %eax
    mov mode, %ecx
    cmp $MODE_LONG, %ecx
    je 1f
    cmp $MODE_COMPAT16, %ecx
    je 2f
    cmp $MODE_LONG_USER, %ecx
    je 3f
    push $SEL_DATA          /* MODE_COMPAT32 */
    push $(STACK - 0x1000)
    push $0x202
    push $SEL_CODE32
    add $GARBAGE, %eax
    push %rax
    iretq
1:  add $GARBAGE, %eax
    sti
    jmp *%rax
2:  mov $SEL_DATA16, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    push %rcx
    push $0xfff0
    push $0x202
    push $SEL_CODE16
    push %rax
    iretq
3:  push $SEL_UDATA
    push $(STACK - 0x1000)
    push $0x202
    push $SEL_UCODE64
    add $GARBAGE, %eax
    push %rax
    iretq
finish64:
    xor %eax, %eax
    out %eax, $0xf4
4:  hlt
    jmp 4b

    /* The real-mode part, which runs at LOW: position is relative to segment 0. */
    .code16
low_start:
low_entry:
    mov $SEL_DATA16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    lidtl %cs:(LOW + low_idt - low_start)
    mov %cr0, %eax
    and $0xfffffffe, %eax
    mov %eax, %cr0
    ljmp $0, $(LOW + low_real - low_start)
low_real:
    xor %ax, %ax
    mov %ax, %es
    mov %ax, %di
    mov $256, %cx
    cld
1:  mov $(LOW + low_handler - low_start), %ax
    stosw
    xor %ax, %ax
    stosw
    loop 1b
low_handler:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    cld
    mov $0x20, %al
    out %al, $0x20
    incl LOW + low_starts - low_start
    cmpl $MAX_STARTS, LOW + low_starts - low_start
    ja 2f
    mov LOW + low_random - low_start, %eax
    imul $1664525, %eax, %eax
    add $1013904223, %eax
    mov %eax, LOW + low_random - low_start
    shr $16, %eax
    mov $(GARBAGE >> 4), %bx
    mov %bx, %ds
    mov %bx, %es
    push $0x202
    push %bx
    push %ax
    iretw
2:  xor %eax, %eax
    out %eax, $0xf4
3:  hlt
    jmp 3b
    .balign 8
low_idt:
    .word 0x3ff
    .long 0
low_mode: .long 0
low_random: .long 0
low_starts: .long 0
low_end:

    .data
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08 code, 32 bit */
    .quad 0x00cf93000000ffff /* 10 data */
    .quad 0x00009b010000ffff /* 18 code, 16 bit, base 0x10000 */
    .quad 0x000093010000ffff /* 20 data, base 0x10000 */
    .quad 0x00af9b000000ffff /* 28 code, 64 bit */
    .quad 0x00cffb000000ffff /* 30 user code, 32 bit */
    .quad 0x00cff3000000ffff /* 38 user data */
    .quad 0x00affb000000ffff /* 40 user code, 64 bit */
    .quad 0x00009b000000ffff /* 48 code, 16 bit, base 0 */
    .quad 0x0000890000000067 /* 50 TSS */
    .quad 0
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt
    .balign 4
    .word 0
idt32_pointer:
    .word 256 * 8 - 1
    .long idt32
    .word 0
idt64_pointer:
    .word 256 * 16 - 1
    .quad idt64
    .balign 4
mode: .long 0
random: .long 0
starts: .long 0

    .bss
    .balign 4096
pml4: .skip 4096
pdpt: .skip 4096
directories: .skip 4 * 4096
idt32: .skip 256 * 8
idt64: .skip 256 * 16
tss: .skip 128

    .section .note.GNU-stack, "", @progbits
