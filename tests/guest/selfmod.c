/* Code that changes: its own next instruction, other code, code over a page boundary, through
 * another mapping, under another mapping, and data that shares a page with code. */

#include "guest.h"

extern volatile uint64_t start_tables[];

#ifdef __x86_64__
#define IS_SP "rsp"
#define IS_BX "rbx"
#else
#define IS_SP "esp"
#define IS_BX "ebx"
#endif

static uint8_t area[4 * 4096] __attribute__((aligned(4096)));

/* mov $value, %eax; ret */
static void put_function(uint8_t *at, uint32_t value)
{
    volatile uint8_t *bytes = at;
    bytes[0] = 0xb8;
    for (unsigned i = 0; i < 4; i++)
        bytes[1 + i] = (uint8_t)(value >> (8 * i));
    bytes[5] = 0xc3;
}

static word call(uint8_t *at)
{
    word result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(at) : "memory", "cc");
    return result;
}

static void rewrite(void)
{
    bool right = true;
    for (uint32_t i = 0; i < 2000; i++) {
        put_function(area + 100, i * 77);
        right = right && call(area + 100) == i * 77;
    }
    check("a function rewritten and called", right);

    put_function(area + 100, 1);
    put_function(area + 200, 2);
    right = call(area + 100) == 1 && call(area + 200) == 2;
    put_function(area + 200, 3);
    check("its neighbour stays", right && call(area + 100) == 1 && call(area + 200) == 3);

    put_function(area + 300, 0x11111111);
    call(area + 300);
    memory_copy(area + 300, (uint8_t[]){0x31, 0xc0, 0xc3}, 3); /* xor eax, eax; ret */
    check_equal("replaced by REP MOVSB", call(area + 300), 0);
}

static void next_instruction(void)
{
    word result;
    bool right = true;
    for (unsigned i = 0; i < 50; i++) {
        /* The store changes the operand of the instruction right behind it. */
        __asm__ volatile("movl %1, 1f + 1\n"
                         "1: movl $0x55555555, %%eax\n"
                         : "=a"(result)
                         : "r"(i * 3)
                         : "memory");
        right = right && result == i * 3;
    }
    check("the next instruction", right);

    for (unsigned i = 0; i < 50; i++) {
        /* INC AL or DEC AL behind a jump. */
        __asm__ volatile("xorl %%eax, %%eax\n"
                         "movb %1, 2f + 1\n"
                         "jmp 2f\n"
                         "2: .byte 0xfe, 0\n"
                         : "=&a"(result)
                         : "q"((uint8_t)(i & 1 ? 0xc0 : 0xc8))
                         : "memory", "cc");
        right = right && result == (i & 1 ? 1 : 0xff);
    }
    check("behind a jump", right);
}

static void page_boundary(void)
{
    /* mov $imm, %eax with its immediate on the second page. */
    uint8_t *at = area + 4096 - 2;
    bool right = true;
    for (uint32_t i = 0; i < 100; i++) {
        put_function(at, 0x01010101 * i);
        right = right && call(at) == 0x01010101 * i;
        ((volatile uint8_t *)area)[4096 + 2] = 0xff; /* the top byte of the immediate alone */
        right = right && call(at) == ((0x01010101 * i & 0xffffff) | 0xff000000);
        ((volatile uint8_t *)area)[4096 - 1] = 0x7e; /* and its bottom byte */
        right = right && (call(at) & 0xff) == 0x7e;
    }
    check("an instruction over a page boundary", right);
}

static void shared_page(void)
{
    /* A loop whose counter is on its own page: mov, dec [counter], jnz. */
    uint8_t *at = area + 2 * 4096;
    volatile uint32_t *cell = (volatile uint32_t *)(at + 512);
    *cell = 1000;
    uint8_t program[] = {0x31, 0xc0, /* xor eax, eax */
                         0xff, 0xc0, /* inc eax */
                         0xff, 0x0b, /* dec dword [ebx / rbx] */
                         0x75, 0xfa, /* jnz -6 */
                         0xc3};
    memory_copy(at, program, sizeof(program));
    word result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(at), "b"(cell) : "memory", "cc");
    check("data on a page of code", result == 1000 && *cell == 0);

    /* A stack on the page of the code that uses it: push rax; pop rax; ret. */
    memory_copy(at, (uint8_t[]){0x50, 0x58, 0xc3}, 3);
    __asm__ volatile("mov %%" IS_SP ", %%" IS_BX "\n"
                     "mov %1, %%" IS_SP "\n"
                     "call *%2\n"
                     "mov %%" IS_BX ", %%" IS_SP "\n"
                     : "=a"(result)
                     : "r"(at + 1024), "r"(at), "a"((word)0x1234)
                     : "ebx", "memory", "cc");
    check_equal("a stack on a page of code", result, 0x1234);
}

#ifdef __x86_64__
static volatile uint64_t pdpt[512] __attribute__((aligned(4096)));
static volatile uint64_t pd[512] __attribute__((aligned(4096)));
static volatile uint64_t pt[512] __attribute__((aligned(4096)));

static void mappings(void)
{
    uint8_t *alias = (uint8_t *)((word)1 << 39);
    start_tables[1] = (word)pdpt | 3;
    pdpt[0] = (word)pd | 3;
    pd[0] = (word)pt | 3;
    pt[0] = (word)area | 3;
    write_cr3(read_cr3());

    bool right = true;
    for (uint32_t i = 0; i < 100; i++) {
        put_function(alias + 64, i); /* written there, run here */
        cpuid(0, 0);                 /* serializes, as it must between different addresses */
        right = right && call(area + 64) == i;
        put_function(area + 64, i + 1000);
        cpuid(0, 0);
        right = right && call(alias + 64) == i + 1000;
    }
    check("code changed through another mapping", right);

    put_function(area + 64, 1);
    put_function(area + 4096 + 64, 2);
    right = true;
    for (unsigned i = 0; i < 50; i++) {
        pt[0] = (word)(area + (i & 1) * 4096) | 3;
        invlpg((word)alias);
        right = right && call(alias + 64) == 1 + (i & 1);
    }
    check("another page under the same address", right);

    /* Two pages swapped under one instruction that lies on both. */
    pt[0] = (word)area | 3;
    pt[1] = (word)(area + 4096) | 3;
    invlpg((word)alias);
    invlpg((word)alias + 4096);
    put_function(alias + 4094, 0x04030201);
    right = call(alias + 4094) == 0x04030201;
    memory_copy(area + 3 * 4096, area + 4096, 4096);
    ((volatile uint8_t *)area)[3 * 4096 + 2] = 0x99;
    pt[1] = (word)(area + 3 * 4096) | 3;
    invlpg((word)alias + 4096);
    check("another second page under one instruction", right && call(alias + 4094) == 0x99030201);
}
#endif

void guest_main(void)
{
    rewrite();
    next_instruction();
    page_boundary();
    shared_page();
#ifdef __x86_64__
    mappings();
#endif
}
