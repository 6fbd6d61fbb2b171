#ifndef AEROSTAT_CPU_INTERP_INTERP_H
#define AEROSTAT_CPU_INTERP_INTERP_H

/* Inside the interpreter: its parts, and the handlers that table.c names. */

#include "cpu/insn.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/*
 * A family is a group of mnemonics whose handler is chosen by the operands, once, at decode time.
 * `exec` is what the table of handlers names (and works by itself); `bind` gives the handler that
 * is made for just these operands.
 */
typedef insn_fn *insn_bind_fn(const struct insn *insn);
struct insn_family {
    insn_fn *exec;
    insn_bind_fn *bind;
};
extern const struct insn_family integer_families[]; /* ends with a NULL exec */

insn_bind_fn alu_bind, unary_bind, shift_bind, mov_bind, extend_bind, lea_bind, push_bind, pop_bind,
    jcc_bind;

/* alu.c */
insn_fn exec_alu, exec_unary;
/* multiply.c */
insn_fn exec_mul, exec_imul, exec_div, exec_idiv;
/* decimal.c */
insn_fn exec_daa, exec_das, exec_aaa, exec_aas, exec_aam, exec_aad;
/* shift.c */
insn_fn exec_shift, exec_shld, exec_shrd;
/* bitops.c */
insn_fn exec_bt, exec_bit_scan;
/* atomic.c */
insn_fn exec_xchg, exec_xadd, exec_cmpxchg, exec_cmpxchg8b, exec_cmpxchg16b;
/* move.c */
insn_fn exec_mov, exec_extend, exec_cmovcc, exec_setcc, exec_lea, exec_bswap, exec_movbe,
    exec_convert, exec_convert_double, exec_xlat;
/* stack.c */
insn_fn exec_push, exec_pop, exec_pusha, exec_popa, exec_enter, exec_leave;
/* flagops.c */
insn_fn exec_pushf, exec_popf, exec_lahf, exec_sahf, exec_clc, exec_stc, exec_cmc, exec_cld,
    exec_std, exec_salc;
/* branch.c */
insn_fn exec_jcc, exec_jmp, exec_call, exec_ret, exec_loop, exec_jcxz;
/* string.c */
insn_fn exec_movs, exec_stos, exec_lods, exec_scas, exec_cmps;
/* hint.c */
insn_fn exec_nop, exec_pause, exec_fence, exec_clflush;
/* decode.c: what an instruction that cannot be executed runs */
insn_fn exec_undefined, exec_too_long;

#endif
