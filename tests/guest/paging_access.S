/* One access each, to the address in the argument. `access_NAME_at` is the instruction that faults.
 * The user_ versions end with INT 0x80. */

#ifdef __x86_64__
#define TAKE                /* it is in rdi */
#define POINTER %rdi
#define ALIAS
#else
#define TAKE mov 4(%esp), %edi
#define POINTER %edi
#endif

    .text
    .globl access_read, access_write, access_fetch, access_cmpxchg, access_push
    .globl access_read_at, access_write_at, access_cmpxchg_at
access_read:
    TAKE
access_read_at:
    mov (POINTER), %eax
    ret
access_write:
    TAKE
    mov $0x5a5a5a5a, %eax
access_write_at:
    mov %eax, (POINTER)
    ret
access_fetch:                       /* the page has RET at its start */
    TAKE
    jmp *POINTER
access_cmpxchg:                     /* the comparison fails, and yet it is a write */
    TAKE
    mov $0x13579bdf, %eax
    mov $1, %ecx
access_cmpxchg_at:
    cmpxchg %ecx, (POINTER)
    ret
access_push:                        /* a push at the address, with the stack there */
#ifdef __x86_64__
    mov %rsp, %rdx
    mov %rdi, %rsp
    pushq $0x77
    mov %rdx, %rsp
#else
    mov 4(%esp), %eax
    mov %esp, %edx
    mov %eax, %esp
    pushl $0x77
    mov %edx, %esp
#endif
    ret

    .globl user_read, user_write, user_fetch
user_read:
#ifndef __x86_64__
    mov %ebx, %edi
#endif
    mov (POINTER), %eax
    int $0x80
user_write:
#ifndef __x86_64__
    mov %ebx, %edi
#endif
    mov $0x5a5a5a5a, %eax
    mov %eax, (POINTER)
    int $0x80
user_fetch:                         /* the page has INT 0x80 at offset 16 */
#ifndef __x86_64__
    mov %ebx, %edi
#endif
    add $16, POINTER
    jmp *POINTER

    .section .note.GNU-stack, "", @progbits
