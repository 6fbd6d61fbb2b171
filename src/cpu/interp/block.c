/*
 * The cache of decoded blocks.
 *
 * A block is found by the guest-physical address of its first byte and by what else decoding
 * depends on (mode and code size), so it survives every change of the page tables: the instruction
 * TLB says, exactly and at each block, which physical page RIP is in. It lies within one page. An
 * instruction that crosses into the next page is decoded anew each time, since its two pages can
 * come apart.
 *
 * Memory is a ring of chunks, allocated as they are first needed and filled one after the other.
 * When the last is full the oldest is emptied and filled again: blocks leave in the order they
 * came, and there is nothing to tune. Dropping a block only unlinks it. Its memory is not written
 * before its chunk's turn comes, and that happens in block_find_slow alone, on the vCPU's own
 * thread between two blocks: so a block that drops itself (by writing its own page, or while it
 * waits in a device) can be left in good order.
 *
 * Invariants: a block that is linked is in both tables; a page with linked blocks has been marked
 * (mmu_mark_code) before its bytes were read; block_drop is called on the vCPU's thread, or while
 * the vCPU is parked, so there is no lock here.
 */

#include "cpu/interp/block.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/access.h"
#include "cpu/exception.h"
#include "cpu/interp/interp.h"

struct block_chunk {
    size_t used; /* bytes of data */
    _Alignas(16) uint8_t data[];
};

#define CHUNK_CAPACITY (BLOCK_CHUNK_SIZE - sizeof(struct block_chunk))

static size_t block_size(unsigned count)
{
    return align_up(sizeof(struct block) + count * sizeof(struct insn), 16);
}

/* ------------------------------------------------------------------------- links */

static struct block **page_bucket(struct interp *interp, uint64_t ppn)
{
    return &interp->pages[(ppn ^ ppn >> 10) & (BLOCK_PAGE_HASH_SIZE - 1)];
}

static void block_link(struct interp *interp, struct block *block)
{
    struct block **bucket = block_bucket(interp, block->gpa);
    block->hash_next = *bucket;
    block->hash_link = bucket;
    if (*bucket != NULL)
        (*bucket)->hash_link = &block->hash_next;
    *bucket = block;

    bucket = page_bucket(interp, block->gpa >> PAGE_SHIFT);
    block->page_next = *bucket;
    block->page_link = bucket;
    if (*bucket != NULL)
        (*bucket)->page_link = &block->page_next;
    *bucket = block;
}

static void block_unlink(struct block *block)
{
    *block->hash_link = block->hash_next;
    if (block->hash_next != NULL)
        block->hash_next->hash_link = block->hash_link;
    *block->page_link = block->page_next;
    if (block->page_next != NULL)
        block->page_next->page_link = block->page_link;
    block->hash_link = NULL; /* marks it as unlinked */
}

void block_drop(void *context, uint64_t ppn)
{
    struct vcpu *vcpu = context;
    struct interp *interp = vcpu->interp;
    vcpu->leave_block = true;
    if (interp == NULL)
        return;
    bool all = ppn == MMU_ALL_PAGES;
    struct block **first = all ? interp->pages : page_bucket(interp, ppn);
    struct block **end = all ? interp->pages + BLOCK_PAGE_HASH_SIZE : first + 1;
    for (struct block **bucket = first; bucket != end; bucket++) {
        struct block *next;
        for (struct block *block = *bucket; block != NULL; block = next) {
            next = block->page_next;
            if (all || block->gpa >> PAGE_SHIFT == ppn)
                block_unlink(block);
        }
    }
}

/* ------------------------------------------------------------------------- memory */

enum status block_cache_create(struct interp **out, struct error *err)
{
    struct interp *interp = calloc(1, sizeof(*interp));
    if (interp == NULL)
        goto fail;
    interp->solo = calloc(1, block_size(1));
    for (unsigned i = 0; i < ARRAY_LENGTH(interp->scratch); i++)
        interp->scratch[i] = malloc(block_size(BLOCK_MAX_INSNS));
    interp->chunks[0] = malloc(BLOCK_CHUNK_SIZE);
    if (interp->solo == NULL || interp->scratch[0] == NULL || interp->scratch[1] == NULL ||
        interp->chunks[0] == NULL)
        goto fail;
    interp->chunks[0]->used = 0;
    *out = interp;
    return STATUS_OK;
fail:
    block_cache_destroy(interp);
    return error_set(err, STATUS_NO_MEMORY, "no memory for the interpreter's caches");
}

