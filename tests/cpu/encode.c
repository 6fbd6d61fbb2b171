#include "encode.h"

#include <stdlib.h>
#include <string.h>

uint64_t random_next(struct random *random)
{
    /* xorshift64*, by S. Vigna */
    random->state ^= random->state >> 12;
    random->state ^= random->state << 25;
    random->state ^= random->state >> 27;
    return random->state * 0x2545f4914f6cdd1du;
}

uint64_t random_value(struct random *random)
{
    static const uint64_t corners[] = {
        0,
        1,
        2,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x7fffffffffffffff,
        0x8000000000000000,
        0xffffffffffffffff,
        0xfffffffffffffffe,
        0x0123456789abcdef,
        0xaaaaaaaaaaaaaaaa,
    };
    uint64_t value = random_next(random);
    switch (random_below(random, 4)) {
    case 0:
        return corners[random_below(random, sizeof(corners) / sizeof(corners[0]))];
    case 1:
        return value >> random_below(random, 64);
    case 2:
        return (uint64_t)((int64_t)value >> random_below(random, 64));
    default:
        return value;
    }
}

bool form_operand_list(const struct form *form, unsigned n, char *list, size_t size)
{
    const char *at = form->operands;
    for (; n != 0; n--) {
        at = strchr(at, '|');
        if (at == NULL)
            return false;
        at++;
    }
    size_t length = strcspn(at, "|");
    if (length >= size)
        return false;
    memcpy(list, at, length);
    list[length] = '\0';
    return true;
}

static ZydisRegister gpr(unsigned size, unsigned id)
{
    switch (size) {
    case 1: /* the encoder's ids: AL CL DL BL, AH.., SPL.., R8B.. */
        return ZydisRegisterEncode(ZYDIS_REGCLASS_GPR8, (ZyanU8)(id < 4 ? id : id + 4));
    case 2:
        return ZydisRegisterEncode(ZYDIS_REGCLASS_GPR16, (ZyanU8)id);
    case 4:
        return ZydisRegisterEncode(ZYDIS_REGCLASS_GPR32, (ZyanU8)id);
    default:
        return ZydisRegisterEncode(ZYDIS_REGCLASS_GPR64, (ZyanU8)id);
    }
}

static unsigned size_of_letter(char letter, bool code32)
{
    switch (letter) {
    case 'b':
        return 1;
    case 'w':
        return 2;
    case 'd':
        return 4;
    case 'n':
        return code32 ? 4 : 8;
    default:
        return 8;
    }
}

/* Where an operand of `size` bytes may lie: anywhere in the data but its ends, often across the two
 * pages' border. */
static uint64_t random_address(struct random *random, const struct form *form, unsigned size)
{
    uint64_t address = HOST_DATA + 0x600 + random_below(random, 0x1400);
    if (random_below(random, 4) == 0)
        address = HOST_DATA + 0x1000 - random_below(random, size + 1u);
    if (form->flags & FORM_ALIGNED)
        address &= ~(uint64_t)15;
    return address;
}

/* Registers of an address do not include RSP as index, and avoid the ones with a given role. */
static bool choose_address(struct random *random, struct sample *sample, bool code32)
{
    unsigned count = code32 ? 8 : 16;
    sample->address32 = code32 || random_below(random, 8) == 0;
    sample->base = random_below(random, 8) == 0 ? -1 : (int)random_below(random, count);
    sample->index = random_below(random, 2) == 0 ? -1 : (int)random_below(random, count);
    if (sample->index == 4 || sample->index == sample->base)
        sample->index = -1;
    sample->scale = 1u << random_below(random, 4);
    int64_t small = (int64_t)random_below(random, 256) - 128;
    int64_t large = (int64_t)(int32_t)random_next(random);
    sample->displacement = random_below(random, 3) == 0 ? 0
                           : random_below(random, 2)    ? small
                                                        : large;
    if (sample->base < 0)
        sample->displacement = (int64_t)sample->address;
    if (sample->base < 0 && sample->index >= 0)
        sample->index = -1;
    return true;
}

