/* Interrupts and timers: local APIC, 8259, PIT, I/O APIC; priorities, masking, the STI shadow. */

#include "apic.h"

enum { TIMER = 0x40, PIC = 0x20, PIN = 0x41, LOW = 0x50, HIGH = 0x60 };

static volatile unsigned timer_ticks, pic_ticks, pin_ticks, nmis;
static volatile unsigned order[8], order_count;

static void on_timer(struct frame *frame)
{
    (void)frame;
    timer_ticks++;
    apic_eoi();
}

static void on_pic(struct frame *frame)
{
    (void)frame;
    pic_ticks++;
    outb(0x20, 0x20);
}

static void on_pin(struct frame *frame)
{
    (void)frame;
    pin_ticks++;
    apic_eoi();
}

static void on_ipi(struct frame *frame)
{
    if (order_count < 8)
        order[order_count] = (unsigned)frame->vector & 0xff;
    order_count++;
    apic_eoi();
}

static void on_nmi(struct frame *frame)
{
    (void)frame;
    nmis++;
}

static void local_timer(void)
{
    trap_handle(TIMER, on_timer);
    apic_write(APIC_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TIMER);
    apic_write(APIC_INITIAL, 1000000000);
    uint32_t first = apic_read(APIC_CURRENT);
    for (unsigned i = 0; i < 1000; i++)
        __asm__ volatile("pause");
    uint32_t second = apic_read(APIC_CURRENT);
    check("the timer counts down", second < first && first <= 1000000000);
    apic_write(APIC_INITIAL, 0);
    check_equal("initial count 0 stops it", apic_read(APIC_CURRENT), 0);

    timer_ticks = 0;
    apic_write(APIC_INITIAL, 100000);
    check("one-shot: fires", wait_for(&timer_ticks, 1));
    check_equal("one-shot: the count stays 0", apic_read(APIC_CURRENT), 0);
    uint64_t start = rdtsc();
    __asm__ volatile("sti");
    while (rdtsc() - start < 3000000)
        __asm__ volatile("pause");
    __asm__ volatile("cli");
    check_equal("one-shot: once", timer_ticks, 1);

    timer_ticks = 0;
    apic_write(APIC_LVT_TIMER, TIMER | 1 << 17);
    apic_write(APIC_INITIAL, 100000);
    check("periodic: fires again and again", wait_for(&timer_ticks, 5));
    apic_write(APIC_LVT_TIMER, TIMER | 1 << 17 | 1 << 16);
    apic_write(APIC_INITIAL, 0);
    __asm__ volatile("sti; nop; nop; cli"); /* takes one that was already on its way */

    timer_ticks = 0;
    apic_write(APIC_LVT_TIMER, TIMER);
    apic_write(APIC_INITIAL, 200000);
    uint64_t waited = rdtsc();
    while (timer_ticks == 0 && rdtsc() - waited < 60000000000)
        __asm__ volatile("sti; hlt; cli");
    check_equal("HLT wakes up for it", timer_ticks, 1);

    if (!(cpuid(1, 0).c >> 24 & 1)) {
        skip("TSC deadline", "not offered");
        return;
    }
    timer_ticks = 0;
    apic_write(APIC_LVT_TIMER, TIMER | 2 << 17);
    uint64_t far = rdtsc() + 600000000000;
    wrmsr(MSR_TSC_DEADLINE, far);
    check("TSC deadline: armed", rdmsr(MSR_TSC_DEADLINE) == far);
    uint64_t deadline = rdtsc() + 1000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    check("TSC deadline: fires", wait_for(&timer_ticks, 1));
    check("TSC deadline: not early", rdtsc() >= deadline);
    check_equal("TSC deadline: disarmed", rdmsr(MSR_TSC_DEADLINE), 0);
    timer_ticks = 0;
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1000);
    check("TSC deadline in the past: fires at once", wait_for(&timer_ticks, 1));
    timer_ticks = 0;
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 3000000);
    wrmsr(MSR_TSC_DEADLINE, 0);
    start = rdtsc();
    __asm__ volatile("sti");
    while (rdtsc() - start < 10000000)
        __asm__ volatile("pause");
    __asm__ volatile("cli");
    check_equal("TSC deadline 0: disarmed", timer_ticks, 0);
    apic_write(APIC_LVT_TIMER, TIMER | 1 << 16);
}

