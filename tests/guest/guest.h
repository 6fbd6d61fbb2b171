#ifndef AEROSTAT_TESTS_GUEST_H
#define AEROSTAT_TESTS_GUEST_H

/*
 * What every test kernel shares. A kernel is built for 32 or 64 bit and starts in guest_main at
 * CPL 0 with flat segments, all 256 interrupt gates set, interrupts off; 64-bit kernels with the
 * first 4 GiB identity-mapped, user-accessible, by 2 MiB pages; 32-bit kernels without paging.
 *
 * It prints `ok N name`, `FAIL N name: why` or `skip N name: why` a line on COM1, and ends through
 * port 0xf4 with 0, or 2 if anything failed.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned long word; /* of the mode the kernel is built for */

#ifdef __x86_64__
#define IS_64 1
#else
#define IS_64 0
#endif

/* Selectors; gdt[] has room for tests from SEL_SPARE on. */
enum {
    SEL_KCODE = 0x08,
    SEL_KDATA = 0x10,
    SEL_UCODE32 = 0x18 | 3,
    SEL_UDATA = 0x20 | 3,
    SEL_UCODE64 = 0x28 | 3,
    SEL_KCODE16 = 0x38,
    SEL_KDATA16 = 0x40,
    SEL_TSS = 0x48, /* two entries in 64 bit */
    SEL_KCODE32 = 0x58,
    SEL_SPARE = 0x60,
    GDT_ENTRIES = 32,
};
#define SEL_UCODE (IS_64 ? SEL_UCODE64 : SEL_UCODE32)

struct __attribute__((packed)) tss {
#ifdef __x86_64__
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
#else
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, rest[18];
    uint16_t trap, iomap;
#endif
};

struct __attribute__((packed)) gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
#ifdef __x86_64__
    uint32_t offset_high, reserved;
#endif
};

struct __attribute__((packed)) table_pointer {
    uint16_t limit;
    word base;
};

extern uint64_t gdt[GDT_ENTRIES];
extern struct tss tss;
extern struct gate idt[256];

/* Registers at an interrupt, as the stubs in trap.S push them. */
struct frame {
#ifdef __x86_64__
    word r15, r14, r13, r12, r11, r10, r9, r8;
#endif
    word di, si, bp, bx, dx, cx, ax;
    word vector, error, ip, cs, flags;
    word sp, ss; /* in 32 bit only when the privilege changed */
};

/* The trap that ended the last trap_try. */
struct trap {
    int vector; /* -1: none */
    struct frame frame;
    word cr2;
};
extern struct trap trap;

/* Calls fn(arg); an exception or interrupt without a handler ends it, at any privilege level.
 * Returns its vector, or -1 when fn returned. Details are then in `trap`. */
int trap_try(void (*fn)(void *), void *arg);

/* Called for this vector instead of ending a trap_try; returning continues where *frame says. */
typedef void trap_handler(struct frame *frame);
void trap_handle(unsigned vector, trap_handler *handler);

/* For trap_try: continues at CPL 3 until something traps. */
struct user {
    word ip, sp, flags, cs, ss, arg; /* arg: in rdi/ebx */
};
void user_run(void *user);

/* Runs code at CPL 3 in the kernel's own mode with a stack of its own; returns the vector. */
int user_try(void (*code)(void), word arg);
/* Added to the code's and the stack's address: where CPL 3 sees the image, if not where it is. */
extern word user_alias;

void gate_set(unsigned vector, word address, unsigned selector, unsigned type, unsigned ist);
enum { GATE_INTERRUPT = 0x8e, GATE_TRAP = 0x8f, GATE_USER = 0xee };
/* Reloads TR after the descriptor or its limit changed. */
void tss_load(unsigned limit);

/* Reports. */
void print(const char *format, ...); /* %s %x (word) %u (unsigned) %d (int) */
void pass(const char *name);
void fail(const char *name, const char *format, ...);
void skip(const char *name, const char *why);
bool check(const char *name, bool condition);
bool check_equal(const char *name, word got, word want);
_Noreturn void finish(void);
_Noreturn void quit(uint32_t value);
/* True under QEMU's own emulator, whose known gaps are skipped there and nowhere else. */
bool on_tcg(void);

void guest_main(void);

extern uint32_t multiboot_magic, multiboot_info;
extern char image_start[], image_end[];

/* Instructions. */
static inline void outb(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void outl(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}
static inline void wrmsr(uint32_t msr, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}
struct cpuid {
    uint32_t a, b, c, d;
};
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
                     : "a"(leaf), "c"(subleaf));
    return r;
}
#define REGISTER(name)                                                                             \
    static inline word read_##name(void)                                                           \
    {                                                                                              \
        word value;                                                                                \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value));                                     \
        return value;                                                                              \
    }                                                                                              \
    static inline void write_##name(word value)                                                    \
    {                                                                                              \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory");                            \
    }
REGISTER(cr0)
REGISTER(cr2)
REGISTER(cr3)
REGISTER(cr4)
REGISTER(dr0)
REGISTER(dr1)
REGISTER(dr2)
REGISTER(dr3)
REGISTER(dr6)
REGISTER(dr7)
static inline void invlpg(word address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}
static inline void barrier(void)
{
    __asm__ volatile("" : : : "memory");
}
static inline void *memory_set(void *to, int value, size_t count)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    return start;
}
static inline void *memory_copy(void *to, const void *from, size_t count)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

enum {
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_TSC_DEADLINE = 0x6e0,
    CR0_PE = 1 << 0,
    CR0_MP = 1 << 1,
    CR0_EM = 1 << 2,
    CR0_TS = 1 << 3,
    CR0_NE = 1 << 5,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR4_TSD = 1 << 2,
    CR4_DE = 1 << 3,
    CR4_PSE = 1 << 4,
    CR4_PAE = 1 << 5,
    CR4_PGE = 1 << 7,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXMMEXCPT = 1 << 10,
    CR4_UMIP = 1 << 11,
    CR4_PCIDE = 1 << 17,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21,
    FLAG_CF = 1 << 0,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_RF = 1 << 16,
    FLAG_AC = 1 << 18,
};
#define CR0_PG        0x80000000ul
#define MSR_EFER      0xc0000080u
#define MSR_STAR      0xc0000081u
#define MSR_LSTAR     0xc0000082u
#define MSR_CSTAR     0xc0000083u
#define MSR_SFMASK    0xc0000084u
#define MSR_FS_BASE   0xc0000100u
#define MSR_GS_BASE   0xc0000101u
#define MSR_KERNEL_GS 0xc0000102u
enum { EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };

#endif
