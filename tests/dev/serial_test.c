/* The 16550A: registers and interrupts as in its datasheet, and the host's side over pipes, files
 * and closed descriptors. What happens on the loop's thread is waited for by polling the registers,
 * as a guest would. */

#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/serial.h"
#include "util/log.h"

#define DATA    0x3f8
#define IER     0x3f9
#define IIR     0x3fa
#define FCR     0x3fa
#define LCR     0x3fb
#define MCR     0x3fc
#define LSR     0x3fd
#define MSR     0x3fe
#define SCRATCH 0x3ff

#define MCR_ON 0x0b /* DTR, RTS, OUT2, as drivers set it */

#define LSR_DATA    0x01
#define LSR_OVERRUN 0x02
#define LSR_EMPTY   0x60

/* A line whose level may be set by the loop's thread. */
struct atomic_line {
    _Atomic bool level;
    _Atomic unsigned rises;
};

static void atomic_line_set(void *context, unsigned pin, bool level)
{
    struct atomic_line *line = context;
    if (level && !atomic_exchange(&line->level, true))
        line->rises++;
    else if (!level)
        line->level = false;
}

struct machine {
    struct io_loop *loop;
    struct serial *serial;
    struct bus *ports;
    struct atomic_line irq;
};

static void machine_create_filtered(struct machine *machine, int output, int input,
                                    size_t (*filter)(void *, uint8_t *, size_t), void *context)
{
    memset(machine, 0, sizeof *machine);
    assert_int_equal(io_loop_create(&machine->loop, "serial", NULL), STATUS_OK);
    struct serial_config config = {
        .loop = machine->loop,
        .irq = {.set = atomic_line_set, .context = &machine->irq},
        .output_fd = output,
        .input_fd = input,
        .filter = filter,
        .filter_context = context,
    };
    struct error err = {0};
    if (serial_create(&machine->serial, &config, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    machine->ports = test_bus();
    assert_int_equal(serial_attach(machine->serial, machine->ports, NULL), STATUS_OK);
    assert_int_equal(io_loop_start(machine->loop, NULL), STATUS_OK);
}

static void machine_create(struct machine *machine, int output, int input)
{
    machine_create_filtered(machine, output, input, NULL, NULL);
}

static void machine_destroy(struct machine *machine)
{
    serial_destroy(machine->serial);
    io_loop_destroy(machine->loop);
    bus_destroy(machine->ports);
}

static uint8_t get(struct machine *machine, uint16_t port)
{
    return in8(machine->ports, port);
}

static void set(struct machine *machine, uint16_t port, uint8_t value)
{
    out8(machine->ports, port, value);
}

static void wait_lsr(struct machine *machine, uint8_t bits)
{
    while ((get(machine, LSR) & bits) != bits)
        sched_yield();
}

static void print(struct machine *machine, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        wait_lsr(machine, 0x20);
        set(machine, DATA, (uint8_t)text[i]);
    }
}

static void read_whole(int fd, char *buffer, size_t length)
{
    for (size_t used = 0; used < length;) {
        ssize_t count = read(fd, buffer + used, length - used);
        assert_true(count > 0);
        used += (size_t)count;
    }
}

static void make_pipe(int fds[2])
{
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
}

static void close_pipe(int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

static void test_registers(void **state)
{
    struct machine machine;
    machine_create(&machine, -1, -1);
    assert_int_equal(get(&machine, IER), 0);
    assert_int_equal(get(&machine, IIR), 0x01);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    assert_int_equal(get(&machine, MSR), 0xb0);
    set(&machine, SCRATCH, 0xa5);
    assert_int_equal(get(&machine, SCRATCH), 0xa5);
    set(&machine, IER, 0xff);
    assert_int_equal(get(&machine, IER), 0x0f);
    set(&machine, IER, 0);

    /* The divisor hides data and IER. */
    set(&machine, LCR, 0x83);
    set(&machine, DATA, 0x34);
    set(&machine, IER, 0x12);
    assert_int_equal(get(&machine, DATA), 0x34);
    assert_int_equal(get(&machine, IER), 0x12);
    assert_int_equal(bus_read(machine.ports, DATA, 2), 0x1234);
    set(&machine, LCR, 0x03);
    assert_int_equal(get(&machine, LCR), 0x03);
    assert_int_equal(get(&machine, IER), 0);
    assert_int_equal(get(&machine, DATA), 0); /* nothing received */

    /* A 16550A says so in IIR. */
    set(&machine, FCR, 0x01);
    assert_int_equal(get(&machine, IIR), 0xc1);
    set(&machine, FCR, 0x00);
    assert_int_equal(get(&machine, IIR), 0x01);
    set(&machine, LSR, 0x00); /* read-only */
    set(&machine, MSR, 0x00);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    serial_reset(machine.serial);
    assert_int_equal(get(&machine, SCRATCH), 0);
    machine_destroy(&machine);
}

static void test_loopback(void **state)
{
    int fds[2];
    make_pipe(fds);
    struct machine machine;
    machine_create(&machine, fds[1], -1);
    set(&machine, FCR, 0x01);
    set(&machine, MCR, 0x1a); /* as kernels probe: RTS and OUT2 come back as CTS and carrier */
    assert_int_equal(get(&machine, MSR) & 0xf0, 0x90);
    set(&machine, MCR, 0x15);
    assert_int_equal(get(&machine, MSR), 0x60 | 0x0b); /* CTS, DSR, carrier changed; ring began */
    assert_int_equal(get(&machine, MSR), 0x60);
    set(&machine, MCR, 0x11);
    assert_int_equal(get(&machine, MSR), 0x20 | 0x04); /* ring ended */

    /* Data comes back, sixteen deep, then overruns. */
    set(&machine, IER, 0x04);
    for (unsigned i = 0; i < 16; i++)
        set(&machine, DATA, (uint8_t)(0x40 + i));
    assert_false(machine.irq.level);
    set(&machine, DATA, 0x99);
    assert_true(machine.irq.level);
    assert_int_equal(get(&machine, IIR), 0xc6);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY | LSR_OVERRUN | LSR_DATA);
    assert_false(machine.irq.level);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY | LSR_DATA);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(get(&machine, DATA), 0x40 + i);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);

    /* FIFO cleared by FCR; kept, but one byte deep for more, when it is switched off. */
    set(&machine, DATA, 1);
    set(&machine, FCR, 0x03);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    set(&machine, DATA, 1);
    set(&machine, DATA, 2);
    set(&machine, FCR, 0x00);
    set(&machine, DATA, 3);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY | LSR_OVERRUN | LSR_DATA);
    assert_int_equal(get(&machine, DATA), 1);
    assert_int_equal(get(&machine, DATA), 2);
    set(&machine, DATA, 4);
    assert_int_equal(get(&machine, DATA), 4);
    set(&machine, MCR, 0x00);

    /* None of it went out. */
    print(&machine, "!", 1);
    char byte;
    read_whole(fds[0], &byte, 1);
    assert_int_equal(byte, '!');
    machine_destroy(&machine);
    close_pipe(fds);
}