void block_cache_destroy(struct interp *interp)
{
    if (interp == NULL)
        return;
    for (unsigned i = 0; i < BLOCK_CHUNKS; i++)
        free(interp->chunks[i]);
    free(interp->solo);
    for (unsigned i = 0; i < ARRAY_LENGTH(interp->scratch); i++)
        free(interp->scratch[i]);
    free(interp);
}

static void chunk_empty(struct block_chunk *chunk)
{
    for (size_t at = 0; at < chunk->used;) {
        struct block *block = (struct block *)(void *)(chunk->data + at);
        at += block_size(block->count);
        if (block->hash_link != NULL)
            block_unlink(block);
    }
    chunk->used = 0;
}

/* Room for a block, always: the oldest ones give way, and a host without memory only makes the ring
 * smaller. */
static struct block *block_allocate(struct interp *interp, unsigned count)
{
    size_t size = block_size(count);
    struct block_chunk *chunk = interp->chunks[interp->current];
    if (CHUNK_CAPACITY - chunk->used < size) {
        unsigned next = (interp->current + 1) % BLOCK_CHUNKS;
        if (interp->chunks[next] == NULL) {
            interp->chunks[next] = malloc(BLOCK_CHUNK_SIZE);
            if (interp->chunks[next] == NULL)
                next = 0;
            else
                interp->chunks[next]->used = 0;
        }
        interp->current = next;
        chunk = interp->chunks[next];
        chunk_empty(chunk);
    }
    struct block *block = (struct block *)(void *)(chunk->data + chunk->used);
    chunk->used += size;
    return block;
}

/* ------------------------------------------------------------------------- fetching */

/* RIP as a linear address. */
static uint64_t fetch_linear(struct vcpu *vcpu)
{
    if (vcpu->mode == MODE_LONG) {
        if (!access_is_canonical(vcpu->rip))
            vcpu_raise_error(vcpu, VECTOR_GP, 0);
        return vcpu->rip;
    }
    if (vcpu->rip > vcpu->seg[SEG_CS].limit)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    return (uint32_t)(vcpu->seg[SEG_CS].base + vcpu->rip);
}

/* Bytes of code from RIP on that the segment has. */
static uint64_t fetch_limit(const struct vcpu *vcpu)
{
    if (vcpu->mode == MODE_LONG)
        return UINT64_MAX;
    return (uint64_t)vcpu->seg[SEG_CS].limit - vcpu->rip + 1;
}

/* Instruction fetch from a page. The host address is good until the next translation. */
static const uint8_t *fetch_page(struct vcpu *vcpu, uint64_t linear, uint64_t *gpa)
{
    struct mmu_target target;
    struct mmu_fault fault;
    enum mmu_privilege privilege = vcpu->cpl == 3 ? MMU_USER : MMU_SUPERVISOR;
    switch (mmu_resolve(&vcpu->mmu, linear, MMU_EXECUTE, privilege, &target, &fault)) {
    case MMU_OK:
        *gpa = target.gpa;
        return target.host;
    case MMU_FAULT:
        vcpu_raise_page_fault(vcpu, &fault);
    case MMU_LOST:
        vcpu_lose(vcpu);
    case MMU_MMIO:
    default:
        /* What no RAM answers reads as all ones, and FF FF is not an instruction. */
        vcpu_raise(vcpu, VECTOR_UD);
    }
}

/* The one instruction at RIP, which crosses a page or the segment's limit (or so we must find out):
 * as a block of its own that is not kept. */
static const struct block *block_decode_solo(struct vcpu *vcpu, uint64_t linear)
{
    struct block *block = vcpu->interp->solo;
    uint8_t bytes[INSN_MAX_LENGTH];
    uint64_t limit = fetch_limit(vcpu);
    unsigned wanted = limit < INSN_MAX_LENGTH ? (unsigned)limit : INSN_MAX_LENGTH;
    unsigned in_page = (unsigned)(PAGE_SIZE - (linear & PAGE_MASK));
    unsigned have = wanted < in_page ? wanted : in_page;
    uint64_t gpa;
    bool ends_block;

    memcpy(bytes, fetch_page(vcpu, linear, &gpa), have);
    block->gpa = gpa;
    enum insn_decode_result result = insn_decode(vcpu, bytes, have, &block->insns[0], &ends_block);
    if (result == INSN_TRUNCATED && have < wanted) {
        uint64_t next = linear + have;
        if (vcpu->mode != MODE_LONG)
            next = (uint32_t)next;
        else if (!access_is_canonical(next))
            vcpu_raise_error(vcpu, VECTOR_GP, 0);
        memcpy(bytes + have, fetch_page(vcpu, next, &gpa), wanted - have);
        result = insn_decode(vcpu, bytes, wanted, &block->insns[0], &ends_block);
    }
    if (result == INSN_TRUNCATED) /* by the segment's limit */
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
    block->count = 1;
    block->bytes = block->insns[0].length;
    return block;
}

