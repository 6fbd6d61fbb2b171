#ifndef AEROSTAT_CHECKER_AREA_H
#define AEROSTAT_CHECKER_AREA_H

/*
 * An area is a number of pages in memory or in a file, all of one object. Its content after each
 * round is known without any record that could itself be damaged: a page is written in round 1, and
 * later in every round in which a number drawn from (seed, object, page, round) says so; the round
 * of the last write is its generation.
 */

#include "checker.h"

#define AREA_CHUNK 16u /* pages that a direct file reads or writes at once */

struct area {
    struct worker *worker;
    uint32_t object;
    uint32_t pages;
    uint8_t *memory;   /* NULL for a file */
    uint32_t piece;    /* pages between two gaps of a page; 0: no gaps */
    int file;          /* -1 for memory */
    uint8_t *chunk;    /* of AREA_CHUNK pages; the file is open with O_DIRECT. NULL otherwise */
    const char *place; /* words for messages: "mapping", "read", ... */
};

/* The pages that fit into so many bytes; at least AREA_CHUNK, and a multiple of it. */
uint32_t area_pages_of(uint64_t bytes);

uint8_t *area_address(const struct area *area, uint32_t page);
uint32_t area_generation(const struct area *area, uint32_t page, uint32_t round);

/* Every page must be as it was left in that round. Nothing to do for round 0. */
void area_verify(const struct area *area, uint32_t round);
/* One page, whatever it should hold. */
void area_verify_page(const struct area *area, uint32_t page, struct page_identity identity);
void area_verify_zero(const struct area *area, uint32_t page);

/* Writes the pages whose turn it is in that round. */
void area_write(const struct area *area, uint32_t round);
/* Writes all pages as they are in that round. */
void area_write_all(const struct area *area, uint32_t round);
void area_write_page(const struct area *area, uint32_t page, struct page_identity identity);

/* Damages a page if the worker was told to do that to this kind of object, once, in round 2 or
 * later. To be called between writing in that round and verifying. */
void area_sabotage(const struct area *area, uint32_t round);

#endif
