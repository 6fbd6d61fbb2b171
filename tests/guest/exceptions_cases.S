/* One function a case. `x_NAME` starts it, `x_NAME_at` is where the saved RIP must point. A case
 * that needs the argument finds it in rdi or at 4(%esp). */

    .macro BEGIN name
    .globl x_\name
    .balign 16
x_\name:
    .endm
    .macro AT name
    .globl x_\name\()_at
x_\name\()_at:
    .endm

#ifdef __x86_64__
#define ARG_TO_AX mov %rdi, %rax
#else
#define ARG_TO_AX mov 4(%esp), %eax
#endif

    .text
BEGIN divide_by_zero
    mov $1, %eax
    xor %edx, %edx
    xor %ecx, %ecx
AT divide_by_zero
    div %ecx
    ret
BEGIN divide_overflow
    mov $1, %edx
    mov $1, %ecx
AT divide_overflow
    div %ecx
    ret
BEGIN idiv_minimum
    mov $0x80000000, %eax
    cltd
    mov $-1, %ecx
AT idiv_minimum
    idiv %ecx
    ret
BEGIN idiv_byte
    mov $0x4000, %eax
    mov $1, %ecx
AT idiv_byte
    idiv %cl
    ret
BEGIN breakpoint
    int3
AT breakpoint
    ret
BEGIN int3_long
    int $3
AT int3_long
    ret
BEGIN icebp
    .byte 0xf1
AT icebp
    ret
BEGIN int_n
    int $0x42
AT int_n
    ret
BEGIN invalid
AT invalid
    ud2
    ret
BEGIN ud1
AT ud1
    .byte 0x0f, 0xb9, 0xc0
    ret
BEGIN lock_register
AT lock_register
    .byte 0xf0, 0x01, 0xc0          /* lock add %eax, %eax */
    ret
BEGIN lock_nop
AT lock_nop
    .byte 0xf0, 0x90
    ret
BEGIN mov_cs
AT mov_cs
    .byte 0x8e, 0xc8                /* mov %eax, %cs */
    ret
BEGIN mov_cr1
AT mov_cr1
    .byte 0x0f, 0x20, 0xc8          /* mov %cr1, %eax */
    ret
BEGIN lea_register
AT lea_register
    .byte 0x8d, 0xc0
    ret
BEGIN fpu
AT fpu
    fninit
    ret
BEGIN sse
AT sse
    xorps %xmm0, %xmm0
    ret
BEGIN wait
AT wait
    fwait
    ret
BEGIN fpu_error
    fninit
    push $0x37b                     /* zero divide unmasked */
#ifdef __x86_64__
    fldcw (%rsp)
    pop %rax
#else
    fldcw (%esp)
    pop %eax
#endif
    fld1
    fldz
    fdivrp                          /* remembers the error */
    nop
AT fpu_error
    fwait                           /* and reports it here */
    fninit
    ret
BEGIN sse_error
    push $0x1d80                    /* zero divide unmasked */
#ifdef __x86_64__
    ldmxcsr (%rsp)
    pop %rax
#else
    ldmxcsr (%esp)
    pop %eax
#endif
    mov $1, %eax
    cvtsi2ss %eax, %xmm0
    xorps %xmm1, %xmm1
AT sse_error
    divss %xmm1, %xmm0
    ret
BEGIN load_ds
    ARG_TO_AX
AT load_ds
    mov %eax, %ds
    ret
BEGIN load_ss
    ARG_TO_AX
AT load_ss
    mov %eax, %ss
    ret
BEGIN load_tr
    ARG_TO_AX
AT load_tr
    ltr %ax
    ret
BEGIN load_ldt
    ARG_TO_AX
AT load_ldt
    lldt %ax
    ret
BEGIN far_jump
    ARG_TO_AX
#ifdef __x86_64__
    push %rax
    push $x_far_jump_at
AT far_jump
    lretq
#else
    push %eax
    push $x_far_jump_at
AT far_jump
    lret
#endif
BEGIN read_msr
    mov $0xc1234567, %ecx
AT read_msr
    rdmsr
    ret
BEGIN write_cr4
#ifdef __x86_64__
    mov %cr4, %rax
    bts $31, %rax
AT write_cr4
    mov %rax, %cr4
#else
    mov %cr4, %eax
    bts $31, %eax
AT write_cr4
    mov %eax, %cr4
#endif
    ret
BEGIN write_cr0                     /* paging without protection */
#ifdef __x86_64__
    mov $0x80000010, %eax
AT write_cr0
    mov %rax, %cr0
#else
    mov $0x80000010, %eax
AT write_cr0
    mov %eax, %cr0
#endif
    ret
BEGIN too_long                      /* 16 bytes: prefixes and a nop */
AT too_long
    .fill 15, 1, 0x66
    nop
    ret

