/*
 * Provokes every exception that can be provoked, by an instruction at a known address, and checks
 * vector, error code, saved RIP, and CR2 where there is one. Built for 32 and for 64 bit.
 */

#include "guest.h"

#define CASE(name)                                                                                 \
    extern void x_##name(void *);                                                                  \
    extern char x_##name##_at[]

CASE(divide_by_zero);
CASE(divide_overflow);
CASE(idiv_minimum);
CASE(idiv_byte);
CASE(breakpoint);
CASE(int3_long);
CASE(icebp);
CASE(int_n);
CASE(invalid);
CASE(ud1);
CASE(lock_register);
CASE(lock_nop);
CASE(mov_cs);
CASE(mov_cr1);
CASE(lea_register);
CASE(fpu);
CASE(sse);
CASE(wait);
CASE(fpu_error);
CASE(sse_error);
CASE(load_ds);
CASE(load_ss);
CASE(load_tr);
CASE(load_ldt);
CASE(far_jump);
CASE(read_msr);
CASE(write_cr4);
CASE(write_cr0);
CASE(too_long);
CASE(bad_stack);
CASE(noncanonical);
CASE(noncanonical_stack);
CASE(noncanonical_bp);
CASE(noncanonical_jump);
CASE(read_far);
CASE(write_far);
CASE(rmw_far);
CASE(call_far);
CASE(removed_push_es);
CASE(removed_into);
CASE(removed_aaa);
CASE(removed_far_call);
CASE(overflow);
CASE(no_overflow);
CASE(bound);
CASE(in_bounds);
CASE(limit);
CASE(limit_fits);
CASE(expand_down);
CASE(write_read_only);
CASE(null_segment);
CASE(user_cli);
CASE(user_hlt);
CASE(user_in);
CASE(user_lgdt);
CASE(user_cr);
CASE(user_rdmsr);
CASE(user_int_kernel_gate);
CASE(user_int_user_gate);
CASE(user_int3);
CASE(user_sgdt);
CASE(user_smsw);
CASE(user_unaligned);
CASE(user_popf);

enum {
    DE,
    DB,
    BP = 3,
    OF,
    BR,
    UD,
    NM,
    DF,
    TS = 10,
    NP,
    SS,
    GP,
    PF,
    MF = 16,
    AC,
    XM = 19,
    NONE = -1
};

/* Descriptors in the spare part of the GDT. */
enum {
    SEL_NOT_PRESENT = SEL_SPARE,
    SEL_LIMITED = SEL_SPARE + 8,      /* 4096 bytes */
    SEL_EXPAND_DOWN = SEL_SPARE + 16, /* above 4095 */
    SEL_READ_ONLY = SEL_SPARE + 24,
    SEL_CODE_ABSENT = SEL_SPARE + 32,
    SEL_SYSTEM = SEL_SPARE + 40, /* an LDT that is not present */
};

static void expect(const char *name, int got, int vector, word error, word at)
{
    if (got != vector)
        fail(name, "vector %d, want %d (error 0x%x ip 0x%x)", got, vector, trap.frame.error,
             trap.frame.ip);
    else if (vector != NONE && trap.frame.error != error)
        fail(name, "error code 0x%x, want 0x%x", trap.frame.error, error);
    else if (vector != NONE && at != 0 && trap.frame.ip != at)
        fail(name, "saved ip 0x%x, want 0x%x", trap.frame.ip, at);
    else
        pass(name);
}

