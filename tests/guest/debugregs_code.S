/* Short sequences to be stepped and watched. */
#ifdef __x86_64__
#define SP_AX %rax
#define SAVE_DI push %rdi
#define RESTORE_DI pop %rdi
#define CLEAR_TF andl $~0x100, (%rsp)
#define FLAGS_PUSH pushfq
#define FLAGS_POP popfq
#define SET_TF orl $0x100, (%rsp)
#else
#define SP_AX %eax
#define SAVE_DI push %edi
#define RESTORE_DI pop %edi
#define CLEAR_TF andl $~0x100, (%esp)
#define FLAGS_PUSH pushfl
#define FLAGS_POP popfl
#define SET_TF orl $0x100, (%esp)
#endif

    .text
    .globl step_simple, step_1, step_2, step_3, step_4, step_5, step_end
step_simple:
    FLAGS_PUSH
    SET_TF
    FLAGS_POP                       /* TF takes effect after the next instruction */
    nop
step_1:
    inc %eax
step_2:
    push SP_AX
step_3:
    pop SP_AX
step_4:
    jmp step_5
    ud2
step_5:
    nop
step_end:
    FLAGS_PUSH
    CLEAR_TF
    FLAGS_POP
    ret

    .globl step_rep, step_rep_at, step_rep_end
step_rep:                           /* each iteration is a step */
    mov $4, %ecx
    SAVE_DI
    mov $debug_target, %edi
    FLAGS_PUSH
    SET_TF
    FLAGS_POP
step_rep_at:
    rep stosb
step_rep_end:
    FLAGS_PUSH
    CLEAR_TF
    FLAGS_POP
    RESTORE_DI
    ret

    .globl step_ss, step_ss_after
step_ss:                            /* MOV SS keeps the trap away from the next instruction */
    mov %ss, %eax
    FLAGS_PUSH
    SET_TF
    FLAGS_POP
    mov %eax, %ss
    nop
step_ss_after:
    nop
    FLAGS_PUSH
    CLEAR_TF
    FLAGS_POP
    ret

    .globl step_int, step_int_after
step_int:                           /* the handler is not stepped; after IRET it goes on */
    FLAGS_PUSH
    SET_TF
    FLAGS_POP
    int $0x50
step_int_after:
    nop
    FLAGS_PUSH
    CLEAR_TF
    FLAGS_POP
    ret

    .globl watch_code, watch_code_at
watch_code:
    xor %eax, %eax
    inc %eax
watch_code_at:
    inc %eax
    inc %eax
    ret

    .globl watch_write, watch_write_after, watch_read, watch_read_after, watch_rep, watch_rep_after
watch_write:
    movl $1, debug_target
watch_write_after:
    ret
watch_read:
    mov debug_target, %eax
watch_read_after:
    ret
watch_rep:
    SAVE_DI
    mov $debug_target - 2, %edi
    mov $8, %ecx
    rep stosb
watch_rep_after:
    RESTORE_DI
    ret

    .bss
    .balign 16
    .globl debug_target
    .skip 16
debug_target: .skip 16

    .section .note.GNU-stack, "", @progbits