static void start_pit(unsigned hertz)
{
    unsigned count = 1193182 / hertz;
    outb(0x43, 0x34); /* channel 0, both bytes, rate generator */
    outb(0x40, (uint8_t)count);
    outb(0x40, (uint8_t)(count >> 8));
}

static void stop_pit(void)
{
    outb(0x43, 0x30); /* one-shot, never armed with a second byte */
}

static void legacy_controller(void)
{
    trap_handle(PIC, on_pic);
    outb(0x20, 0x11);
    outb(0x21, PIC);
    outb(0x21, 4);
    outb(0x21, 1);
    outb(0xa0, 0x11);
    outb(0xa1, PIC + 8);
    outb(0xa1, 2);
    outb(0xa1, 1);
    outb(0x21, 0xfe);
    outb(0xa1, 0xff);
    check_equal("8259: mask reads back", inb(0x21), 0xfe);
    apic_write(APIC_LVT_LINT0, 0x700); /* ExtINT */
    start_pit(1000);
    check("PIT through the 8259", wait_for(&pic_ticks, 5));
    outb(0x21, 0xff);
    unsigned before = pic_ticks;
    uint64_t start = rdtsc();
    __asm__ volatile("sti");
    while (rdtsc() - start < 10000000)
        __asm__ volatile("pause");
    __asm__ volatile("cli");
    /* One may have been on its way. */
    check("8259: masked", pic_ticks <= before + 1);
    stop_pit();
    apic_write(APIC_LVT_LINT0, 0x10700);
}

static void ioapic_write(unsigned index, uint32_t value)
{
    *(volatile uint32_t *)0xfec00000ul = index;
    *(volatile uint32_t *)0xfec00010ul = value;
}

static uint32_t ioapic_read(unsigned index)
{
    *(volatile uint32_t *)0xfec00000ul = index;
    return *(volatile uint32_t *)0xfec00010ul;
}

static void io_apic(void)
{
    check("I/O APIC: at least 24 pins", (ioapic_read(1) >> 16 & 0xff) >= 23);
    trap_handle(PIN, on_pin);
    uint32_t self = apic_read(APIC_ID) >> 24;
    ioapic_write(0x10 + 2 * 2 + 1, self << 24);
    ioapic_write(0x10 + 2 * 2, PIN); /* edge, active high, physical */
    check_equal("I/O APIC: entry reads back", ioapic_read(0x10 + 2 * 2) & 0x1afff, PIN);
    start_pit(1000);
    check("PIT through the I/O APIC", wait_for(&pin_ticks, 5));
    ioapic_write(0x10 + 2 * 2, PIN | 1 << 16);
    stop_pit();

    /* The serial port asks for data at once when its transmitter's interrupt is enabled. */
    pin_ticks = 0;
    ioapic_write(0x10 + 4 * 2 + 1, self << 24);
    ioapic_write(0x10 + 4 * 2, PIN);
    outb(0x3f8 + 4, 0x0b); /* OUT2 lets the interrupt out */
    outb(0x3f8 + 1, 2);
    bool came = wait_for(&pin_ticks, 1);
    uint8_t reason = inb(0x3f8 + 2);
    outb(0x3f8 + 1, 0);
    ioapic_write(0x10 + 4 * 2, PIN | 1 << 16);
    check("serial port through the I/O APIC", came);
    check_equal("serial port: transmitter empty", reason & 0xf, 2);
}

