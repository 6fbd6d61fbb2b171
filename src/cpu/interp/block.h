#ifndef AEROSTAT_CPU_INTERP_BLOCK_H
#define AEROSTAT_CPU_INTERP_BLOCK_H

/* A run of decoded instructions that lie in one page, and the cache of them. See block.c. */

#include "cpu/insn.h"
#include "util/status.h"

#define BLOCK_MAX_INSNS      48
#define BLOCK_HASH_SIZE      8192u
#define BLOCK_PAGE_HASH_SIZE 1024u

struct block {
    uint64_t gpa; /* of its first byte */
    struct block *hash_next, **hash_link;
    struct block *page_next, **page_link;
    uint32_t key;   /* block_key it was decoded for */
    uint16_t bytes; /* length of the code */
    uint16_t count; /* instructions, at least 1 */
    struct insn insns[];
};

struct block_chunk;

#define BLOCK_CHUNK_SIZE ((size_t)256 << 10)
#define BLOCK_CHUNKS     15

/* One vCPU's decoded code. */
struct interp {
    struct block *hash[BLOCK_HASH_SIZE];
    struct block *pages[BLOCK_PAGE_HASH_SIZE];
    struct block_chunk *chunks[BLOCK_CHUNKS];
    unsigned current;         /* chunk being filled */
    struct block *solo;       /* room for the one instruction that crosses a page */
    struct block *scratch[2]; /* room for a block being decoded, and for one after it */
};

enum status block_cache_create(struct interp **interp, struct error *err);
void block_cache_destroy(struct interp *interp);

/* mmu_code_drop_fn; context is the vCPU. */
void block_drop(void *context, uint64_t ppn);

/* The slow part of block_find: checks RIP, translates it, decodes. Raises what fetching raises. */
const struct block *block_find_slow(struct vcpu *vcpu);

/* For who keeps something else of a block, by its physical address: where RIP is, and the block
 * there, decoded anew, its page marked. The block is in interp->scratch, or interp->solo where its
 * one instruction crosses a page, good until the next call of anything here; see block_find. */
uint64_t block_locate(struct vcpu *vcpu);
const struct block *block_decode_here(struct vcpu *vcpu);
/* The block at gpa, which is in the same page, right after that. The block before it stays good
 * until the next call. NULL: no whole instruction is there. */
const struct block *block_decode_more(struct vcpu *vcpu, uint64_t gpa);

/* What decoding depends on beside the bytes. */
static inline uint32_t block_key(const struct vcpu *vcpu)
{
    uint32_t key = (uint32_t)vcpu->mode << 8 | vcpu->code_size;
    if (vcpu->mode == MODE_PROTECTED)
        key |= (uint32_t)(vcpu->rflags & FLAG_VM);
    return key;
}

static inline struct block **block_bucket(struct interp *interp, uint64_t gpa)
{
    return &interp->hash[(gpa ^ gpa >> 13) & (BLOCK_HASH_SIZE - 1)];
}

static inline const struct block *block_lookup(struct interp *interp, uint64_t gpa, uint32_t key)
{
    for (const struct block *block = *block_bucket(interp, gpa); block != NULL;
         block = block->hash_next) {
        if (block->gpa == gpa && block->key == key)
            return block;
    }
    return NULL;
}

/*
 * The block at the vCPU's RIP, decoded if need be. Raises what fetching raises. It stays readable
 * until the next call, even when its page is written meanwhile (then vcpu->leave_block is set).
 */
static inline const struct block *block_find(struct vcpu *vcpu)
{
    uint64_t linear = vcpu->rip;
    if (likely(vcpu->mode == MODE_LONG)) {
        const struct itlb_entry *entry =
            &vcpu->mmu.itlb[vcpu->cpl != 3][(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1)];
        /* A tag is canonical, so RIP is too. */
        if (likely(entry->tag == (linear & ~PAGE_MASK))) {
            uint64_t gpa = (entry->info & ~PAGE_MASK) | (linear & PAGE_MASK);
            const struct block *block = block_lookup(vcpu->interp, gpa, block_key(vcpu));
            if (likely(block != NULL))
                return block;
        }
    }
    return block_find_slow(vcpu);
}

#endif
