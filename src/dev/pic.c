/*
 * 8259A. Per controller: IRR (requests), IMR (masks), ISR (in service), and a rotating order of
 * priorities whose highest is `top`. The output is raised while an unmasked request is more urgent
 * than everything in service.
 *
 * An edge-triggered input sets IRR on its rising edge and clears it when it falls before it was
 * acknowledged; a level-triggered one (ELCR) is requested as long as it is asserted. `lines` holds
 * the levels.
 *
 * The second controller's output is line 2 of the first. One lock for both.
 */
#include "dev/pic.h"

#include <pthread.h>
#include <stdlib.h>

#include "dev/platform.h"
#include "util/bits.h"

#define CASCADE 2u

#define ICW1_NEEDS_ICW4 0x01u
#define ICW1_SINGLE     0x02u
#define ICW1_INIT       0x10u
#define ICW4_AUTO_EOI   0x02u
#define ICW4_NESTED     0x10u
#define OCW3            0x08u
#define OCW3_READ       0x02u
#define OCW3_READ_ISR   0x01u
#define OCW3_POLL       0x04u
#define OCW3_MASK_SET   0x40u
#define OCW3_MASK       0x20u

/* What the next write of the data port is. */
enum init_state { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct pic_chip {
    struct pic *pic;
    bool second;
    uint8_t irr, imr, isr, lines, level_triggered;
    uint8_t base; /* vector of input 0 */
    uint8_t top;  /* the input of the highest priority */
    enum init_state init;
    bool needs_icw4, single;
    bool auto_eoi, rotate_on_auto_eoi, special_mask, nested;
    bool read_isr, poll;
};

struct pic {
    pthread_mutex_t lock;
    struct pic_chip chips[2];
    struct irq_line output;
    bool raised;
};

/* How urgent the most urgent of `inputs` is: 0 highest, 8 none. */
static unsigned urgency(const struct pic_chip *chip, uint8_t inputs)
{
    unsigned order = 0;
    while (order < 8 && (inputs >> ((chip->top + order) & 7) & 1) == 0)
        order++;
    return order;
}

static uint8_t requests(const struct pic_chip *chip)
{
    return (chip->irr | (chip->lines & chip->level_triggered)) & (uint8_t)~chip->imr;
}

/* The input to be served next, or -1. */
static int chip_request(const struct pic_chip *chip)
{
    uint8_t in_service = chip->isr;
    if (chip->special_mask)
        in_service &= (uint8_t)~chip->imr;
    /* In special fully nested mode the second controller may interrupt itself through the first. */
    if (chip->nested && !chip->second)
        in_service &= (uint8_t) ~(1u << CASCADE);
    unsigned wanted = urgency(chip, requests(chip));
    if (wanted >= urgency(chip, in_service))
        return -1;
    return (int)((chip->top + wanted) & 7);
}

static void chip_set_line(struct pic_chip *chip, unsigned input, bool level)
{
    uint8_t mask = (uint8_t)(1u << input);
    if (level && (chip->lines & mask) == 0 && (chip->level_triggered & mask) == 0)
        chip->irr |= mask;
    if (level) {
        chip->lines |= mask;
    } else {
        chip->lines &= (uint8_t)~mask;
        chip->irr &= (uint8_t)~mask;
    }
}

/* Carries a change of either controller to the outputs. */
static void update_output(struct pic *pic)
{
    chip_set_line(&pic->chips[0], CASCADE, chip_request(&pic->chips[1]) >= 0);
    bool raised = chip_request(&pic->chips[0]) >= 0;
    if (raised != pic->raised) {
        pic->raised = raised;
        irq_set(&pic->output, raised);
    }
}

/* INTA for one controller: the input served, 7 where there is none (spurious). */
static unsigned chip_acknowledge(struct pic_chip *chip)
{
    int request = chip_request(chip);
    if (request < 0)
        return 7;
    uint8_t mask = (uint8_t)(1u << request);
    chip->irr &= (uint8_t)~mask;
    if (!chip->auto_eoi)
        chip->isr |= mask;
    else if (chip->rotate_on_auto_eoi)
        chip->top = (uint8_t)((request + 1) & 7);
    return (unsigned)request;
}

int pic_pending(void *context)
{
    struct pic *pic = context;
    pthread_mutex_lock(&pic->lock);
    int vector = -1;
    int input = pic->raised ? chip_request(&pic->chips[0]) : -1;
    if (input == (int)CASCADE) {
        int second = chip_request(&pic->chips[1]);
        vector = pic->chips[1].base + (second < 0 ? 7 : second);
    } else if (input >= 0) {
        vector = pic->chips[0].base + input;
    }
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

static int acknowledge(struct pic *pic)
{
    unsigned input = chip_acknowledge(&pic->chips[0]);
    int vector = pic->chips[0].base + (int)input;
    if (input == CASCADE)
        vector = pic->chips[1].base + (int)chip_acknowledge(&pic->chips[1]);
    update_output(pic);
    return vector;
}

int pic_acknowledge(void *context)
{
    struct pic *pic = context;
    pthread_mutex_lock(&pic->lock);
    int vector = pic->raised ? acknowledge(pic) : -1;
    pthread_mutex_unlock(&pic->lock);
    return vector;
}

/* ICW1 starts an initialization, which forgets edges seen, masks and modes. */
static void write_icw1(struct pic_chip *chip, uint8_t value)
{
    chip->irr = 0;
    chip->imr = 0;
    chip->isr = 0;
    chip->top = 0;
    chip->auto_eoi = false;
    chip->rotate_on_auto_eoi = false;
    chip->special_mask = false;
    chip->nested = false;
    chip->read_isr = false;
    chip->poll = false;
    chip->needs_icw4 = (value & ICW1_NEEDS_ICW4) != 0;
    chip->single = (value & ICW1_SINGLE) != 0;
    chip->init = INIT_ICW2;
}

/* OCW2: bit 7 rotate, bit 6 specific, bit 5 end of interrupt. */
static void write_ocw2(struct pic_chip *chip, uint8_t value)
{
    uint8_t level = value & 7;
    bool rotate = (value & 0x80) != 0, specific = (value & 0x40) != 0, end = (value & 0x20) != 0;
    if (end && !specific) {
        unsigned order = urgency(chip, chip->isr);
        if (order == 8)
            return;
        level = (uint8_t)((chip->top + order) & 7);
    }
    if (end)
        chip->isr &= (uint8_t) ~(1u << level);
    if (rotate && (end || specific))
        chip->top = (uint8_t)((level + 1) & 7);
    else if (!end && !specific)
        chip->rotate_on_auto_eoi = rotate;
}

static void write_ocw3(struct pic_chip *chip, uint8_t value)
{
    if (value & OCW3_READ)
        chip->read_isr = (value & OCW3_READ_ISR) != 0;
    if (value & OCW3_MASK_SET)
        chip->special_mask = (value & OCW3_MASK) != 0;
    chip->poll = (value & OCW3_POLL) != 0;
}

static void write_data(struct pic_chip *chip, uint8_t value)
{
    switch (chip->init) {
    case INIT_ICW2:
        chip->base = value & 0xf8;
        chip->init = !chip->single ? INIT_ICW3 : chip->needs_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW3: /* the wiring is what it is */
        chip->init = chip->needs_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        chip->auto_eoi = (value & ICW4_AUTO_EOI) != 0;
        chip->nested = (value & ICW4_NESTED) != 0;
        chip->init = INIT_DONE;
        break;
    case INIT_DONE:
        chip->imr = value;
        break;
    }
}

static uint8_t read_port(struct pic_chip *chip, unsigned port)
{
    if (chip->poll) { /* a read instead of INTA */
        chip->poll = false;
        if (chip_request(chip) < 0)
            return 0;
        return (uint8_t)(0x80 | chip_acknowledge(chip));
    }
    if (port == 1)
        return chip->imr;
    return chip->read_isr ? chip->isr
                          : (uint8_t)(chip->irr | (chip->lines & chip->level_triggered));
}

/* A wider access reads one port after the other. */
static uint64_t ports_read(void *context, uint64_t offset, unsigned size)
{
    struct pic_chip *chip = context;
    uint64_t value = 0;
    pthread_mutex_lock(&chip->pic->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)read_port(chip, (unsigned)(offset + i) & 1) << (8 * i);
    update_output(chip->pic);
    pthread_mutex_unlock(&chip->pic->lock);
    return value;
}

static void ports_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct pic_chip *chip = context;
    pthread_mutex_lock(&chip->pic->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        if ((offset + i) & 1)
            write_data(chip, byte);
        else if (byte & ICW1_INIT)
            write_icw1(chip, byte);
        else if (byte & OCW3)
            write_ocw3(chip, byte);
        else
            write_ocw2(chip, byte);
    }
    update_output(chip->pic);
    pthread_mutex_unlock(&chip->pic->lock);
}

static const struct bus_ops pic_ops = {.read = ports_read, .write = ports_write};

static uint64_t elcr_read(void *context, uint64_t offset, unsigned size)
{
    struct pic *pic = context;
    pthread_mutex_lock(&pic->lock);
    uint64_t value = pic->chips[0].level_triggered | pic->chips[1].level_triggered << 8;
    pthread_mutex_unlock(&pic->lock);
    return bits_truncate(value >> (8 * offset), size);
}

/* Timer, keyboard, cascade, RTC and FPU are always edge triggered. */
static void elcr_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    static const uint8_t changeable[2] = {0xf8, 0xde};
    struct pic *pic = context;
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < size && offset + i < 2; i++) {
        unsigned chip = (unsigned)offset + i;
        pic->chips[chip].level_triggered = (uint8_t)(value >> (8 * i)) & changeable[chip];
    }
    update_output(pic);
    pthread_mutex_unlock(&pic->lock);
}

