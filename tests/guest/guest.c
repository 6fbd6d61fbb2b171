#include "guest.h"

#include <stdarg.h>

enum { COM1 = 0x3f8, DEBUG_EXIT = 0xf4, USER_STACK = 8192, KERNEL_STACK = 8192 };

struct tss tss;
struct gate idt[256];
struct trap trap;
word user_alias;
extern char trap_stubs[];
extern word try_stack;
void trap_unwind(void);
void trap_dispatch(struct frame *frame);
void guest_start(void);

static trap_handler *handlers[256];
static unsigned number, failures;
static uint8_t user_stack[USER_STACK] __attribute__((aligned(16)));
static uint8_t kernel_stack[KERNEL_STACK] __attribute__((aligned(16)));
static uint8_t ist_stack[KERNEL_STACK] __attribute__((aligned(16)));

static void put(char c)
{
    for (unsigned i = 0; i < 100000 && (inb(COM1 + 5) & 0x20) == 0; i++)
        ;
    outb(COM1, (uint8_t)c);
}

static void put_number(word value, unsigned base)
{
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0);
    while (count > 0)
        put(digits[--count]);
}

static void print_list(const char *format, va_list list)
{
    for (; *format != 0; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *text = va_arg(list, const char *); *text != 0; text++)
                put(*text);
            break;
        case 'x':
            put_number(va_arg(list, word), 16);
            break;
        case 'u':
            put_number(va_arg(list, unsigned), 10);
            break;
        case 'd': {
            int value = va_arg(list, int);
            if (value < 0)
                put('-');
            put_number((word)(value < 0 ? -(long)value : value), 10);
            break;
        }
        default:
            put(*format);
        }
    }
}

void print(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    print_list(format, list);
    va_end(list);
}

void pass(const char *name)
{
    print("ok %u %s\n", ++number, name);
}

void fail(const char *name, const char *format, ...)
{
    va_list list;
    failures++;
    print("FAIL %u %s: ", ++number, name);
    va_start(list, format);
    print_list(format, list);
    va_end(list);
    put('\n');
}

void skip(const char *name, const char *why)
{
    print("skip %u %s: %s\n", ++number, name, why);
}

bool check(const char *name, bool condition)
{
    if (condition)
        pass(name);
    else
        fail(name, "not so");
    return condition;
}

bool check_equal(const char *name, word got, word want)
{
    if (got == want)
        pass(name);
    else
        fail(name, "got 0x%x, want 0x%x", got, want);
    return got == want;
}

void quit(uint32_t value)
{
    outl(DEBUG_EXIT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void finish(void)
{
    print("done: %u checks, %u failed\n", number, failures);
    quit(failures == 0 ? 0 : 2);
}

bool on_tcg(void)
{
    if (!(cpuid(1, 0).c >> 31))
        return false;
    return cpuid(0x40000000, 0).b == 0x54474354; /* "TCGT" */
}

void trap_handle(unsigned vector, trap_handler *handler)
{
    handlers[vector] = handler;
}

void trap_dispatch(struct frame *frame)
{
    unsigned vector = frame->vector & 0xff;
    if (handlers[vector] != 0) {
        handlers[vector](frame);
        return;
    }
    trap.vector = (int)vector;
    trap.cr2 = read_cr2();
    /* SP and SS are there only when pushed; what lies above them otherwise is stack all the same.
     */
    trap.frame = *frame;
    if (try_stack != 0)
        trap_unwind();
    print("FAIL: unexpected vector %d error 0x%x at 0x%x cs 0x%x cr2 0x%x sp 0x%x flags 0x%x\n",
          trap.vector, frame->error, frame->ip, frame->cs, trap.cr2, (word)frame, frame->flags);
    quit(2);
}

void gate_set(unsigned vector, word address, unsigned selector, unsigned type, unsigned ist)
{
    struct gate *gate = &idt[vector];
    gate->offset_low = (uint16_t)address;
    gate->offset_middle = (uint16_t)(address >> 16);
    gate->selector = (uint16_t)selector;
    gate->type = (uint8_t)type;
    gate->ist = (uint8_t)ist;
#ifdef __x86_64__
    gate->offset_high = (uint32_t)(address >> 32);
    gate->reserved = 0;
#endif
}

void tss_load(unsigned limit)
{
    word base = (word)&tss;
    gdt[SEL_TSS / 8] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)0x89 << 40 |
                       (uint64_t)(base >> 24 & 0xff) << 56;
#ifdef __x86_64__
    gdt[SEL_TSS / 8 + 1] = base >> 32;
#endif
    __asm__ volatile("ltr %0" : : "r"((uint16_t)SEL_TSS));
}

int user_try(void (*code)(void), word arg)
{
    struct user user = {
        .ip = (word)code + user_alias,
        .sp = (word)(user_stack + USER_STACK - 64) + user_alias,
        .flags = 2,
        .cs = SEL_UCODE,
        .ss = SEL_UDATA,
        .arg = arg,
    };
    return trap_try(user_run, &user);
}

void guest_start(void)
{
    outb(COM1 + 1, 0);    /* no interrupts */
    outb(COM1 + 3, 0x03); /* 8 bits, no parity */
    outb(0x21, 0xff);     /* the legacy controllers masked */
    outb(0xa1, 0xff);

    for (unsigned i = 0; i < 256; i++)
        gate_set(i, (word)trap_stubs + 16 * i, SEL_KCODE, GATE_INTERRUPT, 0);
    gate_set(0x80, (word)trap_stubs + 16 * 0x80, SEL_KCODE, GATE_USER, 0);
    struct table_pointer pointer = {sizeof(idt) - 1, (word)idt};
    __asm__ volatile("lidt %0" : : "m"(pointer));
#ifdef __x86_64__
    tss.rsp[0] = (word)(kernel_stack + KERNEL_STACK);
    tss.ist[0] = (word)(ist_stack + KERNEL_STACK);
#else
    tss.esp0 = (word)(kernel_stack + KERNEL_STACK);
    tss.ss0 = SEL_KDATA;
    (void)ist_stack;
#endif
    tss.iomap = sizeof(tss);
    tss_load(sizeof(tss) - 1);
    __asm__ volatile("lldt %0" : : "r"((uint16_t)0)); /* after reset there is one, at 0 */
    guest_main();
    finish();
}