static void test_receiver_interrupts(void **state)
{
    struct machine machine;
    machine_create(&machine, -1, -1);
    set(&machine, FCR, 0x81); /* trigger at 8 */
    set(&machine, MCR, 0x10);
    set(&machine, IER, 0x01);
    set(&machine, DATA, 1);
    assert_true(machine.irq.level);
    assert_int_equal(get(&machine, IIR), 0xcc); /* below the trigger: time-out */
    for (unsigned i = 2; i <= 8; i++)
        set(&machine, DATA, (uint8_t)i);
    assert_int_equal(get(&machine, IIR), 0xc4);
    for (unsigned i = 1; i <= 8; i++) {
        assert_true(machine.irq.level);
        assert_int_equal(get(&machine, DATA), i);
    }
    assert_false(machine.irq.level);
    assert_int_equal(get(&machine, IIR), 0xc1);
    set(&machine, FCR, 0x00); /* without FIFO every byte is data */
    set(&machine, DATA, 1);
    assert_int_equal(get(&machine, IIR), 0x04);
    machine_destroy(&machine);
}

static void test_transmitter_interrupt(void **state)
{
    struct machine machine;
    machine_create(&machine, -1, -1);
    assert_false(machine.irq.level);
    set(&machine, IER, 0x02); /* empty when enabled: at once */
    assert_true(machine.irq.level);
    assert_int_equal(get(&machine, IIR), 0x02); /* reading it takes it back */
    assert_false(machine.irq.level);
    assert_int_equal(get(&machine, IIR), 0x01);
    unsigned rises = machine.irq.rises;
    set(&machine, DATA, 'x'); /* every byte falls and rises: an edge for the I/O APIC */
    assert_true(machine.irq.level);
    set(&machine, DATA, 'x');
    assert_int_equal(machine.irq.rises, rises + 2);
    set(&machine, IER, 0x00);
    assert_false(machine.irq.level);
    set(&machine, IER, 0x02); /* the probe of Linux' driver: again after disabling */
    assert_int_equal(get(&machine, IIR), 0x02);

    /* Priorities: line status over data over transmitter over modem. */
    set(&machine, MCR, 0x1e); /* DSR changes */
    set(&machine, IER, 0x0f);
    set(&machine, DATA, 1);
    set(&machine, DATA, 2);
    assert_int_equal(get(&machine, IIR), 0x06);
    get(&machine, LSR);
    assert_int_equal(get(&machine, IIR), 0x04);
    get(&machine, DATA);
    assert_int_equal(get(&machine, IIR), 0x02);
    assert_int_equal(get(&machine, IIR), 0x00);
    assert_true(machine.irq.level);
    get(&machine, MSR);
    assert_int_equal(get(&machine, IIR), 0x01);
    assert_false(machine.irq.level);
    machine_destroy(&machine);
}

