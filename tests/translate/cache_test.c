/*
 * The memory of translations: eviction in order, what leads to what, the bound, and slow paths.
 *
 * check_cache looks at all of it: that translations stand in the rings in the order in which they
 * were made and outside of what is free, that links and the jump cache lead to living ones only,
 * and that every one of these is found.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/translate/crossing.h"
#include "testvm.h"

#define CODE     0x100000u
#define RAM_SIZE 0x400000u
#define BLOCKS   4096u

struct tiny {
    struct testvm vm;
    struct code_pool *pool;
};

static void tiny_create_with(struct tiny *tiny, size_t code_bytes)
{
    struct error err = {0};
    testvm_create(&tiny->vm, RAM_SIZE);
    assert_int_equal(code_pool_create(&tiny->pool, code_bytes, 1, &err), STATUS_OK);
    tiny->vm.vcpu->code_pool = tiny->pool;
    testvm_use_engine(&tiny->vm, &translate_engine);
    testvm_set_mode(&tiny->vm, MODE_LONG, 8);
}

/* With the least code memory that there may be. */
static void tiny_create(struct tiny *tiny)
{
    tiny_create_with(tiny, CODE_PIECE_LEAST);
}

static void tiny_destroy(struct tiny *tiny)
{
    testvm_destroy(&tiny->vm);
    code_pool_destroy(tiny->pool);
}

/* ------------------------------------------------------------------------- the check */

/* At most one step back in the order of places, and none in what is free. */
static void check_place(const struct ring *ring, uint32_t at, uint32_t *last, unsigned *laps)
{
    assert_in_range(at, ring->start, ring->end - 1);
    assert_true(at < ring->at || at >= ring->limit);
    if (at < *last)
        ++*laps;
    assert_true(*laps <= 1);
    *last = at;
}

static uint32_t where_jump_leads(const struct translate *translate, const struct link *link)
{
    uint32_t displacement, at = link_from(translate, link)->code + link->at;
    memcpy(&displacement, translate->code.write + at, 4);
    return at + 4 + displacement;
}

/* One of the ways into t, which a link may lead to. */
static bool is_entry(const struct translate *translate, const struct translation *t,
                     uint32_t offset)
{
    if (offset == t->code + t->entry_host || offset == t->code + t->entry_saved)
        return true;
    const struct ways *ways = ref_get(translate, t->ways);
    if (ways == NULL)
        return false;
    for (unsigned i = 0; i < ARRAY_LENGTH(ways->unloaded_links); i++) {
        if (ways->unloaded_links[i] != 0 && offset == ways->unloaded_links[i])
            return true;
    }
    return (offset == ways->poll_host && ways->poll_host != 0) ||
           (offset == ways->poll_saved && ways->poll_saved != 0);
}

static void check_link(const struct translate *translate, const struct translation *t,
                       const struct link *link)
{
    assert_ptr_equal(link_from(translate, link), t);
    uint32_t target = where_jump_leads(translate, link);
    if (link->to == 0) {
        assert_int_equal(target, t->aside + link->unlinked);
        return;
    }
    const struct translation *to = ref_get(translate, link->to);
    assert_false(to->is_dead);
    assert_true(is_entry(translate, to, target));
    assert_int_equal(to->rip & PAGE_MASK, link->target);
    assert_int_equal(to->ppn, t->ppn);
    assert_int_equal(to->is_relative, t->is_relative);
    assert_true(t->is_relative || (to->rip ^ t->rip) >> PAGE_SHIFT == 0);
    const struct link *incoming = ref_get(translate, to->incoming);
    while (incoming != NULL && incoming != link)
        incoming = ref_get(translate, incoming->next);
    assert_ptr_equal(incoming, link);
}

