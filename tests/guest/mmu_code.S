/* Code for mmu_implicit.c that C does not write. */

#ifdef __x86_64__
#define A_REG %rax
#define ENTRY %rdi
#define ADDRESS %rsi
#define TARGET %rcx
#else
#define A_REG %eax
#define ENTRY %edi
#define ADDRESS %esi
#define TARGET %ecx
#endif

    .text
    /* int mmu_call(word entry, word address, uint32_t value, word target): calls one of the pieces
     * below, copied to where it changes the entry that maps it. */
    .globl mmu_call
mmu_call:
#ifdef __x86_64__
    call *TARGET
    ret
#else
    push %edi
    push %esi
    mov 12(%esp), ENTRY
    mov 16(%esp), ADDRESS
    mov 20(%esp), %edx
    mov 24(%esp), TARGET
    call *TARGET
    pop %esi
    pop %edi
    ret
#endif

    /* The last instructions are run from the page, or not, as the entry is then. The number says
     * which copy it was. */
    .globl mmu_by_invlpg, mmu_by_invlpg_then, mmu_by_cr3, mmu_by_cr3_then, mmu_pieces_end
mmu_by_invlpg:
    mov %edx, (ENTRY)
    invlpg (ADDRESS)
mmu_by_invlpg_then:
    mov $1, %eax
    ret
mmu_by_cr3:
    mov %cr3, A_REG
    mov %edx, (ENTRY)
    mov A_REG, %cr3
mmu_by_cr3_then:
    mov $1, %eax
    ret
mmu_pieces_end:

    .globl mmu_user_load
mmu_user_load:                      /* at CPL 3: a segment register from rdi, ebx */
#ifdef __x86_64__
    mov %edi, %fs
#else
    mov %ebx, %fs
#endif
    int $0x80

    .globl mmu_user_interrupt
mmu_user_interrupt:
    int $0x80

    .section .note.GNU-stack, "", @progbits