#define TRY(name, arg, vector, error)                                                              \
    expect(#name, trap_try(x_##name, (void *)(word)(arg)), vector, error, (word)x_##name##_at)
#define USER(name, vector, error)                                                                  \
    expect(#name, user_try((void (*)(void))x_##name, 0), vector, error, (word)x_##name##_at)

/* What QEMU's emulator (7.2) is known not to do: skipped there, tested everywhere else. */
#define UNLESS_TCG(name)                                                                           \
    if (on_tcg())                                                                                  \
        skip(name, "QEMU does not");                                                               \
    else

/* The error code that names a gate of the IDT; QEMU counts 64-bit gates twice. */
static word idt_error(unsigned vector)
{
    return vector * (IS_64 && on_tcg() ? 16 : 8) + 2;
}

static void arithmetic_and_software(void)
{
    TRY(divide_by_zero, 0, DE, 0);
    TRY(divide_overflow, 0, DE, 0);
    TRY(idiv_minimum, 0, DE, 0);
    TRY(idiv_byte, 0, DE, 0);
    TRY(breakpoint, 0, BP, 0);
    TRY(int3_long, 0, BP, 0);
    UNLESS_TCG("icebp") TRY(icebp, 0, DB, 0);
    TRY(int_n, 0, 0x42, 0);
#ifdef __x86_64__
    TRY(removed_push_es, 0, UD, 0);
    TRY(removed_into, 0, UD, 0);
    TRY(removed_aaa, 0, UD, 0);
    TRY(removed_far_call, 0, UD, 0);
#else
    TRY(overflow, 0, OF, 0);
    expect("no_overflow", trap_try(x_no_overflow, 0), NONE, 0, 0);
    TRY(bound, 0, BR, 0);
    expect("in_bounds", trap_try(x_in_bounds, 0), NONE, 0, 0);
#endif
}

static void invalid_opcodes(void)
{
    TRY(invalid, 0, UD, 0);
    TRY(ud1, 0, UD, 0);
    TRY(lock_register, 0, UD, 0);
    TRY(lock_nop, 0, UD, 0);
    TRY(mov_cs, 0, UD, 0);
    TRY(mov_cr1, 0, UD, 0);
    TRY(lea_register, 0, UD, 0);
    TRY(too_long, 0, GP, 0);
}

static void floating_point(void)
{
    word cr0 = read_cr0(), cr4 = read_cr4();

    write_cr0((cr0 | CR0_TS | CR0_NE | CR0_MP) & ~(word)CR0_EM);
    TRY(fpu, 0, NM, 0);
    TRY(wait, 0, NM, 0);
    write_cr0(((cr0 | CR0_TS | CR0_NE) & ~(word)(CR0_EM | CR0_MP)));
    expect("wait without MP", trap_try(x_wait, 0), NONE, 0, 0);
    __asm__ volatile("clts");
    expect("fpu after clts", trap_try(x_fpu, 0), NONE, 0, 0);
    write_cr0((cr0 | CR0_EM | CR0_NE) & ~(word)CR0_TS);
    TRY(fpu, 0, NM, 0);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    TRY(sse, 0, UD, 0);
    write_cr0((cr0 | CR0_NE | CR0_MP) & ~(word)(CR0_EM | CR0_TS));
    expect("sse", trap_try(x_sse, 0), NONE, 0, 0);
    write_cr0(cr0 | CR0_NE | CR0_MP | CR0_TS);
    TRY(sse, 0, NM, 0);
    __asm__ volatile("clts");
    write_cr4(cr4 & ~(word)CR4_OSFXSR);
    TRY(sse, 0, UD, 0);
    write_cr4(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    TRY(fpu_error, 0, MF, 0);
    __asm__ volatile("fninit");
    UNLESS_TCG("sse_error") TRY(sse_error, 0, XM, 0);
    write_cr4((cr4 | CR4_OSFXSR) & ~(word)CR4_OSXMMEXCPT);
    UNLESS_TCG("sse_error without OSXMMEXCPT") TRY(sse_error, 0, UD, 0);
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    write_cr4(cr4);
    write_cr0(cr0);
}

static void segments(void)
{
    gdt[SEL_NOT_PRESENT / 8] = 0x00cf13000000ffff;
    gdt[SEL_LIMITED / 8] = 0x0040930000000fff;
    gdt[SEL_EXPAND_DOWN / 8] = 0x0040970000000fff;
    gdt[SEL_READ_ONLY / 8] = 0x00cf91000000ffff;
    gdt[SEL_CODE_ABSENT / 8] = IS_64 ? 0x00af1b000000ffff : 0x00cf1b000000ffff;
    gdt[SEL_SYSTEM / 8] = 0x0000020000000fff;

    TRY(load_ds, SEL_NOT_PRESENT, NP, SEL_NOT_PRESENT);
    TRY(load_ss, SEL_NOT_PRESENT, SS, SEL_NOT_PRESENT);
    TRY(load_ds, 0xfff8, GP, 0xfff8);
    TRY(load_ds, SEL_TSS, GP, SEL_TSS);
    TRY(load_ds, SEL_KDATA | 4, GP, SEL_KDATA | 4); /* there is no LDT */
    TRY(load_ds, SEL_KDATA | 3, GP, SEL_KDATA);
    TRY(load_ss, SEL_KCODE, GP, SEL_KCODE);
    TRY(load_ss, SEL_READ_ONLY, GP, SEL_READ_ONLY);
    TRY(load_ss, SEL_UDATA, GP, SEL_UDATA & ~3);
    TRY(load_ldt, SEL_KDATA, GP, SEL_KDATA);
    TRY(load_ldt, SEL_SYSTEM, NP, SEL_SYSTEM);
    UNLESS_TCG("load_tr") TRY(load_tr, 0, GP, 0);
    TRY(load_tr, SEL_TSS, GP, SEL_TSS); /* it is busy */
    TRY(load_tr, SEL_KDATA, GP, SEL_KDATA);
    TRY(far_jump, 0, GP, 0);
    TRY(far_jump, SEL_KDATA, GP, SEL_KDATA);
    TRY(far_jump, SEL_CODE_ABSENT, NP, SEL_CODE_ABSENT);
    TRY(far_jump, SEL_UDATA, GP, SEL_UDATA & ~3);
#ifdef __x86_64__
    UNLESS_TCG("load_ss") TRY(load_ss, 3, GP, 0); /* null with a privilege that is not ours */
    expect("null ss at CPL 0", trap_try(x_load_ss, 0), NONE, 0, 0);
    __asm__ volatile("mov %0, %%ss" : : "r"(SEL_KDATA));
#else
    TRY(load_ss, 0, GP, 0);
    UNLESS_TCG("limit") TRY(limit, SEL_LIMITED, GP, 0);
    expect("limit_fits", trap_try(x_limit_fits, (void *)SEL_LIMITED), NONE, 0, 0);
    UNLESS_TCG("expand_down") TRY(expand_down, SEL_EXPAND_DOWN, GP, 0);
    UNLESS_TCG("write_read_only") TRY(write_read_only, SEL_READ_ONLY, GP, 0);
    UNLESS_TCG("null_segment") TRY(null_segment, 0, GP, 0);
#endif
    check("a segment is marked accessed when loaded",
          IS_64 || (gdt[SEL_EXPAND_DOWN / 8] >> 40 & 1) != 0);
}

static void system_state(void)
{
    UNLESS_TCG("read_msr") TRY(read_msr, 0, GP, 0);
    UNLESS_TCG("write_cr4") TRY(write_cr4, 0, GP, 0);
    UNLESS_TCG("write_cr0") TRY(write_cr0, 0, GP, 0);
}

static void memory(void)
{
#ifdef __x86_64__
    const word far = 0x123456789a8; /* nothing is mapped above 4 GiB */
    TRY(noncanonical, 0, GP, 0);
    idt[SS].ist = 1; /* at CPL 0 the bad stack would be used to report itself */
    UNLESS_TCG("noncanonical_stack") TRY(noncanonical_stack, 0, SS, 0);
    idt[SS].ist = 0;
    UNLESS_TCG("noncanonical_bp") TRY(noncanonical_bp, 0, SS, 0);
    UNLESS_TCG("noncanonical_jump") TRY(noncanonical_jump, 0, GP, 0);
    TRY(read_far, far, PF, 0);
    check_equal("cr2", trap.cr2, far);
    TRY(write_far, far + 1, PF, 2);
    check_equal("cr2", trap.cr2, far + 1);
    UNLESS_TCG("rmw_far") TRY(rmw_far, far, PF, 2);
    int got = trap_try(x_call_far, (void *)far);
    expect("call_far", got, PF, trap.frame.error & 0x10, far);
    check_equal("cr2", trap.cr2, far);
    /* An access that begins on a mapped page and ends on an unmapped one. */
    TRY(read_far, 0x100000000 - 2, PF, 0);
    check_equal("cr2 is the first byte that faults", trap.cr2, 0x100000000);
    TRY(write_far, 0x100000000 - 2, PF, 2);
    check_equal("cr2 is the first byte that faults", trap.cr2, 0x100000000);
#endif
}

/* A handler's gate that cannot be used turns one exception into another, or into a double fault. */
static void delivery(void)
{
    struct gate saved = idt[GP];
    idt[GP].type &= 0x7f;
    int got = trap_try(x_load_ds, (void *)0xfff8);
    expect("double fault: #NP while delivering #GP", got, DF, 0, (word)x_load_ds_at);
    idt[GP] = saved;

    saved = idt[UD];
    idt[UD].type &= 0x7f;
    got = trap_try(x_invalid, 0);
    /* #UD is benign: what follows is delivered by itself. EXT is set: not asked for by INT n. */
    UNLESS_TCG("#NP while delivering #UD")
    expect("#NP while delivering #UD", got, NP, UD * 8 + 3, (word)x_invalid_at);
    idt[UD] = saved;

    saved = idt[0x42];
    idt[0x42].type &= 0x7f;
    got = trap_try(x_int_n, 0);
    expect("#NP while delivering INT n", got, NP, idt_error(0x42), (word)x_int_n_at - 2);
    idt[0x42] = saved;

    struct table_pointer small = {0x42 * sizeof(struct gate) - 1, (word)idt};
    __asm__ volatile("lidt %0" : : "m"(small));
    got = trap_try(x_int_n, 0);
    expect("INT n beyond the IDT", got, GP, idt_error(0x42), (word)x_int_n_at - 2);
    small.limit = sizeof(idt) - 1;
    __asm__ volatile("lidt %0" : : "m"(small));

    saved = idt[0x42];
    idt[0x42].selector = SEL_KDATA;
    got = trap_try(x_int_n, 0);
    expect("a gate into a data segment", got, GP, SEL_KDATA, (word)x_int_n_at - 2);
    idt[0x42].selector = 0;
    got = trap_try(x_int_n, 0);
    expect("a gate with a null selector", got, GP, 0, (word)x_int_n_at - 2);
    idt[0x42] = saved;
#ifdef __x86_64__
    idt[DF].ist = 1;
    got = trap_try(x_bad_stack, 0);
    expect("double fault on a bad stack, by IST", got, DF, 0, (word)x_bad_stack_at);
    check("the IST stack was used",
          trap.frame.sp == 0x8000000000001000 && trap.frame.ss == SEL_KDATA);
    idt[DF].ist = 0;

    /* TSS too short for the IST entry. */
    idt[0x42].ist = 1;
    tss_load(0x20);
    got = trap_try(x_int_n, 0);
    expect("#TS: the IST is beyond the TSS", got, TS, SEL_TSS, (word)x_int_n_at - 2);
    tss_load(sizeof(tss) - 1);
    expect("INT n by IST", trap_try(x_int_n, 0), 0x42, 0, (word)x_int_n_at);
    check("SP before INT n is saved whole", trap.frame.ss == SEL_KDATA);
    idt[0x42].ist = 0;
#endif
}

static void user_mode(void)
{
    USER(user_int_user_gate, 0x80, 0);
    check_equal("CPL 3 code segment was saved", trap.frame.cs, SEL_UCODE);
    check_equal("CPL 3 stack segment was saved", trap.frame.ss, SEL_UDATA);
    USER(user_cli, GP, 0);
    USER(user_hlt, GP, 0);
    USER(user_in, GP, 0);
    USER(user_lgdt, GP, 0);
    USER(user_cr, GP, 0);
    USER(user_rdmsr, GP, 0);
    USER(user_int_kernel_gate, GP, idt_error(0x42));
    expect("int3 through a CPL 0 gate", user_try((void (*)(void))x_user_int3, 0), GP, idt_error(BP),
           (word)x_user_int3);
    expect("user_popf", user_try((void (*)(void))x_user_popf, 0), 0x80, 0, (word)x_user_popf_at);
    check_equal("POPF at CPL 3 leaves IF and IOPL", trap.frame.ax & 0x3200, 0);

    if (cpuid(7, 0).c >> 2 & 1) {
        word cr4 = read_cr4();
        write_cr4(cr4 | CR4_UMIP);
        USER(user_sgdt, GP, 0);
        USER(user_smsw, GP, 0);
        write_cr4(cr4);
    }
    expect("sgdt without UMIP", user_try((void (*)(void))x_user_sgdt, 0), 0x80, 0, 0);

    word cr0 = read_cr0();
    expect("unaligned without AM", user_try((void (*)(void))x_user_unaligned, 0), 0x80, 0, 0);
    write_cr0(cr0 | CR0_AM);
    UNLESS_TCG("user_unaligned") USER(user_unaligned, AC, 0);
    write_cr0(cr0);
}

void guest_main(void)
{
    arithmetic_and_software();
    invalid_opcodes();
    floating_point();
    segments();
    system_state();
    memory();
    delivery();
    user_mode();
}