#ifdef __x86_64__
BEGIN noncanonical
    movabs $0x8000000000000000, %rax
AT noncanonical
    mov (%rax), %ecx
    ret
BEGIN bad_stack                     /* a push faults, and so does every delivery of that */
    movabs $0x8000000000001000, %rsp
AT bad_stack
    push %rax
BEGIN noncanonical_stack
    mov %rsp, %rdx
    movabs $0x8000000000001000, %rsp
AT noncanonical_stack
    pop %rax
    ret
BEGIN noncanonical_bp
    push %rbp
    movabs $0x8000000000001000, %rbp
AT noncanonical_bp
    mov 8(%rbp), %rax
    pop %rbp
    ret
BEGIN noncanonical_jump
    movabs $0x8000000000000000, %rax
AT noncanonical_jump
    jmp *%rax
BEGIN read_far
    mov %rdi, %rax
AT read_far
    mov (%rax), %ecx
    ret
BEGIN write_far
    mov %rdi, %rax
AT write_far
    movl $1, (%rax)
    ret
BEGIN rmw_far
    mov %rdi, %rax
AT rmw_far
    incl (%rax)
    ret
BEGIN call_far
    call *%rdi
    ret
BEGIN removed_push_es
AT removed_push_es
    .byte 0x06
    ret
BEGIN removed_into
AT removed_into
    .byte 0xce
    ret
BEGIN removed_aaa
AT removed_aaa
    .byte 0x37
    ret
BEGIN removed_far_call
AT removed_far_call
    .byte 0x9a, 0, 0, 0, 0, 8, 0
    ret
#else
BEGIN overflow
    mov $0x7fffffff, %eax
    add $1, %eax
    into
AT overflow
    ret
BEGIN no_overflow
    xor %eax, %eax
    into
    ret
BEGIN bound
    mov $7, %eax
AT bound
    bound %eax, bounds
    ret
BEGIN in_bounds
    mov $6, %eax
    bound %eax, bounds
    ret
BEGIN limit
    mov 4(%esp), %eax
    mov %eax, %es
AT limit
    movl %es:0xffd, %ecx
    ret
BEGIN limit_fits
    mov 4(%esp), %eax
    mov %eax, %es
    movl %es:0xffc, %ecx
    ret
BEGIN expand_down                   /* limit 0xfff: 0x1000 is the first byte inside */
    mov 4(%esp), %eax
    mov %eax, %es
    movl %es:0x1000, %ecx
AT expand_down
    movl %es:0xfff, %ecx
    ret
BEGIN write_read_only
    mov 4(%esp), %eax
    mov %eax, %es
    movl %es:0x10, %ecx
AT write_read_only
    movl %ecx, %es:0x10
    ret
BEGIN null_segment
    xor %eax, %eax
    mov %eax, %es
AT null_segment
    movl %es:0, %ecx
    ret
    .section .rodata
    .balign 8
bounds: .long 3, 6
    .text
#endif

/* At CPL 3. */
BEGIN user_cli
AT user_cli
    cli
BEGIN user_hlt
AT user_hlt
    hlt
BEGIN user_in
AT user_in
    inb $0x80, %al
BEGIN user_lgdt
AT user_lgdt
    lgdt start_gdt_pointer
BEGIN user_cr
AT user_cr
#ifdef __x86_64__
    mov %cr0, %rax
#else
    mov %cr0, %eax
#endif
BEGIN user_rdmsr
AT user_rdmsr
    rdmsr
BEGIN user_int_kernel_gate
AT user_int_kernel_gate
    int $0x42
BEGIN user_int_user_gate
    int $0x80
AT user_int_user_gate
    nop
BEGIN user_int3
    int3                            /* its gate is for CPL 0 here */
BEGIN user_sgdt
AT user_sgdt
    sgdt user_scratch
    int $0x80
BEGIN user_smsw
AT user_smsw
    smsw %ax
    int $0x80
BEGIN user_unaligned
#ifdef __x86_64__
    pushfq
    orl $0x40000, (%rsp)
    popfq
    mov $user_scratch + 1, %eax
AT user_unaligned
    mov (%rax), %ecx
#else
    pushfl
    orl $0x40000, (%esp)
    popfl
    mov $user_scratch + 1, %eax
AT user_unaligned
    mov (%eax), %ecx
#endif
    int $0x80
BEGIN user_popf                     /* IF and IOPL stay as they are, silently */
#ifdef __x86_64__
    pushq $0x3202
    popfq
    pushfq
    pop %rax
#else
    pushl $0x3202
    popfl
    pushfl
    pop %eax
#endif
    int $0x80
AT user_popf

    .bss
    .balign 16
user_scratch: .skip 32

    .section .note.GNU-stack, "", @progbits
