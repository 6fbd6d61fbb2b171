/* See splice.h. */

#include "cpu/translate/splice.h"

/* What canonical.c has written: a legacy instruction is [66] [F2] [F3] [REX] 0F [38|3A] opcode
 * ModRM [imm8], a VEX one C4, two bytes, opcode ModRM [imm8]. */

static bool take_modrm(struct splice_parts *p, const uint8_t *at, const uint8_t *end, unsigned r,
                       unsigned b)
{
    if (end - at < 1 || end - at > 2)
        return false;
    p->is_memory = *at < 0xc0;
    p->reg = r << 3 | (*at >> 3 & 7);
    p->rm = b << 3 | (*at & 7);
    p->has_immediate = end - at == 2;
    p->immediate = p->has_immediate ? at[1] : 0;
    return true;
}

static bool take_legacy(struct splice_parts *p, const uint8_t *at, const uint8_t *end)
{
    unsigned rex = 0;
    for (; at < end && (*at == 0x66 || *at == 0xf2 || *at == 0xf3); at++)
        p->flags |= *at == 0x66 ? EMIT_66 : *at == 0xf2 ? EMIT_F2 : EMIT_F3;
    if (at < end && (*at & 0xf0) == 0x40)
        rex = *at++;
    if (end - at < 3 || *at++ != 0x0f)
        return false;
    p->flags |= rex & 8 ? EMIT_W : 0;
    p->opcode = 0x0f00u | *at++;
    if (p->opcode == 0x0f38 || p->opcode == 0x0f3a)
        p->opcode = p->opcode << 8 | *at++;
    return take_modrm(p, at, end, rex >> 2 & 1, rex & 1);
}

static bool take_vex(struct splice_parts *p, const uint8_t *at, const uint8_t *end)
{
    if (end - at < 5 || at[0] != 0xc4)
        return false;
    p->vex = (struct vex){
        .map = at[1] & 31,
        .pp = at[2] & 3,
        .w = at[2] >> 7,
        .l = at[2] >> 2 & 1,
        .opcode = at[3],
    };
    p->vvvv = ~at[2] >> 3 & 15;
    return take_modrm(p, at + 4, end, ~at[1] >> 7 & 1, ~at[1] >> 5 & 1);
}

bool splice_parse(struct splice_parts *parts, const uint8_t *canonical, unsigned length,
                  bool is_vex)
{
    *parts = (struct splice_parts){.is_vex = is_vex};
    return is_vex ? take_vex(parts, canonical, canonical + length)
                  : take_legacy(parts, canonical, canonical + length);
}

static unsigned field(unsigned wanted, unsigned canonical)
{
    return wanted != SPLICE_KEEP ? wanted : canonical;
}

void splice_emit(struct emit *e, const struct splice_parts *p, const struct splice *splice)
{
    unsigned reg = field(splice->reg, p->reg);
    struct emit_rm rm = splice->rm;
    rm.reg = (uint8_t)field(rm.reg, p->rm);
    if (p->is_vex)
        emit_vex(e, p->vex, reg, field(splice->vvvv, p->vvvv), rm);
    else
        emit_op(e, p->flags | (splice->is_byte_rm ? EMIT_BYTE_RM : 0u), p->opcode, reg, rm);
    if (splice->is4 != SPLICE_KEEP)
        emit_u8(e, (unsigned)splice->is4 << 4 | (p->immediate & 15));
    else if (p->has_immediate)
        emit_u8(e, p->immediate);
}
