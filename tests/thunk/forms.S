/*
 * Instruction forms that are run both through a thunk and directly on the host; see
 * differential_test.c. One `form` line joins a form; the macros below make several at once. The
 * memory operand is [rbx], or implicit; RSP may not be used. `feature NAME` starts the forms that
 * need that CPUID feature.
 */
    .intel_syntax noprefix

    .macro feature name
    .pushsection .rodata
9000:
    .asciz "\name"
    .popsection
    .pushsection .data.rel.ro.forms, "aw"
    .quad 9000b, 0, 0
    .popsection
    .endm

    .macro form text:vararg
    .pushsection .rodata
9000:
    .asciz "\text"
    .popsection
    .text
    .p2align 4
9001:
    \text
9002:
    ret
    .pushsection .data.rel.ro.forms, "aw"
    .quad 9000b, 9001b, 9002b - 9001b
    .popsection
    .endm

    /* dst, src: two registers, memory, the same register */
    .macro sse ops:vararg
    .irp op, \ops
    form \op xmm1, xmm2
    form \op xmm9, [rbx]
    form \op xmm14, xmm14
    .endr
    .endm

    .macro sse_imm op, imms:vararg
    .irp imm, \imms
    form \op xmm1, xmm12, \imm
    form \op xmm9, [rbx], \imm
    .endr
    .endm

    .macro mmx ops:vararg
    .irp op, \ops
    form \op mm1, mm2
    form \op mm7, [rbx]
    form \op mm3, mm3
    .endr
    .endm

    /* dst, src1, src2 in 128 bits */
    .macro vex128 ops:vararg
    .irp op, \ops
    form \op xmm1, xmm2, xmm3
    form \op xmm9, xmm15, [rbx]
    form \op xmm4, xmm4, xmm12
    form \op xmm5, xmm6, xmm5
    .endr
    .endm

    .macro vex256 ops:vararg
    .irp op, \ops
    form \op ymm1, ymm2, ymm3
    form \op ymm9, ymm15, [rbx]
    form \op ymm4, ymm4, ymm12
    form \op ymm5, ymm6, ymm5
    .endr
    .endm

    .macro vex ops:vararg
    .irp op, \ops
    vex128 \op
    vex256 \op
    .endr
    .endm

    .macro vex_imm op, imms:vararg
    .irp imm, \imms
    form \op xmm1, xmm2, xmm13, \imm
    form \op xmm9, xmm4, [rbx], \imm
    form \op ymm1, ymm2, ymm13, \imm
    form \op ymm9, ymm4, [rbx], \imm
    .endr
    .endm

    /* dst, src */
    .macro vex2 ops:vararg
    .irp op, \ops
    form \op xmm1, xmm12
    form \op xmm9, [rbx]
    form \op ymm1, ymm12
    form \op ymm9, [rbx]
    .endr
    .endm

    .macro vex2_imm op, imms:vararg
    .irp imm, \imms
    form \op xmm1, xmm12, \imm
    form \op xmm9, [rbx], \imm
    form \op ymm1, ymm12, \imm
    form \op ymm9, [rbx], \imm
    .endr
    .endm

    /* shift by immediate */
    .macro shifts regs:vararg
    .irp op, psrlw, psraw, psllw, psrld, psrad, pslld, psrlq, psllq
    .irp reg, \regs
    form \op \reg, 3
    form \op \reg, 200
    .endr
    .endr
    .endm

    .macro vshifts ops:vararg
    .irp op, \ops
    form v\op xmm1, xmm11, 5
    form v\op ymm10, ymm2, 5
    form v\op ymm3, ymm3, 90
    .endr
    .endm

    .section .data.rel.ro.forms, "aw"
    .globl thunk_forms
    .p2align 3
