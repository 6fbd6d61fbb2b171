/* Single step, and hardware breakpoints on code and data: where #DB comes and what DR6 says. */

#include "guest.h"

extern char step_1[], step_2[], step_3[], step_4[], step_5[], step_end[];
extern char step_rep_at[], step_rep_end[], step_ss_after[], step_int_after[];
extern char watch_code_at[], watch_write_after[], watch_read_after[], watch_rep_after[];
void step_simple(void), step_rep(void), step_ss(void), step_int(void);
word watch_code(void);
void watch_write(void), watch_read(void), watch_rep(void);
extern uint32_t debug_target[4];

enum { DB = 1, LOG_SIZE = 32, DR6_BS = 1 << 14, DR6_BD = 1 << 13, DR6_FIXED = 0xff0 };
enum { EXECUTE = 0, WRITE = 1, ACCESS = 3 };

static struct {
    word ip, dr6, flags;
} hits[LOG_SIZE];
static unsigned hit_count;
static bool resume; /* set RF, to get over a code breakpoint */

static void on_debug(struct frame *frame)
{
    if (hit_count < LOG_SIZE) {
        hits[hit_count].ip = frame->ip;
        hits[hit_count].dr6 = read_dr6();
        hits[hit_count].flags = frame->flags;
    }
    hit_count++;
    if (hit_count > 1000) {
        print("FAIL: endless #DB at 0x%x\n", frame->ip);
        quit(2);
    }
    write_dr6(0);
    if (resume)
        frame->flags |= FLAG_RF;
}

static void reset(void)
{
    hit_count = 0;
    write_dr6(0);
}

static void hit_is(const char *name, unsigned index, char *ip, word dr6)
{
    if (hit_count <= index)
        fail(name, "only %u traps", hit_count);
    else if (hits[index].ip != (word)ip)
        fail(name, "at 0x%x, want 0x%x", hits[index].ip, (word)ip);
    else if ((hits[index].dr6 & 0xe00f) != dr6)
        fail(name, "DR6 0x%x, want 0x%x", hits[index].dr6, dr6);
    else
        pass(name);
}

static void single_step(void)
{
    reset();
    step_simple();
    hit_is("step: first after the instruction that follows POPF", 0, step_1, DR6_BS);
    hit_is("step: inc", 1, step_2, DR6_BS);
    hit_is("step: push", 2, step_3, DR6_BS);
    hit_is("step: pop", 3, step_4, DR6_BS);
    hit_is("step: jump", 4, step_5, DR6_BS);
    hit_is("step: nop", 5, step_end, DR6_BS);
    /* PUSHF, AND, and POPF itself, which began with TF set. */
    check_equal("step: until TF is cleared", hit_count, 9);
    check("step: TF is in the saved flags", (hits[0].flags & FLAG_TF) != 0);

    reset();
    step_rep();
    hit_is("step: one iteration of REP", 0, step_rep_at, DR6_BS);
    hit_is("step: another", 2, step_rep_at, DR6_BS);
    hit_is("step: the last", 3, step_rep_end, DR6_BS);

    reset();
    step_ss();
    hit_is("step: not between MOV SS and the next", 0, step_ss_after, DR6_BS);
}

static unsigned interrupts;

static void on_interrupt(struct frame *frame)
{
    (void)frame;
    interrupts++;
}

static void step_over_interrupt(void)
{
    trap_handle(0x50, on_interrupt);
    reset();
    step_int();
    check_equal("step: INT n runs its handler", interrupts, 1);
    /* INT n itself clears TF; the IRET that restores it is followed by one instruction. */
    check("step: the handler is not stepped",
          hit_count > 0 &&
              (hits[0].ip == (word)step_int_after || hits[0].ip == (word)step_int_after + 1));
}

static void set_breakpoint(unsigned index, word address, unsigned kind, unsigned size)
{
    switch (index) {
    case 0:
        write_dr0(address);
        break;
    case 1:
        write_dr1(address);
        break;
    case 2:
        write_dr2(address);
        break;
    default:
        write_dr3(address);
        break;
    }
    unsigned length = size == 8 ? 2 : size - 1;
    write_dr7((read_dr7() & ~((word)0xf << (16 + 4 * index))) | (word)2 << (2 * index) |
              (word)(kind | length << 2) << (16 + 4 * index));
}

