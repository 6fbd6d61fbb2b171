/*
 * 16550A registers. The transmitter is the line's output buffer: it is "empty" (THRE and TEMT)
 * while that is not congested, and every byte written then is gone at once. The receiver FIFO is
 * filled from the line's input as the guest makes room, so the host's buffer does the waiting.
 *
 * There is no baud rate. A character time-out, four character times on the real thing, has
 * therefore always passed: bytes below the trigger level raise the time-out interrupt at once.
 *
 * The interrupt line follows from the state: a cause that is enabled and present asserts it. It is
 * not gated by OUT2, as it would be on a PC, because small kernels forget that.
 */
#include "dev/serial.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "dev/platform.h"
#include "dev/serial_line.h"
#include "util/bits.h"

#define FIFO_SIZE 16u

enum serial_register {
    REG_DATA,
    REG_IER,
    REG_IIR_FCR,
    REG_LCR,
    REG_MCR,
    REG_LSR,
    REG_MSR,
    REG_SCRATCH,
    REG_COUNT,
};

#define IER_DATA           0x01u
#define IER_THRE           0x02u
#define IER_LINE           0x04u
#define IER_MODEM          0x08u
#define IIR_NONE           0x01u
#define IIR_MODEM          0x00u
#define IIR_THRE           0x02u
#define IIR_DATA           0x04u
#define IIR_LINE           0x06u
#define IIR_TIMEOUT        0x0cu
#define IIR_FIFO           0xc0u
#define FCR_ENABLE         0x01u
#define FCR_CLEAR_RECEIVER 0x02u
#define LCR_DLAB           0x80u
#define LSR_DATA           0x01u
#define LSR_OVERRUN        0x02u
#define LSR_THRE           0x20u
#define LSR_TEMT           0x40u
#define MCR_DTR            0x01u
#define MCR_RTS            0x02u
#define MCR_OUT1           0x04u
#define MCR_OUT2           0x08u
#define MCR_LOOP           0x10u
#define MSR_CTS            0x10u
#define MSR_DSR            0x20u
#define MSR_RING           0x40u
#define MSR_CARRIER        0x80u
#define MSR_DELTAS         0x0fu

struct serial {
    pthread_mutex_t lock;
    struct irq_line irq;
    struct serial_line *line;

    uint8_t ier, lcr, mcr, scratch;
    uint16_t divisor;
    bool fifo_enabled;
    uint8_t trigger;
    uint8_t fifo[FIFO_SIZE]; /* received; `first` is the oldest */
    unsigned first, count;
    bool overrun;
    uint8_t modem_deltas;
    bool thre_pending; /* the transmitter became empty and nobody has looked */
    bool congested;    /* the line said so last */
};

static bool loops(const struct serial *serial)
{
    return (serial->mcr & MCR_LOOP) != 0;
}

static unsigned fifo_capacity(const struct serial *serial)
{
    return serial->fifo_enabled ? FIFO_SIZE : 1;
}

static void fifo_put(struct serial *serial, uint8_t byte)
{
    if (serial->count >= fifo_capacity(serial)) {
        serial->overrun = true;
        return;
    }
    serial->fifo[(serial->first + serial->count++) % FIFO_SIZE] = byte;
}

/*
 * The far end sends only when it is asked to, as a terminal that obeys DTR and RTS: else what was
 * typed or piped in early would be lost to a driver that probes and clears FIFOs. Kernels that
 * leave the modem lines alone ask by enabling receive interrupts without modem ones. (Probes of the
 * interrupt register enable all.)
 */
static bool asks_for_input(const struct serial *serial)
{
    if (loops(serial))
        return false;
    return (serial->mcr & (MCR_DTR | MCR_RTS)) != 0 ||
           (serial->ier & (IER_DATA | IER_MODEM)) == IER_DATA;
}

/* Moves input to the FIFO as far as it goes. */
static void fifo_fill(struct serial *serial)
{
    uint8_t bytes[FIFO_SIZE];
    unsigned capacity = fifo_capacity(serial);
    if (!asks_for_input(serial) || serial->count >= capacity)
        return;
    size_t count = serial_line_get(serial->line, bytes, capacity - serial->count);
    for (size_t i = 0; i < count; i++)
        fifo_put(serial, bytes[i]);
}

