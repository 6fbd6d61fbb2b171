/*
 * Several processors: INIT and SIPI, atomic instructions, memory order, IPIs in both directions,
 * and a TLB shoot-down. Needs two CPUs; everything is skipped with one.
 */

#include "apic.h"

enum { ROUNDS = 100000, SHOOT = 0x70, WAKE = 0x71, ANSWER = 0x72 };

extern char smp_start[], smp_start_end[];
extern volatile uint32_t smp_arrived;
extern volatile uint64_t start_tables[];
void smp_main(uint32_t index);

static volatile uint32_t stage, ready, counter, guarded, lock;
static volatile uint32_t message, flag, wrong_order;
static volatile unsigned wakes, answers, shoots;
static volatile uint32_t seen_before, seen_after;
static volatile uint8_t page_a[4096] __attribute__((aligned(4096)));
static volatile uint8_t page_b[4096] __attribute__((aligned(4096)));
static volatile uint64_t pdpt[512] __attribute__((aligned(4096)));
static volatile uint64_t pd[512] __attribute__((aligned(4096)));
static volatile uint64_t pt[512] __attribute__((aligned(4096)));
#define SHARED ((volatile uint32_t *)((word)1 << (IS_64 ? 39 : 30)))

static void take(volatile uint32_t *at)
{
    for (;;) {
        uint32_t old = 0;
        __asm__ volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(*at) : "r"(1) : "memory");
        if (old == 0)
            return;
        while (*at != 0)
            __asm__ volatile("pause");
    }
}

static void give(volatile uint32_t *at)
{
    barrier();
    *at = 0;
}

static void add_many(void)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        __asm__ volatile("lock incl %0" : "+m"(counter));
        if (i % 16 == 0) {
            take(&lock);
            guarded = guarded + 1;
            give(&lock);
        }
    }
}

static void wait_stage(uint32_t wanted)
{
    while (stage < wanted)
        __asm__ volatile("pause");
}

static void on_wake(struct frame *frame)
{
    (void)frame;
    wakes++;
    apic_eoi();
    apic_send(0, ANSWER);
}

static void on_answer(struct frame *frame)
{
    (void)frame;
    answers++;
    apic_eoi();
}

static void on_shoot(struct frame *frame)
{
    (void)frame;
    invlpg((word)SHARED);
    shoots++;
    apic_eoi();
}

/* On the application processor. */
void smp_main(uint32_t index)
{
    struct table_pointer pointer = {sizeof(idt) - 1, (word)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
    if (index != 0) /* one is enough */
        return;
    apic_write(APIC_SVR, 0x100 | APIC_SPURIOUS_VECTOR);
    ready = 1;

    wait_stage(1);
    add_many();
    ready = 2;

    wait_stage(2);
    for (uint32_t i = 1; i <= ROUNDS; i++) { /* the value is written before its number */
        message = i * 3;
        barrier();
        flag = i;
    }
    ready = 3;

    wait_stage(3);
#ifdef __x86_64__
    seen_before = *SHARED;
#endif
    ready = 4;
    while (wakes < 3)
        __asm__ volatile("sti; hlt; cli");
    while (stage < 4)
        __asm__ volatile("sti; nop; nop; cli");
#ifdef __x86_64__
    seen_after = *SHARED;
#endif
    ready = 5;
}

static bool wait_ready(uint32_t wanted)
{
    uint64_t start = rdtsc();
    while (ready < wanted && rdtsc() - start < 60000000000)
        __asm__ volatile("pause");
    return ready >= wanted;
}

static void start_others(void)
{
    memory_copy((void *)0x8000, smp_start, (size_t)(smp_start_end - smp_start));
    apic_send(1, 0x4500); /* INIT, assert */
    uint64_t start = rdtsc();
    while (rdtsc() - start < 30000000)
        __asm__ volatile("pause");
    check_equal("INIT alone starts nothing", smp_arrived, 0);
    apic_send(1, 0x4608); /* SIPI, vector 8 */
    check("SIPI starts the other processor", wait_ready(1));
    apic_send(1, 0x4608);
    start = rdtsc();
    while (rdtsc() - start < 3000000)
        __asm__ volatile("pause");
    check_equal("a second SIPI is ignored", smp_arrived, 1);
}

static void shared_memory(void)
{
    stage = 1;
    add_many();
    check("both are done", wait_ready(2));
    check_equal("LOCK INC loses nothing", counter, 2 * ROUNDS);
    check_equal("LOCK CMPXCHG excludes", guarded, 2 * (ROUNDS / 16));

    stage = 2;
    uint32_t last = 0;
    uint64_t start = rdtsc();
    while (last < ROUNDS && rdtsc() - start < 60000000000) {
        uint32_t number = flag;
        barrier();
        uint32_t value = message;
        if (value < number * 3)
            wrong_order++;
        last = number;
    }
    check("stores arrive", wait_ready(3) && last == ROUNDS);
    check_equal("stores arrive in order", wrong_order, 0);
}

static void interrupts(void)
{
    trap_handle(WAKE, on_wake);
    trap_handle(ANSWER, on_answer);
    trap_handle(SHOOT, on_shoot);
#ifdef __x86_64__
    start_tables[1] = (word)pdpt | 3;
    pdpt[0] = (word)pd | 3;
    pd[0] = (word)pt | 3;
    pt[0] = (word)page_a | 3;
    *(volatile uint32_t *)page_a = 0xaaaa;
    *(volatile uint32_t *)page_b = 0xbbbb;
#endif
    stage = 3;
    check("ready for interrupts", wait_ready(4));
    for (unsigned i = 1; i <= 3; i++) {
        apic_send(1, WAKE);
        if (!wait_for(&answers, i))
            break;
    }
    check("IPIs wake HLT and are answered", wakes == 3 && answers == 3);
    apic_send(0, 3 << 18 | WAKE); /* all but ourselves */
    check("IPI to all others", wait_for(&answers, 4));
#ifdef __x86_64__
    pt[0] = (word)page_b | 3;
    barrier();
    apic_send(1, SHOOT);
    uint64_t start = rdtsc();
    while (shoots == 0 && rdtsc() - start < 60000000000)
        __asm__ volatile("pause");
    stage = 4;
    check("the other processor went on", wait_ready(5));
    check_equal("before the shoot-down", seen_before, 0xaaaa);
    check_equal("after the shoot-down", seen_after, 0xbbbb);
#else
    stage = 4;
    check("the other processor went on", wait_ready(5));
#endif
}

void guest_main(void)
{
    apic_write(APIC_SVR, 0x100 | APIC_SPURIOUS_VECTOR);
    apic_write(APIC_TPR, 0);
    unsigned cpus = cpuid(1, 0).b >> 16 & 0xff;
    if (!(cpuid(1, 0).d >> 28 & 1) || cpus < 2) {
        skip("everything", "there is one CPU");
        return;
    }
    start_others();
    shared_memory();
    interrupts();
}