/* More than every buffer holds, by a reader that begins only when the transmitter has stopped. */
static void check_nothing_is_lost(int write_fd, int read_fd)
{
    const size_t length = 1 << 20;
    char *sent = malloc(length), *received = malloc(length);
    assert_non_null(sent);
    assert_non_null(received);
    for (size_t i = 0; i < length; i++)
        sent[i] = (char)(i * 7 + i / 256);
    struct machine machine;
    machine_create(&machine, write_fd, -1);
    set(&machine, IER, 0x02);

    size_t written = 0, taken = 0;
    while (taken < length) {
        /* As a driver does: up to 16 bytes while the transmitter is empty. */
        for (unsigned tries = 0; written < length && tries < 1000; tries++) {
            if ((get(&machine, LSR) & 0x20) == 0)
                continue;
            for (unsigned i = 0; i < 16 && written < length; i++)
                set(&machine, DATA, (uint8_t)sent[written++]);
            tries = 0;
        }
        struct pollfd ready = {.fd = read_fd, .events = POLLIN};
        if (poll(&ready, 1, 0) == 1) {
            ssize_t count = read(read_fd, received + taken, length - taken);
            assert_true(count > 0);
            taken += (size_t)count;
        }
    }
    assert_memory_equal(sent, received, length);
    wait_lsr(&machine, LSR_EMPTY);
    while (!machine.irq.level) /* and the driver is told */
        sched_yield();
    machine_destroy(&machine);
    free(sent);
    free(received);
}

static void test_output_to_slow_pipe(void **state)
{
    int fds[2];
    make_pipe(fds);
    check_nothing_is_lost(fds[1], fds[0]);
    assert_int_equal(fcntl(fds[1], F_GETFL) & O_NONBLOCK, 0); /* not ours to change */
    close_pipe(fds);
}

static void test_output_to_socket(void **state)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    check_nothing_is_lost(fds[1], fds[0]);
    close_pipe(fds);
}

static int open_terminal(int *master)
{
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    assert_true(*master >= 0);
    assert_int_equal(grantpt(*master), 0);
    assert_int_equal(unlockpt(*master), 0);
    int terminal = open(ptsname(*master), O_RDWR | O_NOCTTY);
    assert_true(terminal >= 0);
    return terminal;
}

static void test_output_to_terminal(void **state)
{
    int master, terminal = open_terminal(&master);
    struct machine machine;
    machine_create(&machine, terminal, terminal);
    set(&machine, MCR, MCR_ON);
    print(&machine, "hello", 5);
    char text[5];
    read_whole(master, text, 5);
    assert_memory_equal(text, "hello", 5);
    assert_int_equal(write(master, "yes\n", 4), 4);
    for (unsigned i = 0; i < 4; i++) {
        wait_lsr(&machine, LSR_DATA);
        assert_int_equal(get(&machine, DATA), "yes\n"[i]);
    }
    machine_destroy(&machine);
    close(terminal);
    close(master);
}

/* epoll refuses regular files, on both sides; flush means written. */
static void test_regular_files(void **state)
{
    FILE *output = tmpfile(), *input = tmpfile();
    assert_non_null(output);
    assert_non_null(input);
    char text[20000], copy[20000];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('a' + i % 26);
    assert_int_equal(write(fileno(input), text, sizeof text), sizeof text);
    assert_int_equal(lseek(fileno(input), 0, SEEK_SET), 0);
    struct machine machine;
    machine_create(&machine, fileno(output), fileno(input));
    set(&machine, FCR, 0x01);
    set(&machine, MCR, MCR_ON);
    for (size_t i = 0; i < sizeof text; i++) {
        wait_lsr(&machine, LSR_DATA);
        assert_int_equal(get(&machine, DATA), text[i]);
    }
    print(&machine, text, sizeof text);
    serial_flush(machine.serial, 60 * NS_PER_SECOND);
    assert_int_equal(pread(fileno(output), copy, sizeof copy, 0), sizeof copy);
    assert_memory_equal(copy, text, sizeof text);
    machine_destroy(&machine);
    fclose(output);
    fclose(input);
}