static bool fill_operand(struct random *random, struct sample *sample, ZydisEncoderRequest *request,
                         ZydisEncoderOperand *op, const char *token)
{
    unsigned size = sample->size;
    unsigned bits = (unsigned)atoi(token + 1);
    if (bits != 0)
        size = bits / 8;
    unsigned count = sample->code32 ? 8 : 16;
    bool bytes_low = sample->code32 && size == 1; /* no SPL and the like without REX */
    switch (token[0]) {
    case 'r': {
        unsigned id = (unsigned)random_below(random, bytes_low ? 4 : count);
        op->type = ZYDIS_OPERAND_TYPE_REGISTER;
        op->reg.value = gpr(size, id);
        sample->source = (int)id;
        return true;
    }
    case 'h':
        op->type = ZYDIS_OPERAND_TYPE_REGISTER;
        op->reg.value = (ZydisRegister)(ZYDIS_REGISTER_AH + random_below(random, 4));
        return true;
    case 'a':
        op->type = ZYDIS_OPERAND_TYPE_REGISTER;
        op->reg.value = gpr(size, 0);
        return true;
    case 'c':
        op->type = ZYDIS_OPERAND_TYPE_REGISTER;
        op->reg.value = ZYDIS_REGISTER_CL;
        return true;
    case 'm':
        sample->has_memory = true;
        sample->address = random_address(random, sample->form, size);
        choose_address(random, sample, sample->code32);
        op->type = ZYDIS_OPERAND_TYPE_MEMORY;
        op->mem.size = (ZyanU16)size;
        op->mem.base = sample->base < 0 ? ZYDIS_REGISTER_NONE
                                        : gpr(sample->address32 ? 4 : 8, (unsigned)sample->base);
        op->mem.index = sample->index < 0 ? ZYDIS_REGISTER_NONE
                                          : gpr(sample->address32 ? 4 : 8, (unsigned)sample->index);
        op->mem.scale = sample->index < 0 ? 0 : (ZyanU8)sample->scale;
        op->mem.displacement = sample->displacement;
        return true;
    case 'i': {
        unsigned wide = size < 4 ? size : 4;
        int64_t value = (int64_t)(random_value(random) << (64 - 8 * wide)) >> (64 - 8 * wide);
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.s = value;
        return true;
    }
    case 's':
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.s = (int64_t)random_below(random, 256) - 128;
        return true;
    case 'b':
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.u = (uint8_t)random_value(random);
        return true;
    case 'w':
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.u = random_below(random, 0x100);
        return true;
    case '1':
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.u = 1;
        return true;
    case 'j':
        op->type = ZYDIS_OPERAND_TYPE_IMMEDIATE;
        op->imm.u = HOST_TARGET;
        return true;
    default:
        return false;
    }
}

static void sample_init(struct sample *sample, const struct form *form, bool code32)
{
    *sample =
        (struct sample){.form = form, .code32 = code32, .base = -1, .index = -1, .source = -1};
}

/* One register cannot hold two things that must be right: an address, a bit offset, a branch
 * target, a stack. */
static bool sample_is_sound(const struct sample *sample)
{
    unsigned flags = sample->form->flags;
    bool source_is_address =
        sample->source >= 0 && (sample->source == sample->base || sample->source == sample->index);
    if ((flags & FORM_BITSTRING) && source_is_address)
        return false;
    if ((flags & FORM_TARGET) && (sample->source == 4 || sample->base == 4))
        return false;
    return !((flags & FORM_STACK) && sample->base == 4);
}

bool sample_encode(struct random *random, const struct form *form, const char *list,
                   char size_letter, bool code32, struct sample *sample)
{
    sample_init(sample, form, code32);
    sample->size = size_of_letter(size_letter, code32);
    ZydisEncoderRequest request = {
        .machine_mode = code32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
        .mnemonic = form->mnemonic,
    };
    char copy[64];
    strncpy(copy, list, sizeof(copy) - 1);
    copy[sizeof(copy) - 1] = '\0';
    char *save = NULL;
    for (char *token = strtok_r(copy, ",", &save); token != NULL;
         token = strtok_r(NULL, ",", &save)) {
        ZydisEncoderOperand *op = &request.operands[request.operand_count++];
        if (!fill_operand(random, sample, &request, op, token))
            return false;
    }
    if ((form->flags & FORM_LOCKABLE) && sample->has_memory && random_below(random, 2) == 0)
        request.prefixes = ZYDIS_ATTRIB_HAS_LOCK;
    ZyanUSize length = sizeof(sample->bytes);
    if (!ZYAN_SUCCESS(
            ZydisEncoderEncodeInstructionAbsolute(&request, sample->bytes, &length, HOST_CODE)))
        return false;
    sample->length = length;
    return sample_is_sound(sample);
}

bool sample_encode_raw(const struct form *form, bool code32, struct sample *sample)
{
    sample_init(sample, form, code32);
    sample->size = code32 ? 4 : 8;
    const char *at = form->sizes;
    while (*at != '\0' && sample->length < sizeof(sample->bytes)) {
        char *end;
        sample->bytes[sample->length++] = (uint8_t)strtoul(at, &end, 16);
        at = end;
    }
    return sample->length != 0;
}

#define STATUS_FLAGS 0x8d5u
#define DIRECTION    0x400u