static const struct bus_ops elcr_ops = {.read = elcr_read, .write = elcr_write};

static void line_set(void *context, unsigned irq, bool level)
{
    struct pic *pic = context;
    if (irq > 15 || irq == CASCADE)
        return;
    pthread_mutex_lock(&pic->lock);
    chip_set_line(&pic->chips[irq / 8], irq % 8, level);
    update_output(pic);
    pthread_mutex_unlock(&pic->lock);
}

struct irq_line pic_line(struct pic *pic, unsigned irq)
{
    return (struct irq_line){.set = line_set, .context = pic, .pin = irq};
}

enum status pic_create(struct pic **result, struct irq_line output, struct error *err)
{
    struct pic *pic = calloc(1, sizeof *pic);
    *result = pic;
    if (pic == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the interrupt controller");
    pthread_mutex_init(&pic->lock, NULL);
    pic->output = output;
    pic_reset(pic);
    return STATUS_OK;
}

void pic_destroy(struct pic *pic)
{
    if (pic == NULL)
        return;
    pthread_mutex_destroy(&pic->lock);
    free(pic);
}

/* Until a kernel says otherwise: all masked, at the vectors a PC's firmware leaves. */
void pic_reset(struct pic *pic)
{
    pthread_mutex_lock(&pic->lock);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t lines = pic->chips[i].lines; /* the devices' */
        pic->chips[i] = (struct pic_chip){
            .pic = pic,
            .second = i == 1,
            .lines = lines,
            .imr = 0xff,
            .base = i == 0 ? 0x08 : 0x70,
        };
    }
    update_output(pic);
    pthread_mutex_unlock(&pic->lock);
}

enum status pic_attach(struct pic *pic, struct bus *ports, struct error *err)
{
    enum status status = bus_add(ports, PLATFORM_PORT_PIC1, 2, &pic_ops, &pic->chips[0], err);
    if (status == STATUS_OK)
        status = bus_add(ports, PLATFORM_PORT_PIC2, 2, &pic_ops, &pic->chips[1], err);
    if (status == STATUS_OK)
        status = bus_add(ports, PIC_PORT_ELCR, 2, &elcr_ops, pic, err);
    return status;
}
