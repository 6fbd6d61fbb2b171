#ifndef AEROSTAT_TESTS_MMU_ORACLE_H
#define AEROSTAT_TESTS_MMU_ORACLE_H

/*
 * What a walk must come to, written from the SDM (vol. 3, ch. 4) rule by rule and with nothing of
 * the walker's: each kind of entry has its own lists, the access rights are the sentences of 4.6.1.
 */

#include <stdbool.h>
#include <stdint.h>

enum oracle_mode { ORACLE_32, ORACLE_PAE, ORACLE_LONG };
enum oracle_access { ORACLE_READ, ORACLE_WRITE, ORACLE_FETCH };
enum oracle_who { ORACLE_USER, ORACLE_KERNEL, ORACLE_KERNEL_AC };

struct oracle_case {
    enum oracle_mode mode;
    bool wp, smep, smap, nxe, pse;
    enum oracle_access access;
    enum oracle_who who;
    uint64_t linear;
    uint64_t entries[4]; /* in the order of the walk, all that could be used */
};

struct oracle_result {
    bool fault;
    uint32_t error_code;
    uint64_t address;  /* guest-physical, of the byte */
    uint64_t after[4]; /* the entries afterwards */
    unsigned used;     /* entries read */
    bool may_write;    /* the same CPU at the same privilege may write there */
    bool dirty;        /* the D flag of the last entry, afterwards */
};

struct oracle_result oracle_walk(const struct oracle_case *c);

#endif