static void no_breakpoints(void)
{
    write_dr7(0x400);
}

static void code_breakpoints(void)
{
    reset();
    resume = true;
    set_breakpoint(0, (word)watch_code_at, EXECUTE, 1);
    check_equal("code breakpoint: the code runs whole", watch_code(), 3);
    hit_is("code breakpoint: before the instruction", 0, watch_code_at, 1);
    check_equal("code breakpoint: once", hit_count, 1);
    reset();
    set_breakpoint(3, (word)watch_code_at, EXECUTE, 1);
    watch_code();
    hit_is("code breakpoints 0 and 3 at once", 0, watch_code_at, 9);
    no_breakpoints();
    reset();
    watch_code();
    check_equal("no breakpoint when disabled", hit_count, 0);
    resume = false;
}

static void data_breakpoints(void)
{
    word target = (word)debug_target;
    reset();
    set_breakpoint(1, target, WRITE, 4);
    watch_write();
    hit_is("write breakpoint: after the store", 0, watch_write_after, 2);
    check_equal("write breakpoint: the store was done", debug_target[0], 1);
    reset();
    watch_read();
    check_equal("write breakpoint: not by a read", hit_count, 0);

    no_breakpoints();
    set_breakpoint(2, target, ACCESS, 4);
    reset();
    watch_read();
    hit_is("access breakpoint: read", 0, watch_read_after, 4);
    reset();
    watch_write();
    hit_is("access breakpoint: write", 0, watch_write_after, 4);

    /* Overlap is enough: a 4-byte store, a breakpoint on its last byte. */
    no_breakpoints();
    set_breakpoint(0, target + 3, WRITE, 1);
    reset();
    watch_write();
    hit_is("write breakpoint on the last byte of the store", 0, watch_write_after, 1);
    no_breakpoints();
    set_breakpoint(0, target + 4, WRITE, 1);
    reset();
    watch_write();
    check_equal("write breakpoint beside the store", hit_count, 0);

    no_breakpoints();
    set_breakpoint(0, target, WRITE, 1);
    reset();
    watch_rep();
    check("write breakpoint within REP STOSB", hit_count == 1 && (hits[0].dr6 & 15) == 1);
    no_breakpoints();
}

static void read_dr7_now(void *unused)
{
    (void)unused;
    (void)read_dr7();
}

static void read_dr4(void *unused)
{
    (void)unused;
    /* mov %db4, %eax / %rax */
    __asm__ volatile(".byte 0x0f, 0x21, 0xe0" : : : "eax");
}

static void registers(void)
{
    trap_handle(DB, 0);
    if (on_tcg()) {
        skip("general detect", "QEMU does not");
    } else {
        write_dr7(0x400 | 1 << 13);
        int vector = trap_try(read_dr7_now, 0);
        check("general detect", vector == DB && (read_dr6() & DR6_BD) != 0);
        check_equal("it is switched off on the way", read_dr7() & 1 << 13, 0);
    }
    write_dr6(0);
    no_breakpoints();

    word cr4 = read_cr4();
    write_cr4(cr4 & ~(word)CR4_DE);
    check_equal("DR4 is DR6 without DE", trap_try(read_dr4, 0), -1);
    write_cr4(cr4 | CR4_DE);
    check_equal("DR4 does not exist with DE", trap_try(read_dr4, 0), 6);
    write_cr4(cr4);

    write_dr6(0);
    check_equal("fixed bits of DR6", read_dr6() & 0xffff1ff0, 0xffff0ff0);
    check_equal("fixed bits of DR7", read_dr7() & 0xfc00, 0x400);
}

void guest_main(void)
{
    trap_handle(DB, on_debug);
    no_breakpoints();
    single_step();
    step_over_interrupt();
    code_breakpoints();
    data_breakpoints();
    registers();
}