static void check_jump_cache(struct translate *translate, unsigned privilege)
{
    const struct jump_cache *cache = &translate->jumps[privilege];
    for (unsigned slot = 1; slot < TRANSLATE_JUMPS; slot++) {
        const struct jump *jump = &cache->jumps[slot];
        if (jump->rip == 0)
            continue;
        bool is_put_away = !tlb_use_has(&cache->use, slot), found = false;
        uint64_t rip = is_put_away ? jump->rip ^ JUMP_PUT_AWAY : jump->rip;
        for (const struct translation *t = ref_get(translate, translate->oldest);
             t != NULL && !found; t = ref_get(translate, t->younger))
            found = !t->is_dead && t->rip == rip && t->privilege == privilege &&
                    jump->code == TRANSLATION_ENTRY(translate, t) &&
                    (cache->ppns[slot] == 0 || (cache->ppns[slot] == t->ppn && !t->is_crossing));
        assert_true(found);
    }
}

/* Where the page may be relative, all of its translations are, or all are for one address. */
static void check_kind(const struct translate *translate, const struct translation *t)
{
    const struct translation *other = translate_page_first(translate, t->ppn);
    while (other->ppn != t->ppn)
        other = ref_get(translate, other->page_next);
    assert_int_equal(t->is_relative, other->is_relative);
    assert_true(t->is_relative || (t->rip ^ other->rip) >> PAGE_SHIFT == 0);
}

/* Returns how many there are. */
static unsigned check_cache(struct translate *translate)
{
    uint32_t last_code = 0, last_aside = 0, last_data = 0;
    unsigned code_laps = 0, aside_laps = 0, data_laps = 0, count = 0;
    translate_bury(translate);
    for (struct translation *t = ref_get(translate, translate->oldest); t != NULL;
         t = ref_get(translate, t->younger)) {
        check_place(&translate->code_ring, t->code, &last_code, &code_laps);
        if (t->aside != translate->aside_ring.at) /* the youngest may have nothing there */
            check_place(&translate->aside_ring, t->aside, &last_aside, &aside_laps);
        check_place(&translate->data_ring, ref_of(translate, t) * REF_UNIT, &last_data, &data_laps);
        count++;
        if (t->ways != 0) {
            const struct ring *ring = &translate->data_ring;
            assert_true(t->ways * REF_UNIT < ring->at || t->ways * REF_UNIT >= ring->limit);
        }
        assert_ptr_equal(ring_find(translate, t->code), t);
        assert_ptr_equal(ring_find(translate, t->code + t->entry_host), t);
        if (t->is_dead)
            continue;
        check_kind(translate, t);
        assert_non_null(translate_look_up(translate, translation_gpa(t), t->rip, t->privilege));
        for (unsigned i = 0; i < t->link_count; i++)
            check_link(translate, t, &translation_links(translate, t)[i]);
    }
    for (unsigned p = 0; p < ARRAY_LENGTH(translate->jumps); p++)
        check_jump_cache(translate, p);
    assert_true(translate->code_ring.used <= translate->code_ring.end);
    assert_true(translate->aside_ring.used <= translate->aside_ring.end);
    assert_true(translate->data_ring.used <= translate->data_ring.end);
    assert_true(translate->code_ring.end <= translate->aside_ring.start);
    assert_int_equal(translate->code_ring.end + translate->aside_ring.end -
                         translate->aside_ring.start + translate->data_ring.end,
                     translate->code.granted);
    assert_true(translate->code.granted <= translate->code.code_size);
    assert_int_equal(translate->stats.translations - translate->stats.evictions, count);
    return count;
}

/* ------------------------------------------------------------------------- tests */

/* Block n counts in RAX and goes on to the next one, in its page by a link, else by the jump cache;
 * the last one halts. */
static uint64_t put_blocks_at(struct testvm *vm, uint64_t at)
{
    static const uint8_t step[8] = {0x48, 0xff, 0xc0, 0xeb, 0x03, 0xcc, 0xcc, 0xcc};
    uint8_t code[BLOCKS * 8];
    for (unsigned n = 0; n < BLOCKS; n++)
        memcpy(code + n * 8, step, sizeof(step)); /* inc rax; jmp */
    code[(BLOCKS - 1) * 8 + 3] = 0xf4;
    testvm_put(vm, at, code, sizeof(code));
    return at + (BLOCKS - 1) * 8;
}

static uint64_t put_blocks(struct testvm *vm)
{
    return put_blocks_at(vm, CODE);
}

static bool has(struct testvm *vm, uint64_t rip)
{
    return translate_look_up(translate_of(vm->vcpu), rip, rip, vm->vcpu->privilege) != NULL;
}

