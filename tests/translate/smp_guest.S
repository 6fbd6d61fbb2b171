/*
 * What the vCPUs of smp_test.c run, at CPL 0. Position-independent. On entry:
 *
 *    RDI  shared memory (struct shared)      RSI  this vCPU's number
 *    RBX  rounds                             R14  vCPUs
 *
 * A litmus test is one body a vCPU, run once a round on cells of that round's own: RDI + CELLS +
 * 256 * round, x at 0, y at 64, results from 128 on, one 8-byte word each.
 */
#define BARRIER 0
#define COUNTER 64
#define SPINLOCK 128
#define GUARDED 136
#define UNALIGNED 317 /* a word over the border of a cache line, ... */
#define ALIGNED   320 /* a part of it */
#define CROSSING  4093 /* a word over the border of a page */
#define CELLS 4096

    .text

    /* Every 16th round waits until all vCPUs are there. Spoils RDX. */
    .macro barrier
    testb $15, %r12b
    jnz 2f
    lock incq BARRIER(%rdi)
    movq %r12, %rdx
    shrq $4, %rdx
    incq %rdx
    imulq %r14, %rdx
1:  cmpq %rdx, BARRIER(%rdi)
    jae 2f
    pause
    jmp 1b
2:
    .endm

    .macro program name
    .globl smp_\name
    .globl smp_\name\()_end
smp_\name:
    .endm

    .macro end name
    hlt
smp_\name\()_end:
    .endm

    /* One round after another; `body` finds its cells at R8. */
    .macro litmus name
program \name
    xorl %r12d, %r12d
    leaq CELLS(%rdi), %r8
10: barrier
    \name\()_body
    addq $256, %r8
    incq %r12
    cmpq %rbx, %r12
    jb 10b
    end \name
    .endm

    /* ---- counters ---- */

program counters
    xorl %r12d, %r12d
20: lock incq COUNTER(%rdi)
    movl $3, %eax
    lock xaddq %rax, COUNTER(%rdi)
    lock subl $1, COUNTER(%rdi)
    movq COUNTER(%rdi), %rax
21: leaq 5(%rax), %rcx
    lock cmpxchgq %rcx, COUNTER(%rdi)
    jne 21b
    lock addl $1, ALIGNED(%rdi)
    testb $3, %r12b /* others stop for these: not every time */
    jnz 24f
    lock addq $1, UNALIGNED(%rdi)
    lock addq $1, CROSSING(%rdi)
24:
    movl $1, %eax
22: xchgl %eax, SPINLOCK(%rdi) /* no LOCK prefix: implied */
    testl %eax, %eax
    jz 23f
    pause
    jmp 22b
23: incq GUARDED(%rdi)
    movl $0, SPINLOCK(%rdi)
    lock btcl %esi, 192(%rdi) /* a bit of its own */
    incq %r12
    cmpq %rbx, %r12
    jb 20b
    end counters

    /* ---- store buffering: both may see 0, unless fenced ---- */

    .macro store_buffering_pair fence
    testl %esi, %esi
    jnz 30f
    movq $1, (%r8)
    \fence
    movq 64(%r8), %rax
    movq %rax, 128(%r8)
    jmp 31f
30: movq $1, 64(%r8)
    \fence
    movq (%r8), %rax
    movq %rax, 136(%r8)
31:
    .endm

    .macro locked_or
    lock orl $0, -64(%r8)
    .endm

    .macro exchange
    xchgq %rax, 192(%r8)
    .endm

    .macro store_buffering_body
    store_buffering_pair
    .endm
    .macro store_buffering_mfence_body
    store_buffering_pair mfence
    .endm
    .macro store_buffering_lock_body
    store_buffering_pair locked_or
    .endm
    .macro store_buffering_xchg_body
    store_buffering_pair exchange
    .endm

litmus store_buffering
litmus store_buffering_mfence
litmus store_buffering_lock
litmus store_buffering_xchg

    /* ---- message passing: who sees the flag sees the data ---- */

    .macro message_passing_body
    testl %esi, %esi
    jnz 40f
    movq $1, (%r8)
    movq $1, 64(%r8)
    jmp 41f
40: movq 64(%r8), %rax
    movq (%r8), %rcx
    movq %rax, 128(%r8)
    movq %rcx, 136(%r8)
41:
    .endm
litmus message_passing

    /* ---- load buffering: a load is not overtaken by a later store ---- */

    .macro load_buffering_body
    testl %esi, %esi
    jnz 50f
    movq 64(%r8), %rax
    movq $1, (%r8)
    movq %rax, 128(%r8)
    jmp 51f
50: movq (%r8), %rax
    movq $1, 64(%r8)
    movq %rax, 136(%r8)
51:
    .endm
litmus load_buffering

    /* ---- independent reads of independent writes: all see one order. 0, 1 write ---- */

    .macro independent_reads_body
    cmpl $1, %esi
    jb 60f
    je 61f
    cmpl $2, %esi
    je 62f
    movq 64(%r8), %rax
    movq (%r8), %rcx
    movq %rax, 144(%r8)
    movq %rcx, 152(%r8)
    jmp 63f
60: movq $1, (%r8)
    jmp 63f
61: movq $1, 64(%r8)
    jmp 63f
62: movq (%r8), %rax
    movq 64(%r8), %rcx
    movq %rax, 128(%r8)
    movq %rcx, 136(%r8)
63:
    .endm
litmus independent_reads

    .section .note.GNU-stack, "", @progbits