static void priorities(void)
{
    trap_handle(LOW, on_ipi);
    trap_handle(HIGH, on_ipi);
    uint32_t self = 1 << 18 | 1 << 14; /* shorthand */

    order_count = 0;
    apic_send(0, self | LOW);
    apic_send(0, self | HIGH);
    check("IRR: both wait", (apic_read(APIC_IRR + 0x20) & 1 << (LOW - 0x40)) != 0 &&
                                (apic_read(APIC_IRR + 0x30) & 1 << (HIGH - 0x60)) != 0);
    check_equal("nothing while IF is 0", order_count, 0);
    __asm__ volatile("sti; cli"); /* CLI falls in the shadow of STI */
    check_equal("the STI shadow", order_count, 0);
    check("both are delivered", wait_for(&order_count, 2));
    check("the higher first", order[0] == HIGH && order[1] == LOW);

    order_count = 0;
    apic_write(APIC_TPR, 0x50);
    apic_send(0, self | LOW);
    apic_send(0, self | HIGH);
    check("TPR lets the higher through", wait_for(&order_count, 1) && order[0] == HIGH);
    __asm__ volatile("sti; nop; nop; cli");
    check_equal("TPR holds the lower", order_count, 1);
#ifdef __x86_64__
    word cr8;
    __asm__ volatile("mov %%cr8, %0" : "=r"(cr8));
    check_equal("CR8 is the TPR", cr8, 5);
    __asm__ volatile("mov %0, %%cr8" : : "r"((word)0));
    check_equal("the TPR is CR8", apic_read(APIC_TPR), 0);
#else
    apic_write(APIC_TPR, 0);
#endif
    check("lowering it delivers", wait_for(&order_count, 2) && order[1] == LOW);
}

static void nmi(void)
{
    trap_handle(2, on_nmi);
    apic_send(apic_read(APIC_ID) >> 24, 0x4400); /* to ourselves, NMI; IF is 0 */
    uint64_t start = rdtsc();
    while (nmis == 0 && rdtsc() - start < 60000000000)
        __asm__ volatile("pause");
    check_equal("NMI comes with IF 0", nmis, 1);
}

static void on_x2apic_ipi(struct frame *frame)
{
    (void)frame;
    order_count++;
    wrmsr(0x80b, 0);
}

static void bad_eoi(void *unused)
{
    (void)unused;
    wrmsr(0x80b, 1);
}

static void x2apic(void)
{
    if (!(cpuid(1, 0).c >> 21 & 1)) {
        skip("x2APIC", "not offered");
        return;
    }
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1 << 10);
    check_equal("x2APIC: ID", rdmsr(0x802), cpuid(0xb, 0).d);
    trap_handle(LOW, on_x2apic_ipi);
    order_count = 0;
    wrmsr(0x83f, LOW); /* self IPI */
    check("x2APIC: waits in IRR", (rdmsr(0x820 + LOW / 32) & 1 << LOW % 32) != 0);
    check("x2APIC: self IPI", wait_for(&order_count, 1));
    check_equal("x2APIC: nothing left in service", rdmsr(0x810 + LOW / 32), 0);
    wrmsr(0x830, 1 << 18 | 1 << 14 | LOW);
    check("x2APIC: ICR in one write", wait_for(&order_count, 2));
    check("x2APIC: reserved bits of the EOI register", trap_try(bad_eoi, 0) == 13);
}

void guest_main(void)
{
    apic_write(APIC_SVR, 0x100 | APIC_SPURIOUS_VECTOR);
    apic_write(APIC_TPR, 0);
    check("APIC: enabled at its address", (rdmsr(MSR_APIC_BASE) & 0xfffff800) == 0xfee00800);
    check("APIC: version", (apic_read(APIC_VERSION) & 0xff) >= 0x10);
    priorities();
    nmi();
    local_timer();
    legacy_controller();
    io_apic();
    x2apic();
}