/* Pages that are there of code and data. */
static size_t memory_of(const struct translate *translate)
{
    const struct code_piece *piece = &translate->code;
    unsigned char there[CODE_POOL_DEFAULT / PAGE_SIZE];
    size_t pages = 0;
    assert_in_range(piece->code_size, 1, CODE_POOL_DEFAULT);
    assert_int_equal(piece->code_size, piece->data_size);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(mincore(i == 0 ? piece->write : piece->data, piece->code_size, there), 0);
        for (size_t n = 0; n < piece->code_size / PAGE_SIZE; n++)
            pages += there[n] & 1;
    }
    return pages;
}

static void test_oldest_gives_way(void **state)
{
    struct tiny tiny;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    uint64_t last = put_blocks(&tiny.vm);
    for (unsigned round = 1; round <= 3; round++) {
        vcpu->gpr[GPR_RAX] = 0;
        assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], BLOCKS);
        unsigned count = check_cache(translate);
        assert_in_range(count, 100, BLOCKS - 1);
        /* The youngest are there and no others: the blocks run in order. */
        for (unsigned n = 0; n < BLOCKS; n++)
            assert_int_equal(has(&tiny.vm, CODE + n * 8), n >= BLOCKS - count);
        assert_true(has(&tiny.vm, last));
    }
    size_t before = memory_of(translate);
    ring_empty(translate);
    assert_int_equal(check_cache(translate), 0);
    assert_true(memory_of(translate) < before / 4);
    assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
    check_cache(translate);
    tiny_destroy(&tiny);
}

/* Code that nobody comes back to is evicted, and there is no more memory for it than what a vCPU is
 * sure of; for what is run again and again there is, until all of it fits. */
static void test_memory_for_what_returns(void **state)
{
    (void)state;
    enum { AREAS = 16 };
    struct tiny tiny;
    tiny_create_with(&tiny, 32 * CODE_PIECE_LEAST);
    struct vcpu *vcpu = tiny.vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    const size_t sure = 16 * CODE_PIECE_LEAST;
    for (unsigned n = 0; n < AREAS; n++) {
        put_blocks_at(&tiny.vm, CODE + n * BLOCKS * 8);
        assert_int_equal(testvm_run(&tiny.vm, CODE + n * BLOCKS * 8), VCPU_EXIT_HALTED);
        check_cache(translate);
    }
    assert_true(translate->stats.evictions > 2 * BLOCKS);
    assert_int_equal(translate->code.granted, sure);
    assert_int_equal(translate->missed, 0);

    /* One area more than fits. */
    unsigned again = (unsigned)(check_cache(translate) / BLOCKS) + 1;
    assert_in_range(again, 2, AREAS - 1);
    uint64_t evictions = 0, made = 0;
    for (unsigned round = 0; round < 8; round++) {
        evictions = translate->stats.evictions;
        made = translate->stats.translations;
        for (unsigned n = 0; n < again; n++) {
            assert_int_equal(testvm_run(&tiny.vm, CODE + n * BLOCKS * 8), VCPU_EXIT_HALTED);
            check_cache(translate);
        }
    }
    assert_true(translate->code.granted > sure && translate->code.granted < 2 * sure);
    assert_int_equal(translate->stats.evictions, evictions);
    assert_int_equal(translate->stats.translations, made);

    /* An idle vCPU gives it back, and that it did does not count. */
    ring_empty(translate);
    size_t missed = translate->missed;
    assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(translate->missed, missed);
    assert_true(translate->code.granted <= sure);
    tiny_destroy(&tiny);
}

