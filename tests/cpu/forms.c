/* clang-format off */

#include "forms.h"

#define LOCKABLE  FORM_LOCKABLE
#define FORM(name, sizes, operands, flags, undefined)                                              \
    {#name, sizes, operands, ZYDIS_MNEMONIC_##name, flags, undefined},
#define RAW(name, bytes, flags, undefined)                                                         \
    {name, bytes, "", ZYDIS_MNEMONIC_INVALID, flags, undefined},

#define CF 0x001
#define PF 0x004
#define AF 0x010
#define ZF 0x040
#define SF 0x080
#define OF 0x800

#define ALU_OPERANDS   "r,r|r,m|m,r|r,i|m,i|r,s|m,s|a,i"
#define ALU_OPERANDS_B "r,r|r,m|m,r|r,i|m,i|a,i|h,h|h,i|h,m|m,h"
#define ALU(name, flags)                                                                           \
    FORM(name, "wdq", ALU_OPERANDS, flags, 0) FORM(name, "b", ALU_OPERANDS_B, flags, 0)
#define UNARY(name) FORM(name, "wdq", "r|m", LOCKABLE, 0) FORM(name, "b", "r|m|h", LOCKABLE, 0)
/* By an immediate other than 1, OF is undefined, and not what the host leaves for the same CL. */
#define SHIFT(name)                                                                                \
    FORM(name, "wdq", "r,c|m,c|r,1|m,1", 0, 0) FORM(name, "b", "r,c|m,c|r,1|m,1|h,c", 0, 0)        \
    FORM(name, "wdq", "r,b|m,b", 0, OF) FORM(name, "b", "r,b|m,b|h,b", 0, OF)
#define BIT(name, flags)                                                                           \
    FORM(name, "wdq", "r,r|r,b|m,b", flags, 0) FORM(name, "wdq", "m,r", (flags) | FORM_BITSTRING, 0)
#define SCAN(name)     FORM(name, "wdq", "r,r|r,m", 0, 0)
#define CONDITION(set, cmov, jump)                                                                 \
    FORM(set, "b", "r|m|h", 0, 0) FORM(cmov, "wdq", "r,r|r,m", 0, 0) FORM(jump, "n", "j", 0, 0)
#define STRING(name, opcode, wide)                                                                 \
    RAW(name "b", opcode, FORM_STRING, 0)                                                          \
    RAW(name "b rep", "f3 " opcode, FORM_STRING, 0)                                                \
    RAW(name "b repne", "f2 " opcode, FORM_STRING, 0)                                              \
    RAW(name "w", "66 " wide, FORM_STRING, 0)                                                      \
    RAW(name "w rep", "66 f3 " wide, FORM_STRING, 0)                                               \
    RAW(name "w repne", "f2 66 " wide, FORM_STRING, 0)                                             \
    RAW(name "d", wide, FORM_STRING, 0)                                                            \
    RAW(name "d rep", "f3 " wide, FORM_STRING, 0)                                                  \
    RAW(name "d repne", "f2 " wide, FORM_STRING, 0)                                                \
    RAW(name "q", "48 " wide, FORM_STRING | FORM_ONLY64, 0)                                        \
    RAW(name "q rep", "f3 48 " wide, FORM_STRING | FORM_ONLY64, 0)                                 \
    RAW(name "q repne", "f2 48 " wide, FORM_STRING | FORM_ONLY64, 0)                               \
    RAW(name "b a32", "67 " opcode, FORM_STRING | FORM_ONLY64, 0)                                  \
    RAW(name "d rep a32", "67 f3 " wide, FORM_STRING | FORM_ONLY64 | FORM_INTEL, 0)                \
    RAW(name "d repne a32", "67 f2 " wide, FORM_STRING | FORM_ONLY64 | FORM_INTEL, 0)

const struct form forms[] = {
    /* arithmetic and logic */
    ALU(ADD, LOCKABLE)
    ALU(OR, LOCKABLE)
    ALU(ADC, LOCKABLE)
    ALU(SBB, LOCKABLE)
    ALU(AND, LOCKABLE)
    ALU(SUB, LOCKABLE)
    ALU(XOR, LOCKABLE)
    ALU(CMP, 0)
    FORM(TEST, "wdq", "r,r|m,r|r,i|m,i|a,i", 0, 0)
    FORM(TEST, "b", "r,r|m,r|r,i|m,i|a,i|h,h|m,h", 0, 0)
    UNARY(INC)
    UNARY(DEC)
    UNARY(NEG)
    UNARY(NOT)
    FORM(MUL, "wdq", "r|m", 0, 0)
    FORM(MUL, "b", "r|m|h", 0, 0)
    FORM(IMUL, "wdq", "r|m|r,r|r,m|r,r,i|r,m,i|r,r,s|r,m,s", 0, 0)
    FORM(IMUL, "b", "r|m|h", 0, 0)
    FORM(DIV, "wdq", "r|m", FORM_DIVIDE, 0)
    FORM(DIV, "b", "r|m|h", FORM_DIVIDE, 0)
    FORM(IDIV, "wdq", "r|m", FORM_DIVIDE, 0)
    FORM(IDIV, "b", "r|m|h", FORM_DIVIDE, 0)
    RAW("daa", "27", FORM_ONLY32, OF)
    RAW("das", "2f", FORM_ONLY32, OF)
    RAW("aaa", "37", FORM_ONLY32, OF | SF | ZF | PF)
    RAW("aas", "3f", FORM_ONLY32, OF | SF | ZF | PF)
    RAW("aam 10", "d4 0a", FORM_ONLY32, OF | AF | CF)
    RAW("aam 7", "d4 07", FORM_ONLY32, OF | AF | CF)
    RAW("aam 0", "d4 00", FORM_ONLY32, OF | SF | ZF | AF | PF | CF)
    RAW("aad 10", "d5 0a", FORM_ONLY32, OF | AF | CF)
    RAW("aad 255", "d5 ff", FORM_ONLY32, OF | AF | CF)
    RAW("inc eax", "40", FORM_ONLY32, 0)
    RAW("dec di", "66 4f", FORM_ONLY32, 0)
    RAW("add al, 0x7f (82)", "82 c0 7f", FORM_ONLY32, 0)
    RAW("test al, 0x12 (f6 /1)", "f6 c8 12", 0, 0)

    /* shifts, rotates, bits */
    SHIFT(SHL)
    SHIFT(SHR)
    SHIFT(SAR)
    SHIFT(ROL)
    SHIFT(ROR)
    SHIFT(RCL)
    SHIFT(RCR)
    RAW("sal eax, 3 (c1 /6)", "c1 f0 03", 0, 0)
    FORM(SHLD, "wdq", "r,r,b|m,r,b|r,r,c|m,r,c", 0, 0)
    FORM(SHRD, "wdq", "r,r,b|m,r,b|r,r,c|m,r,c", 0, 0)
    BIT(BT, 0)
    BIT(BTS, LOCKABLE)
    BIT(BTR, LOCKABLE)
    BIT(BTC, LOCKABLE)
    SCAN(BSF)
    SCAN(BSR)
    SCAN(TZCNT)
    SCAN(LZCNT)
    SCAN(POPCNT)

    /* exchanges */
    FORM(XCHG, "wdq", "r,r|m,r|a,r", LOCKABLE, 0)
    FORM(XCHG, "b", "r,r|m,r|h,h|m,h", LOCKABLE, 0)
    FORM(XADD, "wdq", "r,r|m,r", LOCKABLE, 0)
    FORM(XADD, "b", "r,r|m,r|h,h|m,h", LOCKABLE, 0)
    FORM(CMPXCHG, "wdq", "r,r|m,r", LOCKABLE | FORM_COMPARE, 0)
    FORM(CMPXCHG, "b", "r,r|m,r|h,h|m,h", LOCKABLE | FORM_COMPARE, 0)
    FORM(CMPXCHG8B, "q", "m64", LOCKABLE | FORM_COMPARE, 0)
    FORM(CMPXCHG16B, "q", "m128", LOCKABLE | FORM_COMPARE | FORM_ALIGNED | FORM_ONLY64, 0)
    FORM(CMPXCHG16B, "q", "m128", LOCKABLE | FORM_COMPARE | FORM_ONLY64, 0)

    /* moves */
    FORM(MOV, "wdq", "r,r|r,m|m,r|r,i|m,i", 0, 0)
    FORM(MOV, "b", "r,r|r,m|m,r|r,i|m,i|h,h|h,m|m,h|h,i", 0, 0)
    RAW("movabs rax, imm64", "48 b8 01 23 45 67 89 ab cd ef", FORM_ONLY64, 0)
    RAW("mov al, moffs", "a0 08 00 01 20 00 00 00 00", FORM_ONLY64, 0)
    RAW("mov eax, moffs", "a1 08 00 01 20 00 00 00 00", FORM_ONLY64, 0)
    RAW("mov rax, moffs", "48 a1 08 00 01 20 00 00 00 00", FORM_ONLY64, 0)
    RAW("mov moffs, ax", "66 a3 08 00 01 20 00 00 00 00", FORM_ONLY64, 0)
    RAW("mov moffs, rax", "48 a3 08 00 01 20 00 00 00 00", FORM_ONLY64, 0)
    RAW("mov moffs32, eax", "67 a3 08 00 01 20", FORM_ONLY64, 0)
    RAW("mov eax, moffs32", "a1 08 00 01 20", FORM_ONLY32, 0)
    FORM(MOVZX, "wdq", "r,r8|r,m8|r,r16|r,m16", 0, 0)
    FORM(MOVZX, "wd", "r,h", 0, 0)
    FORM(MOVSX, "wdq", "r,r8|r,m8|r,r16|r,m16", 0, 0)
    FORM(MOVSX, "wd", "r,h", 0, 0)
    FORM(MOVSXD, "q", "r,r32|r,m32", FORM_ONLY64, 0)
    RAW("movsxd eax, ecx", "63 c1", FORM_ONLY64, 0)
    FORM(LEA, "wdq", "r,m", 0, 0)
    FORM(BSWAP, "dq", "r", 0, 0)
    FORM(MOVBE, "wdq", "r,m|m,r", 0, 0)
    FORM(CBW, "w", "", 0, 0)
    FORM(CWDE, "d", "", 0, 0)
    FORM(CDQE, "q", "", FORM_ONLY64, 0)
    FORM(CWD, "w", "", 0, 0)
    FORM(CDQ, "d", "", 0, 0)
    FORM(CQO, "q", "", FORM_ONLY64, 0)
    RAW("xlat", "d7", FORM_TABLE, 0)
    RAW("xlat a32", "67 d7", FORM_TABLE | FORM_ONLY64, 0)
    CONDITION(SETO, CMOVO, JO)
    CONDITION(SETNO, CMOVNO, JNO)
    CONDITION(SETB, CMOVB, JB)
    CONDITION(SETNB, CMOVNB, JNB)
    CONDITION(SETZ, CMOVZ, JZ)
    CONDITION(SETNZ, CMOVNZ, JNZ)
    CONDITION(SETBE, CMOVBE, JBE)
    CONDITION(SETNBE, CMOVNBE, JNBE)
    CONDITION(SETS, CMOVS, JS)
    CONDITION(SETNS, CMOVNS, JNS)
    CONDITION(SETP, CMOVP, JP)
    CONDITION(SETNP, CMOVNP, JNP)
    CONDITION(SETL, CMOVL, JL)
    CONDITION(SETNL, CMOVNL, JNL)
    CONDITION(SETLE, CMOVLE, JLE)
    CONDITION(SETNLE, CMOVNLE, JNLE)
    RAW("jz near", "0f 84 5a 00 00 00", 0, 0)
    RAW("jnz near, 66", "66 0f 85 59 00 00 00", FORM_ONLY64 | FORM_INTEL, 0)

    /* stack and flags */
    FORM(PUSH, "wdq", "r|m|i|s", FORM_STACK, 0)
    FORM(POP, "wdq", "r|m", FORM_STACK, 0)
    RAW("push rsp", "54", 0, 0)
    RAW("pop rsp", "5c", 0, 0)
    RAW("push [rsp]", "ff 34 24", 0, 0)
    RAW("pop [rsp]", "8f 04 24", 0, 0)
    RAW("pop [rsp + 16]", "8f 44 24 10", 0, 0)
    RAW("pusha", "60", FORM_ONLY32, 0)
    RAW("pusha 16", "66 60", FORM_ONLY32, 0)
    RAW("popa", "61", FORM_ONLY32, 0)
    RAW("popa 16", "66 61", FORM_ONLY32, 0)
    RAW("enter 0x20, 0", "c8 20 00 00", FORM_FRAME, 0)
    RAW("enter 0x20, 1", "c8 20 00 01", FORM_FRAME, 0)
    RAW("enter 0x10, 5", "c8 10 00 05", FORM_FRAME, 0)
    RAW("enter 0x10, 37", "c8 10 00 25", FORM_FRAME, 0)
    RAW("leave", "c9", FORM_FRAME, 0)
    RAW("leave 16", "66 c9", FORM_FRAME | FORM_ONLY64, 0)
    RAW("pushf", "9c", 0, 0)
    RAW("pushf 16", "66 9c", 0, 0)
    RAW("popf", "9d", FORM_FLAGS_ON_STACK, 0)
    RAW("popf 16", "66 9d", FORM_FLAGS_ON_STACK, 0)
    FORM(LAHF, "b", "", 0, 0)
    FORM(SAHF, "b", "", 0, 0)
    FORM(CLC, "b", "", 0, 0)
    FORM(STC, "b", "", 0, 0)
    FORM(CMC, "b", "", 0, 0)
    FORM(CLD, "b", "", 0, 0)
    FORM(STD, "b", "", 0, 0)
    RAW("salc", "d6", FORM_ONLY32, 0)

    /* near branches */
    FORM(JMP, "n", "j", 0, 0)
    RAW("jmp near", "e9 5b 00 00 00", 0, 0)
    RAW("jmp near, 66", "66 e9 5a 00 00 00", FORM_ONLY64 | FORM_INTEL, 0)
    FORM(JMP, "n", "r|m", FORM_TARGET, 0)
    FORM(CALL, "n", "j", 0, 0)
    FORM(CALL, "n", "r|m", FORM_TARGET, 0)
    FORM(RET, "n", "|w", FORM_TARGET, 0)
    FORM(LOOP, "n", "j", FORM_STRING, 0)
    FORM(LOOPE, "n", "j", FORM_STRING, 0)
    FORM(LOOPNE, "n", "j", FORM_STRING, 0)
    RAW("loop a32", "67 e2 5d", FORM_STRING | FORM_ONLY64, 0)
    RAW("jrcxz", "e3 5e", FORM_STRING, 0)
    RAW("jecxz", "67 e3 5d", FORM_STRING | FORM_ONLY64, 0)

    /* strings */
    STRING("movs", "a4", "a5")
    STRING("stos", "aa", "ab")
    STRING("lods", "ac", "ad")
    STRING("scas", "ae", "af")
    STRING("cmps", "a6", "a7")
    RAW("movsb rep es:", "26 f3 a4", FORM_STRING, 0)

    /* hints */
    RAW("nop", "90", 0, 0)
    RAW("nop modrm", "0f 1f 44 00 00", 0, 0)
    RAW("endbr64", "f3 0f 1e fa", 0, 0)
    RAW("rdsspq, a nop", "f3 48 0f 1e c8", FORM_ONLY64, 0)
    RAW("pause", "f3 90", 0, 0)
    RAW("prefetcht0 [rax]", "0f 18 08", 0, 0)
    RAW("prefetchw [rax]", "0f 0d 08", 0, 0)
    RAW("nop 0f 18 register", "0f 18 c0", 0, 0)
    RAW("nop 0f 19", "0f 19 c0", 0, 0)
    RAW("nop 0f 1a", "0f 1a c0", 0, 0)
    RAW("nop 0f 1c", "0f 1c c0", 0, 0)
    RAW("nop 0f 0d register", "0f 0d c0", 0, 0)
    RAW("lfence", "0f ae e8", 0, 0)
    RAW("mfence", "0f ae f0", 0, 0)
    RAW("sfence", "0f ae f8", 0, 0)
    RAW("clflush data", "0f ae 3c 25 00 00 01 20", FORM_ONLY64, 0)
    RAW("ud2", "0f 0b", 0, 0)
    RAW("ud1", "0f b9 c0", 0, 0)
    RAW("ud0", "0f ff c0", 0, 0)
    RAW("lock with a register", "f0 01 c0", 0, 0)
    RAW("lock mov", "f0 89 04 25 00 00 01 20", FORM_ONLY64, 0)
    RAW("lock cmp", "f0 39 04 25 00 00 01 20", FORM_ONLY64, 0)
    RAW("lock nop", "f0 90", 0, 0)
    RAW("lea with a register", "8d c0", 0, 0)
    RAW("bswap ax", "66 0f c8", FORM_INTEL, 0)
};

const unsigned form_count = sizeof(forms) / sizeof(forms[0]);