thunk_forms:
    .text

    feature sse
    sse addps, subps, mulps, divps, minps, maxps, sqrtps, rcpps, rsqrtps
    sse addss, subss, mulss, divss, minss, maxss, sqrtss, rcpss, rsqrtss
    sse andps, andnps, orps, xorps, unpcklps, unpckhps, comiss, ucomiss
    sse movups, movaps
    form movups [rbx], xmm3
    form movaps [rbx], xmm13
    form movntps [rbx], xmm3
    form movss xmm1, xmm2
    form movss xmm1, [rbx]
    form movss [rbx], xmm8
    form movlps xmm1, [rbx]
    form movlps [rbx], xmm1
    form movhps xmm1, [rbx]
    form movhps [rbx], xmm10
    form movhlps xmm3, xmm4
    form movlhps xmm3, xmm14
    form movmskps eax, xmm4
    form movmskps r13d, xmm4
    sse_imm shufps, 0, 0x1b, 0xff, 0xe4
    sse_imm cmpps, 0, 1, 2, 3, 4, 5, 6, 7
    sse_imm cmpss, 0, 1, 2, 3, 4, 5, 6, 7
    form cvtsi2ss xmm3, eax
    form cvtsi2ss xmm3, r9
    form cvtsi2ss xmm3, dword ptr [rbx]
    form cvtsi2ss xmm3, qword ptr [rbx]
    form cvtss2si eax, xmm3
    form cvtss2si r10, xmm3
    form cvtss2si ecx, dword ptr [rbx]
    form cvtss2si rbp, dword ptr [rbx]
    form cvttss2si eax, xmm3
    form cvttss2si r15, dword ptr [rbx]
    form cvtpi2ps xmm2, mm3
    form cvtpi2ps xmm2, [rbx]
    form cvtps2pi mm2, xmm3
    form cvtps2pi mm2, [rbx]
    form cvttps2pi mm2, xmm13
    form cvttps2pi mm2, [rbx]
    mmx pavgb, pavgw, pmaxub, pmaxsw, pminub, pminsw, psadbw, pmulhuw
    form pshufw mm1, mm2, 0x39
    form pshufw mm1, [rbx], 0x39
    form pinsrw mm1, eax, 2
    form pinsrw mm1, word ptr [rbx], 3
    form pextrw eax, mm4, 1
    form pmovmskb edx, mm6
    form movntq [rbx], mm2
    form maskmovq mm1, mm2
    form ldmxcsr [rbx]
    form stmxcsr [rbx]

    feature mmx
    mmx paddb, paddw, paddd, paddsb, paddsw, paddusb, paddusw, psubb, psubw, psubd
    mmx psubsb, psubsw, psubusb, psubusw, pmulhw, pmullw, pmaddwd, pcmpeqb, pcmpeqw, pcmpeqd
    mmx pcmpgtb, pcmpgtw, pcmpgtd, packsswb, packuswb, packssdw, punpckhbw, punpckhwd, punpckhdq
    mmx punpcklbw, punpcklwd, punpckldq, pand, pandn, por, pxor
    mmx psrlw, psrld, psrlq, psraw, psrad, psllw, pslld, psllq
    shifts mm1, mm6
    form movd mm1, eax
    form movd mm1, dword ptr [rbx]
    form movd r12d, mm5
    form movd dword ptr [rbx], mm5
    form movq mm1, r9
    form movq r9, mm1
    form movq mm1, mm4
    form movq mm1, [rbx]
    form movq [rbx], mm1
    form emms

    feature sse2
    sse addpd, subpd, mulpd, divpd, minpd, maxpd, sqrtpd, andpd, andnpd, orpd, xorpd
    sse addsd, subsd, mulsd, divsd, minsd, maxsd, sqrtsd, comisd, ucomisd, unpcklpd, unpckhpd
    sse movupd, movapd, movdqa, movdqu
    sse cvtdq2pd, cvtdq2ps, cvtpd2dq, cvtpd2ps, cvtps2dq, cvtps2pd, cvttpd2dq, cvttps2dq
    sse cvtsd2ss, cvtss2sd
    sse paddb, paddw, paddd, paddq, paddsb, paddsw, paddusb, paddusw, psubb, psubw, psubd, psubq
    sse psubsb, psubsw, psubusb, psubusw, pmulhw, pmulhuw, pmullw, pmuludq, pmaddwd, psadbw
    sse pcmpeqb, pcmpeqw, pcmpeqd, pcmpgtb, pcmpgtw, pcmpgtd, packsswb, packuswb, packssdw
    sse punpckhbw, punpckhwd, punpckhdq, punpckhqdq, punpcklbw, punpcklwd, punpckldq, punpcklqdq
    sse pand, pandn, por, pxor, pavgb, pavgw, pmaxub, pmaxsw, pminub, pminsw
    sse psrlw, psrld, psrlq, psraw, psrad, psllw, pslld, psllq
    shifts xmm1, xmm11
    form pslldq xmm4, 3
    form psrldq xmm14, 5
    mmx paddq, psubq, pmuludq
    form movupd [rbx], xmm3
    form movapd [rbx], xmm13
    form movdqu [rbx], xmm3
    form movdqa [rbx], xmm13
    form movntpd [rbx], xmm3
    form movntdq [rbx], xmm3
    form movnti dword ptr [rbx], eax
    form movnti qword ptr [rbx], r11
    form movsd xmm1, xmm2
    form movsd xmm1, qword ptr [rbx]
    form movsd qword ptr [rbx], xmm8
    form movlpd xmm1, [rbx]
    form movlpd [rbx], xmm1
    form movhpd xmm1, [rbx]
    form movhpd [rbx], xmm10
    form movmskpd eax, xmm4
    form pmovmskb r8d, xmm5
    form movd xmm1, eax
    form movd xmm1, dword ptr [rbx]
    form movd r12d, xmm5
    form movd dword ptr [rbx], xmm15
    form movq xmm1, r9
    form movq r9, xmm1
    form movq xmm1, xmm4
    form movq xmm11, qword ptr [rbx]
    form movq qword ptr [rbx], xmm1
    form movq2dq xmm3, mm2
    form movdq2q mm4, xmm12
    form maskmovdqu xmm1, xmm2
    sse_imm shufpd, 0, 1, 2, 3
    sse_imm pshufd, 0, 0x1b, 0xff
    sse_imm pshuflw, 0, 0x1b, 0xff
    sse_imm pshufhw, 0, 0x1b, 0xff
    sse_imm cmppd, 0, 1, 2, 3, 4, 5, 6, 7
    sse_imm cmpsd, 0, 1, 2, 3, 4, 5, 6, 7
    form pinsrw xmm1, eax, 5
    form pinsrw xmm11, word ptr [rbx], 7
    form pextrw eax, xmm4, 6
    form cvtsi2sd xmm3, eax
    form cvtsi2sd xmm3, r9
    form cvtsi2sd xmm3, dword ptr [rbx]
    form cvtsi2sd xmm3, qword ptr [rbx]
    form cvtsd2si eax, xmm3
    form cvtsd2si r10, xmm3
    form cvtsd2si rcx, qword ptr [rbx]
    form cvttsd2si eax, xmm3
    form cvttsd2si r10, qword ptr [rbx]
    form cvtpi2pd xmm2, mm3
    form cvtpi2pd xmm2, [rbx]
    form cvtpd2pi mm2, xmm3
    form cvtpd2pi mm2, [rbx]
    form cvttpd2pi mm2, xmm3
    form cvttpd2pi mm2, [rbx]

    feature sse3
    sse addsubps, addsubpd, haddps, haddpd, hsubps, hsubpd, movddup, movshdup, movsldup
    form lddqu xmm3, [rbx]

    feature ssse3
    .irp op, pabsb, pabsw, pabsd, phaddw, phaddd, phaddsw, phsubw, phsubd, phsubsw, pmaddubsw, \
        pmulhrsw, pshufb, psignb, psignw, psignd
    sse \op
    mmx \op
    .endr
    sse_imm palignr, 0, 5, 20, 40
    form palignr mm1, mm2, 3
    form palignr mm1, [rbx], 11

    feature sse4_1
    sse packusdw, pcmpeqq, phminposuw, pmaxsb, pmaxsd, pmaxud, pmaxuw, pminsb, pminsd, pminud
    sse pminuw, pmuldq, pmulld, ptest, pmovsxbw, pmovsxbd, pmovsxbq, pmovsxwd, pmovsxwq, pmovsxdq
    sse pmovzxbw, pmovzxbd, pmovzxbq, pmovzxwd, pmovzxwq, pmovzxdq, pblendvb, blendvps, blendvpd
    form blendvps xmm0, xmm5
    form pblendvb xmm5, xmm0
    form movntdqa xmm5, [rbx]
    sse_imm blendps, 0, 5, 15
    sse_imm blendpd, 0, 2, 3
    sse_imm pblendw, 0, 0xa5
    sse_imm dpps, 0xff, 0x31
    sse_imm dppd, 0x33, 0x11
    sse_imm mpsadbw, 0, 5
    sse_imm roundps, 0, 1, 2, 3, 4, 8
    sse_imm roundpd, 0, 1, 2, 3, 4, 8
    sse_imm roundss, 0, 1, 2, 3, 4, 8
    sse_imm roundsd, 0, 1, 2, 3, 4, 8
    sse_imm insertps, 0x1f, 0xd0, 0x0f
    form pinsrb xmm1, eax, 15
    form pinsrb xmm1, byte ptr [rbx], 3
    form pinsrd xmm1, r8d, 2
    form pinsrd xmm1, dword ptr [rbx], 1
    form pinsrq xmm1, rdx, 1
    form pinsrq xmm1, qword ptr [rbx], 0
    form pextrb eax, xmm3, 9
    form pextrb byte ptr [rbx], xmm3, 9
    form pextrw word ptr [rbx], xmm3, 6
    form pextrd ecx, xmm3, 3
    form pextrd dword ptr [rbx], xmm3, 3
    form pextrq r9, xmm3, 1
    form pextrq qword ptr [rbx], xmm3, 1
    form extractps edi, xmm3, 2
    form extractps dword ptr [rbx], xmm3, 2

    feature sse4_2
    sse pcmpgtq
    .irp op, pcmpestri, pcmpestrm, pcmpistri, pcmpistrm
    sse_imm \op, 0x00, 0x0d, 0x18, 0x40, 0x7e
    .endr
    form rex.w pcmpestri xmm1, xmm2, 5
    form crc32 eax, cl
    form crc32 eax, ah
    form crc32 edx, ch
    form crc32 r9d, sil
    form crc32 eax, r8w
    form crc32 eax, edx
    form crc32 rax, r15
    form crc32 rcx, dl
    form crc32 ecx, byte ptr [rbx]
    form crc32 ecx, word ptr [rbx]
    form crc32 ecx, dword ptr [rbx]
    form crc32 rcx, qword ptr [rbx]

    feature aes
    sse aesenc, aesenclast, aesdec, aesdeclast, aesimc
    sse_imm aeskeygenassist, 0, 0x1b, 0xff

    feature pclmulqdq
    sse_imm pclmulqdq, 0, 1, 0x10, 0x11

    feature sha
    sse sha1msg1, sha1msg2, sha1nexte, sha256msg1, sha256msg2, sha256rnds2
    form sha256rnds2 xmm0, xmm7
    sse_imm sha1rnds4, 0, 1, 2, 3

    feature gfni
    sse gf2p8mulb
    sse_imm gf2p8affineqb, 0, 0x63
    sse_imm gf2p8affineinvqb, 0, 0x63

    feature avx
    vex vaddps, vaddpd, vsubps, vsubpd, vmulps, vmulpd, vdivps, vdivpd, vminps, vminpd, vmaxps
    vex vmaxpd, vandps, vandpd, vandnps, vandnpd, vorps, vorpd, vxorps, vxorpd, vunpcklps
    vex vunpcklpd, vunpckhps, vunpckhpd, vaddsubps, vaddsubpd, vhaddps, vhaddpd, vhsubps, vhsubpd
    vex vpermilps, vpermilpd
    vex128 vaddss, vaddsd, vsubss, vsubsd, vmulss, vmulsd, vdivss, vdivsd, vminss, vminsd, vmaxss
    vex128 vmaxsd, vsqrtss, vsqrtsd, vrcpss, vrsqrtss, vcvtss2sd, vcvtsd2ss
    vex2 vsqrtps, vsqrtpd, vrcpps, vrsqrtps, vmovups, vmovupd, vmovaps, vmovapd, vmovdqu, vmovdqa
    vex2 vmovddup, vmovshdup, vmovsldup, vcvtdq2ps, vcvtps2dq, vcvttps2dq, vtestps, vtestpd, vptest
    .irp op, vmovups, vmovapd, vmovdqu, vmovdqa, vmovntps, vmovntpd, vmovntdq
    form \op [rbx], xmm13
    form \op [rbx], ymm3
    .endr
    form vmovntdqa xmm4, [rbx]
    form vlddqu xmm4, [rbx]
    form vlddqu ymm4, [rbx]
    form vcvtdq2pd xmm1, xmm2
    form vcvtdq2pd ymm1, xmm2
    form vcvtdq2pd ymm1, [rbx]
    form vcvtps2pd ymm1, xmm2
    form vcvtps2pd ymm1, [rbx]
    form vcvtpd2dq xmm1, ymm2
    form vcvtpd2dq xmm1, ymmword ptr [rbx]
    form vcvtpd2dq xmm1, xmmword ptr [rbx]
    form vcvttpd2dq xmm1, ymm2
    form vcvtpd2ps xmm1, ymm2
    form vcvtpd2ps xmm1, ymmword ptr [rbx]
    form vcvtsi2ss xmm1, xmm2, eax
    form vcvtsi2ss xmm1, xmm2, r9
    form vcvtsi2sd xmm1, xmm2, dword ptr [rbx]
    form vcvtsi2sd xmm1, xmm2, qword ptr [rbx]
    form vcvtss2si eax, xmm2
    form vcvtss2si rax, dword ptr [rbx]
    form vcvttsd2si r11, xmm2
    form vcvtsd2si r11, qword ptr [rbx]
    form vcomiss xmm1, xmm2
    form vcomisd xmm1, [rbx]
    form vucomiss xmm1, [rbx]
    form vucomisd xmm1, xmm9
    vex_imm vshufps, 0, 0x1b
    vex_imm vshufpd, 0, 5
    vex_imm vblendps, 0, 0xa5
    vex_imm vblendpd, 0, 5
    vex_imm vdpps, 0xff, 0x31
    vex_imm vcmpps, 0, 3, 9, 17, 31
    vex_imm vcmppd, 0, 3, 9, 17, 31
    vex2_imm vroundps, 0, 1, 4, 8
    vex2_imm vroundpd, 0, 1, 4, 8
    vex2_imm vpermilps, 0, 0x1b
    vex2_imm vpermilpd, 0, 0x1b
    form vdppd xmm1, xmm2, xmm3, 0x31
    form vcmpss xmm1, xmm2, xmm3, 13
    form vcmpsd xmm1, xmm2, [rbx], 2
    form vroundss xmm1, xmm2, xmm3, 1
    form vroundsd xmm1, xmm2, [rbx], 2
    form vinsertps xmm1, xmm2, xmm3, 0x91
    form vinsertps xmm1, xmm2, [rbx], 0x91
    .irp op, vblendvps, vblendvpd
    form \op xmm1, xmm2, xmm3, xmm4
    form \op ymm1, ymm12, ymm3, ymm14
    form \op ymm1, ymm2, [rbx], ymm10
    .endr
    form vpblendvb xmm1, xmm2, xmm3, xmm14
    form vpblendvb xmm1, xmm2, [rbx], xmm1
    form vbroadcastss xmm1, [rbx]
    form vbroadcastss ymm1, [rbx]
    form vbroadcastsd ymm1, [rbx]
    form vbroadcastf128 ymm1, [rbx]
    form vperm2f128 ymm1, ymm2, ymm3, 0x31
    form vperm2f128 ymm1, ymm2, [rbx], 0x82
    form vinsertf128 ymm1, ymm2, xmm3, 0
    form vinsertf128 ymm1, ymm2, [rbx], 1
    form vextractf128 xmm1, ymm2, 1
    form vextractf128 [rbx], ymm2, 0
    form vmovmskps eax, ymm3
    form vmovmskpd r9d, xmm3
    form vmovss xmm1, xmm2, xmm3
    form vmovss xmm1, [rbx]
    form vmovss [rbx], xmm9
    form vmovsd xmm1, xmm2, xmm3
    form vmovsd xmm1, [rbx]
    form vmovsd [rbx], xmm9
    form vmovlps xmm1, xmm2, [rbx]
    form vmovhps xmm1, xmm2, [rbx]
    form vmovlpd [rbx], xmm2
    form vmovhpd [rbx], xmm2
    form vmovhlps xmm1, xmm2, xmm3
    form vmovlhps xmm1, xmm2, xmm3
    form vmovd xmm1, eax
    form vmovd r8d, xmm9
    form vmovd dword ptr [rbx], xmm9
    form vmovq xmm1, rax
    form vmovq r8, xmm9
    form vmovq xmm1, xmm2
    form vmovq xmm1, qword ptr [rbx]
    form vmovq qword ptr [rbx], xmm1
    form vpextrb eax, xmm2, 5
    form vpextrw eax, xmm2, 5
    form vpextrw word ptr [rbx], xmm2, 5
    form vpextrd dword ptr [rbx], xmm2, 2
    form vpextrq rax, xmm2, 1
    form vextractps eax, xmm2, 1
    form vpinsrb xmm1, xmm2, eax, 3
    form vpinsrw xmm1, xmm2, word ptr [rbx], 3
    form vpinsrd xmm1, xmm2, r9d, 3
    form vpinsrq xmm1, xmm2, qword ptr [rbx], 1
    vex128 vpaddb, vpaddq, vpsubusw, vpmulhuw, vpmuludq, vpmaddwd, vpsadbw, vpcmpeqb, vpcmpgtq
    vex128 vpacksswb, vpackusdw, vpunpckhbw, vpunpcklqdq, vpand, vpandn, vpor, vpxor, vpavgb
    vex128 vpmaxsb, vpminud, vpshufb, vpsignw, vphaddd, vpmulhrsw, vpsrlw, vpsraw, vpsllq
    form vpabsd xmm1, xmm12
    form vphminposuw xmm1, [rbx]
    form vpmovmskb eax, xmm4
    form vpmovsxbq xmm1, [rbx]
    form vpshufd xmm1, xmm2, 0x1b
    form vpalignr xmm1, xmm2, xmm3, 7
    form vpslldq xmm1, xmm2, 7
    form vpblendw xmm1, xmm2, [rbx], 0x5a
    form vmpsadbw xmm1, xmm2, xmm3, 5
    form vpcmpestri xmm1, xmm2, 0x18
    form vpcmpestrm xmm1, xmm2, 0x40
    form vpcmpistri xmm1, [rbx], 0x0d
    form vpcmpistrm xmm1, xmm2, 0x40
    form vzeroupper
    form vzeroall
    form vldmxcsr [rbx]
    form vstmxcsr [rbx]
    form vmaskmovdqu xmm1, xmm2
    .irp op, vmaskmovps, vmaskmovpd
    form \op xmm1, xmm2, [rbx]
    form \op ymm9, ymm2, [rbx]
    form \op [rbx], xmm2, xmm3
    form \op [rbx], ymm12, ymm3
    .endr
    form vaesenc xmm1, xmm2, xmm3
    form vaesimc xmm1, [rbx]
    form vaeskeygenassist xmm1, xmm2, 3
    form vpclmulqdq xmm1, xmm2, xmm3, 0x10

    feature avx2
    vex256 vpaddb, vpaddw, vpaddd, vpaddq, vpaddsb, vpaddsw, vpaddusb, vpaddusw, vpsubb, vpsubw
    vex256 vpsubd, vpsubq, vpsubsb, vpsubsw, vpsubusb, vpsubusw, vpmulhw, vpmulhuw, vpmullw
    vex256 vpmulld, vpmuldq, vpmuludq, vpmaddwd, vpmaddubsw, vpsadbw, vpcmpeqb, vpcmpeqw, vpcmpeqd
    vex256 vpcmpeqq, vpcmpgtb, vpcmpgtw, vpcmpgtd, vpcmpgtq, vpacksswb, vpackssdw, vpackuswb
    vex256 vpackusdw, vpunpckhbw, vpunpckhwd, vpunpckhdq, vpunpckhqdq, vpunpcklbw, vpunpcklwd
    vex256 vpunpckldq, vpunpcklqdq, vpand, vpandn, vpor, vpxor, vpavgb, vpavgw, vpmaxsb, vpmaxsw
    vex256 vpmaxsd, vpmaxub, vpmaxuw, vpmaxud, vpminsb, vpminsw, vpminsd, vpminub, vpminuw, vpminud
    vex256 vpshufb, vpsignb, vpsignw, vpsignd, vphaddw, vphaddd, vphaddsw, vphsubw, vphsubd
    vex256 vphsubsw, vpmulhrsw, vpermd, vpermps
    vex vpsllvd, vpsllvq, vpsrlvd, vpsrlvq, vpsravd
    vshifts psrlw, psraw, psllw, psrld, psrad, pslld, psrlq, psllq, pslldq, psrldq
    form vpsllw ymm1, ymm2, xmm3
    form vpsrld ymm1, ymm2, [rbx]
    form vpabsb ymm1, ymm2
    form vpabsw ymm1, [rbx]
    form vpmovmskb eax, ymm4
    form vpmovsxbw ymm1, xmm2
    form vpmovsxbq ymm1, [rbx]
    form vpmovzxwd ymm1, [rbx]
    form vpmovzxdq ymm1, xmm13
    form vpbroadcastb xmm1, xmm2
    form vpbroadcastb ymm1, [rbx]
    form vpbroadcastw ymm1, xmm2
    form vpbroadcastw xmm1, [rbx]
    form vpbroadcastd ymm1, xmm2
    form vpbroadcastd ymm1, [rbx]
    form vpbroadcastq ymm1, xmm2
    form vpbroadcastq ymm1, [rbx]
    form vbroadcastss ymm1, xmm2
    form vbroadcastsd ymm1, xmm2
    form vbroadcasti128 ymm1, [rbx]
    form vpermq ymm1, ymm2, 0x1b
    form vpermpd ymm1, [rbx], 0x4e
    form vperm2i128 ymm1, ymm2, ymm3, 0x21
    form vinserti128 ymm1, ymm2, xmm3, 1
    form vextracti128 xmm1, ymm2, 1
    form vextracti128 [rbx], ymm2, 1
    form vpalignr ymm1, ymm2, ymm3, 19
    form vpblendd xmm1, xmm2, xmm3, 6
    form vpblendd ymm1, ymm2, [rbx], 0xa6
    form vpblendw ymm1, ymm2, ymm3, 0xa6
    form vpblendvb ymm1, ymm2, ymm3, ymm4
    form vmpsadbw ymm1, ymm2, ymm3, 0x2b
    form vpshufd ymm1, ymm2, 0x1b
    form vpshufhw ymm1, [rbx], 0x1b
    form vpshuflw ymm1, ymm2, 0x1b
    form vmovntdqa ymm1, [rbx]
    .irp op, vpmaskmovd, vpmaskmovq
    form \op xmm1, xmm2, [rbx]
    form \op ymm9, ymm2, [rbx]
    form \op [rbx], xmm2, xmm3
    form \op [rbx], ymm12, ymm3
    .endr

    feature fma
    .irp op, vfmadd132, vfmadd213, vfmadd231, vfmsub132, vfmsub213, vfmsub231, vfnmadd132, \
        vfnmadd213, vfnmadd231, vfnmsub132, vfnmsub213, vfnmsub231
    vex \op\()ps, \op\()pd
    vex128 \op\()ss, \op\()sd
    .endr
    vex vfmaddsub132ps, vfmaddsub213pd, vfmaddsub231ps, vfmsubadd132pd, vfmsubadd213ps
    vex vfmsubadd231pd

    feature f16c
    form vcvtph2ps xmm1, xmm2
    form vcvtph2ps ymm1, [rbx]
    form vcvtph2ps xmm1, [rbx]
    form vcvtps2ph xmm1, xmm2, 0
    form vcvtps2ph xmm1, ymm2, 4
    form vcvtps2ph [rbx], xmm2, 3
    form vcvtps2ph [rbx], ymm2, 1

    feature vaes
    vex256 vaesenc, vaesenclast, vaesdec, vaesdeclast

    feature vpclmulqdq
    form vpclmulqdq ymm1, ymm2, ymm3, 0x11
    form vpclmulqdq ymm1, ymm2, [rbx], 0

    feature vgfni
    vex vgf2p8mulb
    vex_imm vgf2p8affineqb, 0, 0x63

    feature bmi1
    .irp a, eax, r9d
    form andn \a, ecx, edx
    form andn \a, r13d, [rbx]
    form bextr \a, ecx, edx
    form bextr \a, [rbx], r8d
    form blsi \a, ecx
    form blsi \a, [rbx]
    form blsmsk \a, ecx
    form blsr \a, edx
    .endr
    form andn rax, rcx, r15
    form bextr rax, rcx, rdx
    form blsr rdi, [rbx]

    feature bmi2
    form bzhi eax, ecx, edx
    form bzhi rax, [rbx], r9
    form mulx eax, ecx, r9d
    form mulx rax, rax, [rbx]
    form mulx r12, rdx, rcx
    form pdep eax, ecx, [rbx]
    form pdep r8, r9, r10
    form pext rax, rcx, rdx
    form pext eax, ecx, [rbx]
    form rorx eax, [rbx], 5
    form rorx r14, rax, 61
    form sarx eax, ecx, edx
    form sarx rax, [rbx], r8
    form shlx r13, rcx, rdx
    form shrx eax, [rbx], r8d

    feature adx
    form adcx eax, ecx
    form adcx r9, [rbx]
    form adox eax, [rbx]
    form adox r9, rax

    feature x87
    .irp op, fadd, fsub, fsubr, fmul, fdiv, fdivr, fcom, fcomp
    form \op dword ptr [rbx]
    form \op qword ptr [rbx]
    .endr
    .irp op, fiadd, fisub, fisubr, fimul, fidiv, fidivr, ficom, ficomp
    form \op word ptr [rbx]
    form \op dword ptr [rbx]
    .endr
    .irp op, fadd, fsub, fsubr, fmul, fdiv, fdivr
    form \op st, st(3)
    form \op st(5), st
    form \op\()p st(2), st
    .endr
    .irp op, fcom, fcomp, fucom, fucomp, fxch, ffree, fld
    form \op st(2)
    .endr
    .irp op, fcomi, fcomip, fucomi, fucomip, fcmovb, fcmove, fcmovbe, fcmovu, fcmovnb, fcmovne, \
        fcmovnbe, fcmovnu
    form \op st, st(4)
    .endr
    .irp op, f2xm1, fabs, fchs, fcompp, fcos, fdecstp, fincstp, fld1, fldl2e, fldl2t, fldlg2, fldln2, \
        fldpi, fldz, fnop, fpatan, fprem, fprem1, fptan, frndint, fscale, fsin, fsincos, fsqrt, \
        ftst, fucompp, fxam, fxtract, fyl2x, fyl2xp1, fnclex, fninit, fwait
    form \op
    .endr
    form fld dword ptr [rbx]
    form fld qword ptr [rbx]
    form fld tbyte ptr [rbx]
    form fild word ptr [rbx]
    form fild dword ptr [rbx]
    form fild qword ptr [rbx]
    form fbld [rbx]
    form fst dword ptr [rbx]
    form fst qword ptr [rbx]
    form fst st(3)
    form fstp dword ptr [rbx]
    form fstp qword ptr [rbx]
    form fstp tbyte ptr [rbx]
    form fstp st(1)
    form fist word ptr [rbx]
    form fist dword ptr [rbx]
    form fistp word ptr [rbx]
    form fistp dword ptr [rbx]
    form fistp qword ptr [rbx]
    form fbstp [rbx]
    form fisttp word ptr [rbx]
    form fisttp dword ptr [rbx]
    form fisttp qword ptr [rbx]
    form fldcw [rbx]
    form fnstcw [rbx]
    form fnstsw [rbx]
    form fnstsw ax
    form fnstenv [rbx]
    form fldenv [rbx]
    form fnsave [rbx]
    form frstor [rbx]
    form data16 fnstenv [rbx]
    form data16 fldenv [rbx]
    form data16 fnsave [rbx]
    form data16 frstor [rbx]

    feature fxsr
    form fxsave [rbx]
    form fxsave64 [rbx]
    form fxrstor [rbx]
    form fxrstor64 [rbx]

    feature end