static uint8_t modem_lines(const struct serial *serial)
{
    if (!loops(serial))
        return MSR_CTS | MSR_DSR | MSR_CARRIER; /* somebody is there and ready */
    return (uint8_t)((serial->mcr & MCR_RTS ? MSR_CTS : 0) | (serial->mcr & MCR_DTR ? MSR_DSR : 0) |
                     (serial->mcr & MCR_OUT1 ? MSR_RING : 0) |
                     (serial->mcr & MCR_OUT2 ? MSR_CARRIER : 0));
}

/* The most urgent cause that is enabled and present. */
static uint8_t interrupt_cause(const struct serial *serial)
{
    if ((serial->ier & IER_LINE) && serial->overrun)
        return IIR_LINE;
    if ((serial->ier & IER_DATA) && serial->count > 0)
        return serial->fifo_enabled && serial->count < serial->trigger ? IIR_TIMEOUT : IIR_DATA;
    if ((serial->ier & IER_THRE) && serial->thre_pending)
        return IIR_THRE;
    if ((serial->ier & IER_MODEM) && serial->modem_deltas != 0)
        return IIR_MODEM;
    return IIR_NONE;
}

/* After any change: takes in what the line has, and drives the interrupt. */
static void update(struct serial *serial)
{
    fifo_fill(serial);
    bool congested = !loops(serial) && serial_line_room(serial->line) < SERIAL_LINE_LOW;
    if (serial->congested && !congested)
        serial->thre_pending = true;
    serial->congested = congested;
    irq_set(&serial->irq, interrupt_cause(serial) != IIR_NONE);
}

static void line_changed(void *context)
{
    struct serial *serial = context;
    pthread_mutex_lock(&serial->lock);
    update(serial);
    pthread_mutex_unlock(&serial->lock);
}

static uint8_t read_data(struct serial *serial)
{
    if (serial->count == 0)
        return 0;
    uint8_t byte = serial->fifo[serial->first];
    serial->first = (serial->first + 1) % FIFO_SIZE;
    serial->count--;
    return byte;
}

static void write_data(struct serial *serial, uint8_t byte)
{
    if (loops(serial))
        fifo_put(serial, byte);
    else
        serial_line_put(serial->line, byte); /* full: the guest did not wait for THRE */
    /* Lets the interrupt fall, and rise again where the transmitter takes more. */
    serial->thre_pending = false;
    irq_set(&serial->irq, interrupt_cause(serial) != IIR_NONE);
    update(serial);
    if (!serial->congested)
        serial->thre_pending = true;
}

static void write_ier(struct serial *serial, uint8_t value)
{
    uint8_t enabled = value & (uint8_t)~serial->ier;
    serial->ier = value & 0x0f;
    if ((enabled & IER_THRE) && !serial->congested)
        serial->thre_pending = true;
}

static void write_fcr(struct serial *serial, uint8_t value)
{
    static const uint8_t triggers[4] = {1, 4, 8, 14};
    /* On the chip, switching the FIFO on or off clears it too. Linux switches it on with input
     * already under way; what was received stays then. */
    if (value & FCR_CLEAR_RECEIVER)
        serial->count = 0;
    serial->fifo_enabled = (value & FCR_ENABLE) != 0;
    serial->trigger = serial->fifo_enabled ? triggers[value >> 6] : 1;
}

static void write_mcr(struct serial *serial, uint8_t value)
{
    uint8_t before = modem_lines(serial);
    serial->mcr = value & 0x1f;
    uint8_t now = modem_lines(serial);
    uint8_t changed = before ^ now;
    changed &= (uint8_t) ~(now & MSR_RING); /* of the ring indicator only the end counts */
    serial->modem_deltas |= (uint8_t)(changed >> 4);
}