/* Blocks that end by a jump to another page have nothing that is seldom run. */
static void test_nothing_aside(void **state)
{
    enum { PAGES = 256 };
    struct tiny tiny;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    uint64_t at[BLOCKS + 1];
    for (unsigned n = 0; n <= BLOCKS; n++)
        at[n] = CODE + n % PAGES * PAGE_SIZE + n / PAGES * 8;
    for (unsigned n = 0; n < BLOCKS; n++) {
        uint8_t code[8] = {0x48, 0xff, 0xc0, 0xe9}; /* inc rax; jmp */
        uint32_t distance = (uint32_t)(at[n + 1] - (at[n] + sizeof(code)));
        memcpy(code + 4, &distance, sizeof(distance));
        testvm_put(&tiny.vm, at[n], code, sizeof(code));
    }
    testvm_put(&tiny.vm, at[BLOCKS], (const uint8_t[]){0xf4}, 1);
    for (unsigned round = 1; round <= 3; round++) {
        vcpu->gpr[GPR_RAX] = 0;
        assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], BLOCKS);
        assert_in_range(check_cache(translate), 100, BLOCKS - 1);
        assert_int_equal(translate->aside_ring.at, translate->aside_ring.start);
    }
    /* Others that have something stand among them. */
    put_blocks(&tiny.vm);
    vcpu->gpr[GPR_RAX] = 0;
    assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(vcpu->gpr[GPR_RAX], BLOCKS);
    assert_in_range(check_cache(translate), 100, BLOCKS - 1);
    assert_true(translate->aside_ring.at > translate->aside_ring.start);
    tiny_destroy(&tiny);
}

/* Each page has a first block that all others of it go to and that knows the next: older than what
 * leads to it, so it is evicted while links to it are left. */
static void test_links_to_evicted(void **state)
{
    struct tiny tiny;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    /* lea rbx, [rbx+16]; dec rcx; jz the next block; jmp rbx; here: hlt */
    static const uint8_t start[] = {0x48, 0x8d, 0x5b, 0x10, 0x48, 0xff,
                                    0xc9, 0x74, 0x02, 0xff, 0xe3, 0xf4};
    static const uint8_t step[] = {0x48, 0xff, 0xc0, 0xe9}; /* inc rax; jmp */
    uint8_t page[PAGE_SIZE];
    const unsigned pages = 16, blocks = PAGE_SIZE / 16 - 1;
    memset(page, 0xf4, sizeof(page));
    memcpy(page, start, sizeof(start));
    for (unsigned n = 1; n <= blocks; n++) {
        uint32_t back = (uint32_t) - (int)(n * 16 + 8);
        memcpy(page + n * 16, step, sizeof(step));
        memcpy(page + n * 16 + 4, &back, 4);
    }
    for (unsigned n = 0; n < pages; n++)
        testvm_put(&tiny.vm, CODE + n * PAGE_SIZE, page, sizeof(page));
    for (unsigned n = 0; n < 5 * pages; n++) {
        uint64_t rip = CODE + n * 5 % pages * PAGE_SIZE;
        vcpu->gpr[GPR_RAX] = 0;
        vcpu->gpr[GPR_RBX] = rip;
        vcpu->gpr[GPR_RCX] = blocks + 1;
        assert_int_equal(testvm_run(&tiny.vm, rip), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], blocks);
        check_cache(translate_of(vcpu));
    }
    tiny_destroy(&tiny);
}

/* One page is written each time, so that dropped translations stand in the rings among the others
 * when their turn comes. */
static void test_dropped_among_others(void **state)
{
    struct tiny tiny;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    put_blocks(&tiny.vm);
    for (unsigned round = 0; round < 40; round++) {
        uint64_t page = (uint64_t)CODE + (round * 3 % (BLOCKS * 8 / PAGE_SIZE)) * PAGE_SIZE;
        testvm_put(&tiny.vm, page, "\x48\xff\xc0\xeb\x03", 5);
        assert_false(has(&tiny.vm, page));
        vcpu->gpr[GPR_RAX] = 0;
        assert_int_equal(testvm_run(&tiny.vm, page), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], (CODE + BLOCKS * 8 - page) / 8);
        check_cache(translate);
    }
    assert_true(translate->stats.evictions > BLOCKS);
    tiny_destroy(&tiny);
}