static void check_output_dropped(int fd)
{
    char text[50000] = {0};
    struct machine machine;
    log_set_level(LOG_ERROR); /* the warning is expected */
    machine_create(&machine, fd, -1);
    print(&machine, text, sizeof text); /* never stops */
    serial_flush(machine.serial, 60 * NS_PER_SECOND);
    machine_destroy(&machine);
    log_set_level(LOG_WARNING);
}

static void test_output_gone(void **state)
{
    int fds[2];
    make_pipe(fds);
    close(fds[0]);
    check_output_dropped(fds[1]);
    close(fds[1]);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    close(fds[0]);
    check_output_dropped(fds[1]);
    close(fds[1]);
    int closed = fcntl(STDERR_FILENO, F_DUPFD, 500); /* a number that nothing else gets */
    close(closed);
    check_output_dropped(closed);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_true(full >= 0);
    check_output_dropped(full);
    close(full);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    check_output_dropped(null);
    close(null);
}

static void post_event(void *context)
{
    atomic_store((_Atomic bool *)context, true);
}

/* Waits until the loop has done something that was asked of it after all that it is doing now. */
static void turn_loop(struct machine *machine)
{
    _Atomic bool done = false;
    struct io_event *event;
    assert_int_equal(io_event_create(&event, machine->loop, post_event, &done, NULL), STATUS_OK);
    io_event_signal(event);
    while (!done)
        sched_yield();
    io_event_destroy(event);
}

/* Writes until the transmitter stays busy: everything on the way to the host is full. The loop
 * takes a turn to learn that there is something to write, and one to write what still fits. */
static void fill_output(struct machine *machine)
{
    for (unsigned turns = 0; turns < 4; turns++) {
        for (; get(machine, LSR) & 0x20; turns = 0)
            set(machine, DATA, 'x');
        turn_loop(machine);
    }
}

static void test_output_congested(void **state)
{
    int fds[2];
    make_pipe(fds);
    assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 4096);
    struct machine machine;
    machine_create(&machine, fds[1], -1);
    set(&machine, IER, 0x02);
    fill_output(&machine);
    serial_flush(machine.serial, 1000000); /* gives up */
    assert_int_equal(get(&machine, LSR) & 0x60, 0);
    assert_false(machine.irq.level);
    /* Whoever writes all the same loses that, and nothing breaks. */
    for (unsigned i = 0; i < 1000; i++)
        set(&machine, DATA, 'y');
    assert_int_equal(get(&machine, LSR) & 0x60, 0);

    /* When the host reads on, the driver is told. */
    while (!machine.irq.level) {
        char bytes[512];
        assert_true(read(fds[0], bytes, sizeof bytes) > 0);
        for (unsigned tries = 0; tries < 1000 && !machine.irq.level; tries++)
            sched_yield();
    }
    assert_int_equal(get(&machine, IIR), 0x02);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    machine_destroy(&machine);
    close_pipe(fds);
}

/* A terminal that nobody reads (or that was stopped with ^S) does not hold up the loop, on which
 * timers run too. */
static void test_terminal_never_blocks_the_loop(void **state)
{
    int master, terminal = open_terminal(&master);
    struct machine machine;
    machine_create(&machine, terminal, -1);
    char text[1000] = {0};
    print(&machine, text, sizeof text); /* so that the last piece does not fit exactly */
    serial_flush(machine.serial, 60 * NS_PER_SECOND);
    fill_output(&machine);
    turn_loop(&machine);
    assert_int_equal(fcntl(terminal, F_GETFL) & O_NONBLOCK, 0);
    machine_destroy(&machine);
    close(terminal);
    close(master);
}

static void test_input_flow_control(void **state)
{
    int fds[2];
    make_pipe(fds);
    struct machine machine;
    machine_create(&machine, -1, fds[0]);
    set(&machine, FCR, 0xc1);
    set(&machine, MCR, MCR_ON);
    const size_t length = 100000; /* more than the pipe and every buffer */
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (size_t taken = 0; taken < length;) {
        uint8_t byte = (uint8_t)(sent * 13 + sent / 256);
        if (sent < length && write(fds[1], &byte, 1) == 1) {
            sent++;
            continue;
        }
        wait_lsr(&machine, LSR_DATA);
        for (unsigned i = 0; i < 300 && (get(&machine, LSR) & LSR_DATA) != 0; i++, taken++)
            assert_int_equal(get(&machine, DATA), (uint8_t)(taken * 13 + taken / 256));
    }
    assert_int_equal(get(&machine, LSR), LSR_EMPTY); /* no overrun either */
    machine_destroy(&machine);
    close_pipe(fds);
}