/* So that base + index * scale + displacement is the address. */
static void place_address(const struct sample *sample, struct host_state *state)
{
    if (sample->base < 0)
        return;
    uint64_t rest = (uint64_t)sample->displacement;
    if (sample->index >= 0) {
        if (!sample->address32)
            state->gpr[sample->index] &= 0xffffffffffff; /* nothing against wild ones, either */
        rest += state->gpr[sample->index] * sample->scale;
    }
    uint64_t base = sample->address - rest;
    if (sample->address32 && !sample->code32)
        base = (base & 0xffffffff) | (state->gpr[sample->base] & 0xffffffff00000000);
    state->gpr[sample->base] = base;
}

static void choose_division(struct random *random, struct host_state *state)
{
    uint64_t choice = random_below(random, 4);
    if (choice == 0)
        state->gpr[2] = 0;
    else if (choice == 1)
        state->gpr[2] = (uint64_t)((int64_t)state->gpr[0] >> 63);
    else if (choice == 2)
        state->gpr[2] = random_below(random, 16);
    if (random_below(random, 2) == 0)
        state->gpr[0] &= 0xff; /* AH is the upper half of a byte division */
}

static void choose_string(struct random *random, const struct sample *sample,
                          struct host_state *state)
{
    uint64_t high = sample->code32 ? 0 : random_next(random) << 32;
    bool address32 = memchr(sample->bytes, 0x67, 2) != NULL;
    state->gpr[1] =
        random_below(random, 4) == 0 ? random_below(random, 3) : random_below(random, 80);
    state->gpr[6] = HOST_DATA + 0xd00 + random_below(random, 0x600);
    state->gpr[7] = HOST_DATA + 0xd00 + random_below(random, 0x600);
    if (random_below(random, 3) == 0) /* overlapping */
        state->gpr[7] = state->gpr[6] + random_below(random, 33) - 16;
    if (address32) {
        state->gpr[1] |= high;
        state->gpr[6] |= high;
        state->gpr[7] |= high;
    }
}

static void put(uint8_t *at, uint64_t value, unsigned size)
{
    memcpy(at, &value, size);
}

void sample_inputs(struct random *random, const struct sample *sample, struct host_state *state,
                   uint8_t *data, uint8_t *stack)
{
    unsigned flags = sample->form->flags;
    uint8_t *operand = sample->has_memory ? data + (sample->address - HOST_DATA) : NULL;
    for (unsigned i = 0; i < 16; i++)
        state->gpr[i] = random_value(random);
    state->gpr[4] = HOST_STACK + 0x800;
    state->rflags = 2 | (random_next(random) & (STATUS_FLAGS | DIRECTION));
    if (operand != NULL) {
        put(operand, random_value(random), 8);
        put(operand + 8, random_value(random), 8);
    }
    if (flags & FORM_DIVIDE)
        choose_division(random, state);
    if (flags & FORM_STRING)
        choose_string(random, sample, state);
    if (flags & FORM_STRING && random_below(random, 3) == 0) /* runs of equal bytes */
        memset(data + 0xc00, (int)random_below(random, 2), 0x800);
    if (flags & FORM_FRAME)
        state->gpr[5] = HOST_STACK + 0xa00 + 8 * random_below(random, 8);
    if (flags & FORM_TABLE)
        state->gpr[3] = HOST_DATA + random_below(random, 0x100);
    if (flags & FORM_BITSTRING) {
        int64_t offset = (int64_t)random_below(random, 0x4000) - 0x2000;
        uint64_t mask = sample->size == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * sample->size) - 1;
        state->gpr[sample->source] =
            ((uint64_t)offset & mask) | (state->gpr[sample->source] & ~mask);
    }
    if (flags & FORM_COMPARE && random_below(random, 2) == 0) {
        if (operand != NULL) {
            memcpy(&state->gpr[0], operand, 8);
            memcpy(&state->gpr[2],
                   operand + (sample->form->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B ? 4 : 8), 8);
        } else {
            state->gpr[0] = state->gpr[random_below(random, 16)];
        }
    }
    if (flags & FORM_FLAGS_ON_STACK)
        put(stack + 0x800, random_next(random) & (STATUS_FLAGS | DIRECTION | 0x4202), 8);
    if (flags & FORM_TARGET) {
        put(stack + 0x800, HOST_TARGET, 8);
        if (operand != NULL)
            put(operand, HOST_TARGET, 8);
        else if (sample->source >= 0)
            state->gpr[sample->source] = HOST_TARGET;
    }
    if (sample->code32)
        for (unsigned i = 0; i < 16; i++)
            state->gpr[i] &= 0xffffffff;
    if (sample->has_memory)
        place_address(sample, state);
    if (sample->code32)
        for (unsigned i = 0; i < 16; i++)
            state->gpr[i] &= 0xffffffff;
}