/* The same blocks at several addresses: their RIPs are in the jump cache when they are evicted. */
static void test_evicted_at_other_addresses(void **state)
{
    struct tiny tiny;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    struct translate *translate = translate_of(vcpu);
    put_blocks(&tiny.vm);
    for (uint64_t alias = 1; alias < 4; alias++) {
        uint64_t entry = 0x87; /* 2 MiB from 0 on */
        testvm_put(&tiny.vm, 0x3000 + 8 * (4 * alias), &entry, 8);
    }
    mmu_flush(&vcpu->mmu, false);
    for (unsigned round = 0; round < 60; round++) {
        uint64_t alias = round * 7 / 3 % 4 * 0x800000, from = round * 1237 % BLOCKS & ~63u;
        vcpu->gpr[GPR_RAX] = 0;
        assert_int_equal(testvm_run(&tiny.vm, alias + CODE + from * 8), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], BLOCKS - from);
        assert_int_equal(vcpu->rip, alias + CODE + (BLOCKS - 1) * 8 + 4);
        check_cache(translate);
        if (round % 16 == 15)
            testvm_put(&tiny.vm, CODE + from * 8, "\x48\xff\xc0\xeb\x03", 5);
    }
    assert_true(translate->stats.evictions > BLOCKS);
    tiny_destroy(&tiny);
}

/* What an instruction is, is remembered for the slow path; it must be forgotten when it changes. */
static void test_slow_path_of_changed_code(void **state)
{
    struct tiny tiny;
    uint64_t value = 0x1122334455667788;
    tiny_create(&tiny);
    struct vcpu *vcpu = tiny.vm.vcpu;
    testvm_put(&tiny.vm, 0x200000, &value, 8);
    testvm_put(&tiny.vm, 0x210000, &value, 8);
    testvm_put(&tiny.vm, CODE, "\x48\x8b\x06\xf4", 4); /* mov rax, [rsi]; hlt */
    vcpu->gpr[GPR_RSI] = 0x200000;
    assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(vcpu->gpr[GPR_RAX], value);

    vcpu->gpr[GPR_RAX] = vcpu->gpr[GPR_RBX] = 0;
    vcpu->gpr[GPR_RSI] = 0x210000;
    testvm_put(&tiny.vm, CODE, "\x48\x8b\x1e\xf4", 4); /* mov rbx, [rsi] */
    assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(vcpu->gpr[GPR_RBX], value);
    assert_int_equal(vcpu->gpr[GPR_RAX], 0);
    tiny_destroy(&tiny);
}

/* A fault on the slow path, in the middle of a block: RIP, flags and registers are of the
 * instruction, the one of its slow paths that it is. */
static void test_fault_in_the_middle(void **state)
{
    uint8_t code[15 * 7 + 1], *at = code;
    for (unsigned n = 0; n < 15; n++) {
        memcpy(at, "\x48\x83\xc0\x01\x48\x8b\x1e", 7); /* add rax, 1; mov rbx, [rsi] */
        at += 7;
    }
    *at = 0xf4;
    for (unsigned n = 0; n < 15; n++) {
        struct tiny tiny;
        tiny_create(&tiny);
        struct vcpu *vcpu = tiny.vm.vcpu;
        testvm_put(&tiny.vm, CODE, code, sizeof(code));
        /* mov rbx, [rdi] for one of them: beyond what is mapped. */
        testvm_put(&tiny.vm, CODE + n * 7 + 6, "\x1f", 1);
        vcpu->gpr[GPR_RAX] = 0;
        vcpu->gpr[GPR_RBX] = 0;
        vcpu->gpr[GPR_RSI] = 0x200000;
        vcpu->gpr[GPR_RDI] = 0x7fff12345678;
        assert_int_equal(testvm_run(&tiny.vm, CODE), VCPU_EXIT_SHUTDOWN);
        assert_int_equal(vcpu->rip, CODE + n * 7 + 4);
        assert_int_equal(vcpu->cr2, 0x7fff12345678);
        assert_int_equal(vcpu->gpr[GPR_RAX], n + 1);
        assert_int_equal(vcpu->gpr[GPR_RBX], 0);
        assert_int_equal(vcpu->rflags & (FLAG_ZF | FLAG_CF | FLAG_SF | FLAG_OF), 0);
        assert_true(translate_of(vcpu)->stats.translations > 0);
        tiny_destroy(&tiny);
    }
}

/* The kernel can read this byte of ours, so we could. */
static bool is_readable(const uint8_t *at)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    bool readable = write(ends[1], at, 1) == 1;
    assert_true(readable || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return readable;
}