/* Decodes from `host`, guest address gpa, into scratch[0] until something ends the block. NULL
 * where not even one instruction is whole. */
static struct block *block_decode(struct vcpu *vcpu, uint64_t gpa, const uint8_t *host,
                                  uint64_t available)
{
    struct block *block = vcpu->interp->scratch[0];
    struct insn *insns = block->insns;
    unsigned count = 0, at = 0;
    bool ends_block = false;
    while (count < BLOCK_MAX_INSNS && at < available && !ends_block) {
        /* A copy, so that what is decoded is what is checked, whoever writes the page now. */
        uint8_t bytes[INSN_MAX_LENGTH];
        unsigned have =
            available - at < sizeof(bytes) ? (unsigned)(available - at) : (unsigned)sizeof(bytes);
        memcpy(bytes, host + at, have);
        if (insn_decode(vcpu, bytes, have, &insns[count], &ends_block) == INSN_TRUNCATED)
            break;
        at += insns[count].length;
        count++;
    }
    block->gpa = gpa;
    block->key = block_key(vcpu);
    block->bytes = (uint16_t)at;
    block->count = (uint16_t)count;
    return count != 0 ? block : NULL;
}

uint64_t block_locate(struct vcpu *vcpu)
{
    uint64_t gpa;
    fetch_page(vcpu, fetch_linear(vcpu), &gpa);
    return gpa;
}

const struct block *block_decode_here(struct vcpu *vcpu)
{
    uint64_t linear = fetch_linear(vcpu), limit = fetch_limit(vcpu), gpa, marked;
    const uint8_t *host;
    fetch_page(vcpu, linear, &gpa);

    /* Marking and translating may both give up and regain the MMU; meanwhile the translation may
     * have changed, or the mark may have been cleared by a write. */
    do {
        marked = gpa;
        mmu_mark_code(&vcpu->mmu, gpa >> PAGE_SHIFT);
        host = fetch_page(vcpu, linear, &gpa);
    } while (gpa != marked || !pmap_code_is_guarded(vcpu->mmu.map, gpa >> PAGE_SHIFT));

    uint64_t in_page = PAGE_SIZE - (gpa & PAGE_MASK);
    const struct block *block = block_decode(vcpu, gpa, host, in_page < limit ? in_page : limit);
    if (block == NULL)
        return block_decode_solo(vcpu, linear);
    vcpu->stats.blocks_decoded++;
    return block;
}

const struct block *block_decode_more(struct vcpu *vcpu, uint64_t gpa)
{
    struct interp *interp = vcpu->interp;
    struct block *before = interp->scratch[0];
    bool writable;
    const uint8_t *page = pmap_page_read(vcpu->mmu.map, gpa >> PAGE_SHIFT, &writable);
    if (page == NULL)
        return NULL;
    interp->scratch[0] = interp->scratch[1];
    interp->scratch[1] = before;
    return block_decode(vcpu, gpa, page + (gpa & PAGE_MASK), PAGE_SIZE - (gpa & PAGE_MASK));
}

const struct block *block_find_slow(struct vcpu *vcpu)
{
    struct interp *interp = vcpu->interp;
    uint64_t gpa = block_locate(vcpu);
    const struct block *found = block_lookup(interp, gpa, block_key(vcpu));
    if (found != NULL)
        return found->bytes <= fetch_limit(vcpu) ? found
                                                 : block_decode_solo(vcpu, fetch_linear(vcpu));
    found = block_decode_here(vcpu);
    if (found == interp->solo)
        return found;
    struct block *block = block_allocate(interp, found->count);
    memcpy(block, found, sizeof(*block) + found->count * sizeof(struct insn));
    block_link(interp, block);
    return block;
}
