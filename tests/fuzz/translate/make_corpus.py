#!/usr/bin/env python3
"""Writes what fuzz_translate begins with: small programs in its input's form, made with GNU as.

    tests/fuzz/translate/make_corpus.py DIRECTORY
"""

import os
import subprocess
import sys
import tempfile

CPL0, LOCKSTEP, WITHOUT_RORX, SMAP, HANDLES, ALIGNMENT, COLD = (1 << n for n in range(7))
DATA, EDGE, CODE, CONST, LAST, KERNEL, ALIAS, CODE_ALIAS, STACK = range(9)
SMALL, NEGATIVE, BIT, COUNT = 9, 10, 11, 12

# Name: options, byte of the placement, registers, code. A handler is at 0x60, SYSCALL leads to 0x40.
PROGRAMS = {
    "loop-bytes": (COLD, 0, {"rdi": EDGE, "rcx": COUNT}, """
        1: movzx eax, byte ptr [rdi]; add rbx, rax; mov [rdi+1], bl; inc rdi; dec rcx; jnz 1b"""),
    "loop-vector": (0, 0, {"rdi": EDGE, "rsi": DATA, "rcx": COUNT}, """
        1: movups xmm0, [rdi]; paddd xmm0, xmm1; movups [rsi], xmm0; add rdi, 16; add rsi, 16
        sub rcx, 8; ja 1b"""),
    "loop-down": (4, 0, {"rdi": EDGE, "rsi": DATA, "rcx": COUNT}, """
        1: mov eax, [rdi+rcx*4-4]; xor [rsi+rcx*4-4], eax; dec rcx; jne 1b"""),
    "loop-near": (0, 0, {"rdi": DATA, "rcx": COUNT | 0xf0}, """
        1: mov rax, [rdi+60]; add rax, [rdi+100]; mov [rdi], rax; add rdi, 24; mov [rdi+24], bl
        add rbx, rax; add rdi, 8; inc r8; cmp r8, rcx; jb 1b"""),
    "loop-branches": (0, 9, {"rdi": DATA, "rcx": COUNT}, """
        1: test byte ptr [rdi], 1; jz 2f; add rax, [rdi]; jmp 3f; 2: adc rbx, 5; 3: add rdi, 8
        cmp rdi, rcx; dec rcx; jnz 1b; ud2"""),
    "loop-nested": (LOCKSTEP, 0, {"rcx": SMALL | 0xf0}, """
        1: mov edx, 9; 2: lea rax, [rax+rax*2+1]; dec edx; jnz 2b; dec rcx; jnz 1b"""),
    "calls": (0, 200, {"rcx": SMALL | 0xf0}, """
        1: call 2f; dec rcx; jnz 1b; int3; 2: push rbx; push rbp; mov rbp, rsp; sub rsp, 32
        mov [rbp-8], rcx; add rbx, [rbp-8]; leave; pop rax; ret"""),
    "indirect": (0, 0, {"rcx": SMALL | 0xf0}, """
        lea rbx, [rip+2f]; 1: call rbx; dec rcx; jnz 1b; hlt; 2: lea rdx, [rip+3f]; jmp rdx
        3: inc rsi; ret"""),
    "runs": (COLD, 0, {"rdi": EDGE, "rsi": DATA}, """
        mov rax, [rdi+8]; mov [rdi+16], rax; mov rbx, [rdi+112]; mov [rdi+124], rbx
        push rax; push rbx; pop rcx; pop rdx; mov [rsi], rax; lock add [rsi+8], rdx
        mov [rsi+r8*8+3], rcx; mov rdx, [rsi+r8*8+11]"""),
    "strings": (0, 0, {"rdi": DATA, "rsi": EDGE, "rcx": SMALL | 0xf0}, """
        rep movsb; mov ecx, 40; rep stosq; mov ecx, 0x300; rep movsd; std; mov ecx, 5; rep stosw
        mov ecx, 99; lea rsi, [rdi+4]; cld; rep movsw; repne scasb; repe cmpsb; lodsq
        rep stosb; mov rcx, -1; rep stosb"""),
    "bits": (0, 0, {"rdi": DATA, "rsi": EDGE, "rax": NEGATIVE | 0x70, "rcx": SMALL | 0x90}, """
        bt [rdi+512], rax; bts [rdi+512], eax; lock btc [rdi+516], rcx; btr [rsi], rcx; setc bl
        lock bts [rdi+1], ecx; mov ecx, 4321; lock btc [rdi+516], rcx; neg ecx
        lock btr [rdi+616], ecx; bts [rdi+800], ecx; lock bts [rdi+642], ecx; cmpxchg8b [rdi+8]; lock cmpxchg16b [rdi+16]; cmpxchg16b [rsi+16]
        lock xadd [rsi+61], rcx; lock cmpxchg [rsi+125], rcx; xchg [rsi+62], eax"""),
    "divide": (0, 0, {"rbx": SMALL | 0x30, "rax": COUNT, "rdx": SMALL, "rdi": DATA}, """
        div rbx; cqo; idiv dword ptr [rdi]; cdq; idiv ebx; neg rbx; imul rax, rbx, 77; cqo
        idiv rbx; or rbx, -1; mov eax, 7; cqo; idiv rbx
        mov eax, 0x80000000; cdq; mov edi, -1; idiv edi; mov rdx, rbx; div rbx"""),
    "high-bytes": (0, 0, {"rdi": DATA}, """
        mov ah, bl; add dh, al; movzx ecx, bh; test ah, 4; adc ch, 1; xor al, dh; cmp bh, ch
        setg [rdi]; movsx edx, ah; mov [rdi+4], dh; sbb al, ah"""),
    "high-carry": (0, 0, {"rcx": SMALL | 0xf0}, """
        1: adc ah, bl; sbb dh, ah; add al, 77; jmp 2f; 2: adc bh, 3; dec ecx; jnz 1b"""),
    "flags": (0, 0, {"rdi": DATA}, """
        and eax, 7; mov rcx, [rdi]; jz 1f; add rcx, rax; mov rbx, [rdi+8]; jc 1f; inc rbx
        mov [rdi], rbx; jo 1f; rol rcx, 3; mov rcx, [rdi+4096]; adc rax, rcx; pushfq; pop rdx
        1: sub eax, ebx; mov [rdi], al; pushfq; lahf; cmc; sbb rsi, rsi"""),
    "vectors": (0, 0, {"rdi": DATA, "rsi": LAST}, """
        movaps xmm1, [rdi]; vaddps ymm2, ymm1, [rdi+32]; vmovups [rdi+64], ymm2; pxor xmm3, xmm3
        cvtsi2sd xmm4, rax; divsd xmm4, xmm1; movq rbx, xmm4; pmovmskb ecx, xmm2; vzeroupper
        movaps xmm5, [rdi+8]"""),
    "new-code": (0, 0, {"rdi": CODE, "rsi": CODE_ALIAS, "rcx": SMALL | 0x50}, """
        1: lea rdi, [rip+2f]; mov byte ptr [rdi+1], cl; 2: mov al, 0; add rbx, rax; dec rcx
        jnz 1b; lea rdi, [rip+3f]; mov dword ptr [rdi], 0x90909090; 3: ud2; ud2; int3"""),
    "new-code-string": (CPL0, 0, {"rdi": CODE_ALIAS}, """
        lea rdi, [rip+1f+0x15000]; mov eax, 0x90; mov ecx, 4; rep stosb; 1: ud2; ud2; inc rbx
        hlt"""),
    "system": (CPL0, 0, {"rdi": DATA}, """
        cli; pushfq; sti; pop rax; cld; std; swapgs; rdgsbase rbx; wrfsbase rdi; mov fs:[8], rbx
        mov rax, cr0; mov rdx, cr3; mov rcx, cr4; mov ax, ds; mov ecx, 0xc0000102; rdmsr
        add eax, 16; wrmsr; swapgs; mov gs:[0], rdx; lfence; mfence; pause; cpuid; sti; hlt"""),
    "smap": (CPL0 | SMAP, 0, {"rdi": DATA, "rsi": KERNEL}, """
        stac; mov rax, [rdi]; mov [rdi+8], rax; clac; mov [rsi], rax; stac; mov ecx, 9
        rep stosb; clac; mov rax, [rdi]"""),
    "syscall": (0, 0, {"r12": SMALL | 0x40}, """
        1: syscall; dec r12; jnz 1b; mov rax, [rbx]; int3; .org 0x40; swapgs; mov rax, gs:[0]
        inc r13; swapgs; sysretq"""),
    "handler": (HANDLES, 0, {"rdi": CONST, "r12": SMALL | 0x40}, """
        1: mov [rdi], rax; ud2; dec r12; jnz 1b; .org 0x60; mov rax, [rsp+24]; inc r13
        add qword ptr [rsp], 3; cmp r13, 12; ja 2f; iretq; 2: hlt"""),
    "interrupt": (HANDLES, 0, {"r12": SMALL | 0x40}, """
        1: int 0x80; dec r12; jnz 1b; hlt; .org 0x60; add rax, r12; push rax; pop rbx; iretq"""),
    "page-tables": (CPL0, 0, {"rdi": DATA}, """
        mov rax, [rdi]; mov rbx, [0x6000+0x18*8]; mov dword ptr [0x6000+0x18*8], 0x1c007
        mov rcx, [rdi]; invlpg [rdi]; mov rdx, [rdi]; mov [0x6000+0x18*8], rbx; mov rax, cr3
        mov cr3, rax; mov rsi, [rdi]; and byte ptr [0x6000+0x10*8], 0xfe; invlpg [rip]; nop"""),
    "compatibility": (CPL0, 0, {}, """
        lea rax, [rip+1f]; push 0x10; push rax; retfq; 1: .byte 0x40, 0x40; nop; ljmp [0x1c000]"""),
    "debug": (CPL0, 0, {"rdi": DATA}, """
        mov dr0, rdi; mov eax, 0xd0001; mov dr7, rax; mov rbx, [rdi+8]; inc rbx; mov [rdi], bl
        pushfq; or dword ptr [rsp], 0x100; popfq; nop; nop"""),
    "crossing": (ALIGNMENT, 240, {"rdi": EDGE}, """
        .rept 4; mov rax, 0x1122334455667788; add rbx, rax; jmp 1f; 1: nop; .endr
        mov [rdi+121], rbx; mov eax, [rdi+126]"""),
}

REGISTERS = ("rax rcx rdx rbx rsp rbp rsi rdi " + " ".join(f"r{n}" for n in range(8, 16))).split()


def assemble(text, folder):
    source, result, binary = (os.path.join(folder, name) for name in ("a.s", "a.o", "a.bin"))
    with open(source, "w", encoding="ascii") as stream:
        stream.write(".intel_syntax noprefix\n" + text.replace(";", "\n") + "\n")
    subprocess.run(["as", "-o", result, source], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", result, binary], check=True)
    with open(binary, "rb") as stream:
        return stream.read()


def main():
    target = sys.argv[1]
    os.makedirs(target, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (options, at, registers, text) in PROGRAMS.items():
            values = bytes(registers.get(register, SMALL) for register in REGISTERS)
            with open(os.path.join(target, name), "wb") as stream:
                stream.write(bytes((options, at, 33)) + values + assemble(text, folder))


if __name__ == "__main__":
    main()