/*
 * void host_run(struct host_state *state, const void *code)
 *
 * Loads everything but RSP from *state (offsets in differential_test.c), calls code, stores
 * everything back. A fault leaves by siglongjmp.
 */
    .globl host_run
    .p2align 4
host_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov host_state[rip], rdi
    mov host_code[rip], rsi
    mov eax, 7
    xor edx, edx
    xrstor64 [rdi]
    lea rsi, [rdi + 1024]
    push qword ptr [rsi + 128]
    popfq
    mov rax, [rsi]
    mov rcx, [rsi + 8]
    mov rdx, [rsi + 16]
    mov rbx, [rsi + 24]
    mov rbp, [rsi + 40]
    mov rdi, [rsi + 56]
    mov r8, [rsi + 64]
    mov r9, [rsi + 72]
    mov r10, [rsi + 80]
    mov r11, [rsi + 88]
    mov r12, [rsi + 96]
    mov r13, [rsi + 104]
    mov r14, [rsi + 112]
    mov r15, [rsi + 120]
    mov rsi, [rsi + 48]
    call host_code[rip]
    push rsi
    mov rsi, host_state[rip]
    lea rsi, [rsi + 1024]
    mov [rsi], rax
    mov [rsi + 8], rcx
    mov [rsi + 16], rdx
    mov [rsi + 24], rbx
    mov [rsi + 40], rbp
    mov [rsi + 56], rdi
    mov [rsi + 64], r8
    mov [rsi + 72], r9
    mov [rsi + 80], r10
    mov [rsi + 88], r11
    mov [rsi + 96], r12
    mov [rsi + 104], r13
    mov [rsi + 112], r14
    mov [rsi + 120], r15
    pop rax
    mov [rsi + 48], rax
    pushfq
    pop qword ptr [rsi + 128]
    mov rdi, host_state[rip]
    mov eax, 7
    xor edx, edx
    xsave64 [rdi]
    vzeroupper
    fninit
    push 0x1f80
    ldmxcsr [rsp]
    add rsp, 8
    cld
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    .globl host_nop
host_nop:
    ret

    .bss
    .p2align 3
host_state:
    .quad 0
host_code:
    .quad 0

    .section .note.GNU-stack, "", @progbits