static uint8_t read_iir(struct serial *serial)
{
    uint8_t cause = interrupt_cause(serial);
    if (cause == IIR_THRE)
        serial->thre_pending = false;
    return (uint8_t)(cause | (serial->fifo_enabled ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct serial *serial)
{
    uint8_t value =
        (uint8_t)((serial->count > 0 ? LSR_DATA : 0) | (serial->overrun ? LSR_OVERRUN : 0) |
                  (serial->congested ? 0 : LSR_THRE | LSR_TEMT));
    serial->overrun = false;
    return value;
}

static uint8_t read_msr(struct serial *serial)
{
    uint8_t value = (uint8_t)(modem_lines(serial) | serial->modem_deltas);
    serial->modem_deltas = 0;
    return value;
}

static uint8_t register_read(struct serial *serial, unsigned reg)
{
    bool divisor = (serial->lcr & LCR_DLAB) != 0;
    switch (reg) {
    case REG_DATA:
        return divisor ? (uint8_t)serial->divisor : read_data(serial);
    case REG_IER:
        return divisor ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REG_IIR_FCR:
        return read_iir(serial);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        return read_lsr(serial);
    case REG_MSR:
        return read_msr(serial);
    case REG_SCRATCH:
        return serial->scratch;
    }
    return 0xff;
}

static void register_write(struct serial *serial, unsigned reg, uint8_t value)
{
    bool divisor = (serial->lcr & LCR_DLAB) != 0;
    switch (reg) {
    case REG_DATA:
        if (divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        else
            write_data(serial, value);
        break;
    case REG_IER:
        if (divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | value << 8);
        else
            write_ier(serial, value);
        break;
    case REG_IIR_FCR:
        write_fcr(serial, value);
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        write_mcr(serial, value);
        break;
    case REG_SCRATCH:
        serial->scratch = value;
        break;
    }
}

/* Registers are bytes; a wider access goes to one after the other. */
static uint64_t ports_read(void *context, uint64_t offset, unsigned size)
{
    struct serial *serial = context;
    uint64_t value = 0;
    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)register_read(serial, (unsigned)offset + i) << (8 * i);
    update(serial);
    pthread_mutex_unlock(&serial->lock);
    return value;
}

static void ports_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *serial = context;
    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size; i++)
        register_write(serial, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
    update(serial);
    pthread_mutex_unlock(&serial->lock);
}

static void reset_registers(struct serial *serial)
{
    serial->ier = 0;
    serial->lcr = 0;
    serial->mcr = 0;
    serial->scratch = 0;
    serial->divisor = 12; /* 9600 baud */
    serial->fifo_enabled = false;
    serial->trigger = 1;
    serial->first = 0;
    serial->count = 0;
    serial->overrun = false;
    serial->modem_deltas = 0;
    serial->thre_pending = false;
}

enum status serial_create(struct serial **result, const struct serial_config *config,
                          struct error *err)
{
    *result = NULL;
    struct serial *serial = calloc(1, sizeof *serial);
    if (serial == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the serial port");
    pthread_mutex_init(&serial->lock, NULL);
    serial->irq = config->irq;
    reset_registers(serial);
    struct serial_line_config line = {
        .loop = config->loop,
        .output_fd = config->output_fd,
        .input_fd = config->input_fd,
        .filter = config->filter,
        .filter_context = config->filter_context,
        .changed = line_changed,
        .context = serial,
    };
    /* Locked, because the loop may call line_changed before `line` is known. */
    pthread_mutex_lock(&serial->lock);
    enum status status = serial_line_create(&serial->line, &line, err);
    pthread_mutex_unlock(&serial->lock);
    if (status != STATUS_OK) {
        serial_destroy(serial);
        return status;
    }
    *result = serial;
    return STATUS_OK;
}

void serial_destroy(struct serial *serial)
{
    if (serial == NULL)
        return;
    serial_line_destroy(serial->line);
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

void serial_reset(struct serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    reset_registers(serial);
    update(serial);
    pthread_mutex_unlock(&serial->lock);
}

enum status serial_attach(struct serial *serial, struct bus *ports, struct error *err)
{
    static const struct bus_ops ops = {.read = ports_read, .write = ports_write};
    return bus_add(ports, PLATFORM_PORT_SERIAL, REG_COUNT, &ops, serial, err);
}

void serial_flush(struct serial *serial, uint64_t timeout_ns)
{
    serial_line_flush(serial->line, timeout_ns);
}