static void test_input_interrupt(void **state)
{
    int fds[2];
    make_pipe(fds);
    struct machine machine;
    machine_create(&machine, -1, fds[0]);
    set(&machine, FCR, 0x41);
    set(&machine, IER, 0x01);
    assert_int_equal(write(fds[1], "ab", 2), 2);
    while (!machine.irq.level)
        sched_yield();
    wait_lsr(&machine, LSR_DATA);
    assert_int_equal(get(&machine, DATA), 'a');
    wait_lsr(&machine, LSR_DATA);
    assert_int_equal(get(&machine, DATA), 'b');
    assert_false(machine.irq.level);
    close(fds[1]); /* the end of input is no event for the guest */
    io_loop_stop(machine.loop);
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    machine_destroy(&machine);
    close(fds[0]);
}

static size_t count_bytes(void *context, uint8_t *bytes, size_t count)
{
    _Atomic unsigned *seen = context;
    *seen += (unsigned)count;
    return count;
}

/* Takes out 'x', and counts those. */
static size_t drop_x(void *context, uint8_t *bytes, size_t count)
{
    _Atomic unsigned *dropped = context;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == 'x')
            (*dropped)++;
        else
            bytes[kept++] = bytes[i];
    }
    return kept;
}

/* What is there before the guest is ready survives the probing of a driver. */
static void test_early_input(void **state)
{
    int fds[2];
    make_pipe(fds);
    assert_int_equal(write(fds[1], "early", 5), 5);
    _Atomic unsigned seen = 0;
    struct machine machine;
    machine_create_filtered(&machine, -1, fds[0], count_bytes, &seen);
    while (seen < 5)
        sched_yield();
    static const struct {
        uint16_t port;
        uint8_t value;
    } probe[] = {{IER, 0x00}, {IER, 0x0f}, {IER, 0x00}, {MCR, 0x1a}, {MCR, 0x00},
                 {FCR, 0x01}, {FCR, 0x07}, {FCR, 0x00}, {LCR, 0x03}, {IER, 0x00}};
    for (unsigned i = 0; i < ARRAY_LENGTH(probe); i++) {
        set(&machine, probe[i].port, probe[i].value);
        assert_int_equal(get(&machine, LSR) & LSR_DATA, 0);
        get(&machine, DATA);
    }
    set(&machine, IER, 0x05);
    set(&machine, FCR, 0x01);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(get(&machine, LSR) & LSR_DATA, LSR_DATA);
        assert_int_equal(get(&machine, DATA), "early"[i]);
    }
    machine_destroy(&machine);
    close_pipe(fds);
}

/* The filter sees input even when the guest reads none. */
static void test_input_filter(void **state)
{
    int fds[2];
    make_pipe(fds);
    _Atomic unsigned dropped = 0;
    struct machine machine;
    machine_create_filtered(&machine, -1, fds[0], drop_x, &dropped);
    set(&machine, MCR, MCR_ON);
    char text[1000];
    memset(text, 'a', sizeof text);
    assert_int_equal(write(fds[1], text, sizeof text), sizeof text);
    assert_int_equal(write(fds[1], "xx", 2), 2);
    while (dropped < 2)
        sched_yield();
    for (unsigned i = 0; i < sizeof text; i++) {
        wait_lsr(&machine, LSR_DATA);
        assert_int_equal(get(&machine, DATA), 'a');
    }
    assert_int_equal(get(&machine, LSR), LSR_EMPTY);
    machine_destroy(&machine);
    close_pipe(fds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),
        cmocka_unit_test(test_loopback),
        cmocka_unit_test(test_receiver_interrupts),
        cmocka_unit_test(test_transmitter_interrupt),
        cmocka_unit_test(test_output_to_slow_pipe),
        cmocka_unit_test(test_output_to_socket),
        cmocka_unit_test(test_output_to_terminal),
        cmocka_unit_test(test_regular_files),
        cmocka_unit_test(test_output_gone),
        cmocka_unit_test(test_output_congested),
        cmocka_unit_test(test_terminal_never_blocks_the_loop),
        cmocka_unit_test(test_input_flow_control),
        cmocka_unit_test(test_input_interrupt),
        cmocka_unit_test(test_early_input),
        cmocka_unit_test(test_input_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