static void assert_guarded(const uint8_t *start, size_t size)
{
    assert_true(is_readable(start));
    assert_true(is_readable(start + size - 1));
    assert_false(is_readable(start - 1));
    assert_false(is_readable(start + size));
}

static void test_guards(void **state)
{
    struct error err = {0};
    struct code_pool *pool;
    struct code_piece pieces[3];
    assert_int_equal(code_pool_create(&pool, CODE_POOL_LEAST, 3, &err), STATUS_OK);
    for (unsigned n = 0; n < 3; n++)
        assert_int_equal(code_pool_take(pool, &pieces[n], &err), STATUS_OK);
    for (unsigned n = 0; n < 3; n++) {
        struct code_piece *piece = &pieces[n];
        assert_guarded(piece->write, piece->code_size);
        assert_guarded(piece->execute, piece->code_size);
        assert_guarded(piece->data, piece->data_size);
        /* Each has bytes of its own. */
        piece->write[piece->code_size - 1] = piece->data[0] = (uint8_t)(n + 1);
        assert_int_equal(piece->execute[piece->code_size - 1], n + 1);
    }
    for (unsigned n = 0; n < 3; n++) {
        assert_int_equal(pieces[n].execute[pieces[n].code_size - 1], n + 1);
        assert_int_equal(pieces[n].data[0], n + 1);
        code_pool_give(pool, &pieces[n]);
    }
    assert_int_equal(code_pool_take(pool, &pieces[0], &err), STATUS_OK);
    code_pool_give(pool, &pieces[0]);
    code_pool_destroy(pool);
}

static void test_pool(void **state)
{
    struct error err = {0};
    struct code_pool *pool = NULL;
    struct code_piece a, b, c;
    assert_int_equal(code_pool_create(&pool, CODE_PIECE_LEAST, 2, &err), STATUS_INVALID);
    assert_int_equal(code_pool_create(&pool, CODE_POOL_MOST + PAGE_SIZE, 2, &err), STATUS_INVALID);
    assert_int_equal(code_pool_create(&pool, CODE_POOL_DEFAULT, 0, &err), STATUS_INVALID);
    assert_int_equal(code_pool_create(&pool, CODE_POOL_LEAST + 12345, 2, &err), STATUS_OK);
    assert_int_equal(code_pool_take(pool, &a, &err), STATUS_OK);
    assert_int_equal(code_pool_take(pool, &b, &err), STATUS_OK);
    assert_int_equal(code_pool_take(pool, &c, &err), STATUS_NO_SPACE);
    /* The first to ask gets what is not the other's reserve, and that is left. */
    while (code_pool_grant(pool, &a)) {
    }
    while (code_pool_grant(pool, &b)) {
    }
    assert_int_equal(a.granted, CODE_POOL_LEAST / 4 * 3);
    assert_int_equal(b.granted, CODE_POOL_LEAST / 4);
    assert_true(a.write + a.code_size <= b.write || b.write + b.code_size <= a.write);
    assert_true(a.data + a.data_size <= b.data || b.data + b.data_size <= a.data);

    a.write[1] = 0xc3;
    assert_int_equal(a.execute[1], 0xc3);
    memset(a.data, 0xff, a.data_size);
    code_pool_give(pool, &a);
    assert_true(code_pool_grant(pool, &b));
    assert_int_equal(code_pool_take(pool, &c, &err), STATUS_OK);
    assert_ptr_equal(c.data, a.data);
    for (size_t i = 0; i < c.data_size; i++)
        assert_int_equal(c.data[i], 0);
    code_pool_give(pool, &b);
    code_pool_give(pool, &c);
    code_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_gives_way),
        cmocka_unit_test(test_memory_for_what_returns),
        cmocka_unit_test(test_nothing_aside),
        cmocka_unit_test(test_links_to_evicted),
        cmocka_unit_test(test_dropped_among_others),
        cmocka_unit_test(test_evicted_at_other_addresses),
        cmocka_unit_test(test_slow_path_of_changed_code),
        cmocka_unit_test(test_fault_in_the_middle),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_guards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
