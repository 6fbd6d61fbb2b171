#include <stdarg.h>
#include <stdio.h>

#include "cpu/vcpu.h"

/* Registers as text. */

struct text {
    char *buffer;
    size_t size;
    int length; /* of what would have been written */
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...)
{
    size_t used = (size_t)text->length < text->size ? (size_t)text->length : text->size;
    va_list arguments;
    va_start(arguments, format);
    int added = vsnprintf(text->size > used ? text->buffer + used : NULL, text->size - used, format,
                          arguments);
    va_end(arguments);
    if (added > 0)
        text->length += added;
}

static void add_segment(struct text *text, const char *name, const struct segment *segment)
{
    add(text, "%-4s %04x base %016lx limit %08x attributes %05x\n", name, segment->selector,
        (unsigned long)segment->base, segment->limit, segment->attributes);
}

static const char *mode_name(enum cpu_mode mode)
{
    static const char *const names[] = {"real", "protected", "compatibility", "64-bit"};
    return names[mode];
}

int vcpu_describe(const struct vcpu *vcpu, char *buffer, size_t size)
{
    static const char *const gpr[GPR_COUNT] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                               "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                               "r12", "r13", "r14", "r15"};
    static const char *const segments[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct text text = {.buffer = buffer, .size = size};

    if (size != 0)
        buffer[0] = '\0';
    add(&text, "vCPU %u: %s mode, %u-bit code, CPL %u%s%s\n", vcpu->index, mode_name(vcpu->mode),
        vcpu->code_size * 8u, vcpu->cpl, vcpu->halted ? ", halted" : "",
        vcpu->wait_for_sipi ? ", waiting for SIPI" : "");
    add(&text, "rip  %016lx rflags %016lx\n", (unsigned long)vcpu->rip,
        (unsigned long)vcpu->rflags);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        add(&text, "%-4s %016lx%s", gpr[i], (unsigned long)vcpu->gpr[i], i % 4 == 3 ? "\n" : " ");
    for (unsigned i = 0; i < SEG_COUNT; i++)
        add_segment(&text, segments[i], &vcpu->seg[i]);
    add_segment(&text, "ldtr", &vcpu->ldtr);
    add_segment(&text, "tr", &vcpu->tr);
    add(&text, "gdtr %016lx limit %04x idtr %016lx limit %04x\n", (unsigned long)vcpu->gdtr.base,
        vcpu->gdtr.limit, (unsigned long)vcpu->idtr.base, vcpu->idtr.limit);
    add(&text, "cr0  %08lx cr2 %016lx cr3 %016lx cr4 %08lx efer %04lx xcr0 %lx\n",
        (unsigned long)vcpu->mmu.cr0, (unsigned long)vcpu->cr2, (unsigned long)vcpu->mmu.cr3,
        (unsigned long)vcpu->mmu.cr4, (unsigned long)vcpu->mmu.efer, (unsigned long)vcpu->xcr0);
    add(&text, "dr6  %08lx dr7 %08lx dr0-3 %lx %lx %lx %lx\n", (unsigned long)vcpu->dr[6],
        (unsigned long)vcpu->dr[7], (unsigned long)vcpu->dr[0], (unsigned long)vcpu->dr[1],
        (unsigned long)vcpu->dr[2], (unsigned long)vcpu->dr[3]);
    add(&text, "last exception: vector %u error %x\n", vcpu->fault.vector, vcpu->fault.error_code);
    return text.length;
}
