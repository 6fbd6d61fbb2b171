#ifndef AEROSTAT_PROTO_LINK_H
#define AEROSTAT_PROTO_LINK_H

/*
 * What goes over the link between a VM process and the manager: a SOCK_SEQPACKET pair, so a message
 * is whole or not there. Every message begins with struct link_head; its body has exactly the size
 * that its type and count give, or it is refused (link_check). Both ends are the same machine:
 * integers are in its byte order, and there is no padding. docs/protocol.md has the meaning, the
 * order and who may send what.
 */

#include <stdint.h>

#include "util/status.h"

#define LINK_VERSION   1
#define LINK_PAGES     512u                    /* pages in one message, at most */
#define LINK_MOST      (8u + LINK_PAGES * 16u) /* bytes of a message: OFFER, full */
#define LINK_NAME_SIZE 65u                     /* CONTROL_NAME_MOST and a NUL; unused bytes are 0 */

/* Frames are pages of a group's pool: frame f at offset f * 4096. No frame has the number 0, so
 * that a table of zeros has none. */
#define LINK_FRAMES_MOST (1u << 24)
/* PPNs in messages are below this: 2 TiB of guest-physical space in the mirror's 29 bits. */
#define LINK_PPN_MOST (1u << 29)

enum link_type {
    /* VM to manager */
    LINK_HELLO = 1, /* struct link_hello; descriptors: RAM, and the pool if there is one */
    LINK_HOLDS,     /* count x struct link_ref: shared pages, after HELLO */
    LINK_READY,     /* HOLDS is complete */
    LINK_OFFER,     /* count x struct link_offer */
    LINK_DROP,      /* count x struct link_ref: no longer held */
    LINK_REPORT,    /* struct link_report */
    /* manager to VM */
    LINK_WELCOME, /* struct link_welcome; descriptor: the pool, for reading alone */
    LINK_ATTACH,  /* count x struct link_ref: compare with the frame, and use it or DROP it */
    LINK_TARGET,  /* struct link_target */
};

struct link_head {
    uint32_t type;
    uint32_t count; /* of what follows, where that is a list; else 1, and 0 for READY */
};

struct link_ref {
    uint32_t ppn;
    uint32_t frame;
};

struct link_offer {
    uint64_t hash; /* XXH3_64bits_withSeed(page, 4096, key of the group) */
    uint32_t ppn;
    uint32_t flags; /* LINK_FRESH */
};
enum { LINK_FRESH = 1 }; /* just loaded or read from a disk: likely to be shared, as yet unseen */

struct link_hello {
    uint32_t version;
    uint32_t pid;
    char name[LINK_NAME_SIZE];
    char group[LINK_NAME_SIZE]; /* "" for none: shares within itself */
    uint8_t unused[2];
    uint32_t shares;     /* 0: the default, in proportion to max */
    uint64_t min, max;   /* bytes; min <= max */
    uint64_t span_pages; /* PPNs are below this */
    uint64_t overhead;   /* bytes of the process beside the guest's memory, at most */
    uint64_t pool_key;   /* of the pool that is handed back; else 0 */
};

struct link_welcome {
    uint32_t version;
    uint32_t unused;
    uint64_t key;        /* of the group's hashes, not 0 */
    uint64_t pool_bytes; /* the pool's size; never changes */
    uint8_t same_pool;   /* 1: the pool is the one that was handed back, HOLDS counts. 0: it is
                            another, and what is held in the old one is made private */
    uint8_t unused_too[7];
};

/* What the manager would like; it holds until the next. Bytes, UINT64_MAX for no limit. */
struct link_target {
    uint64_t resident;
    uint64_t balloon;
    uint64_t scan_pages; /* to be scanned a second, at most; 0: none */
    uint32_t scan_ppm;   /* CPU time for scanning, millionths of one CPU, at most */
    uint32_t block;      /* 1: no vCPU runs while resident is above its target */
};

/* What the VM says of itself: bytes unless said, and since its start. For people and for policy;
 * what a VM is charged for is measured, not taken from here. */
struct link_report {
    uint64_t resident, active, balloon, zero, shared, compressed, compressed_size, disk_backed,
        swapped, swap_room, overhead;
    uint64_t spare;          /* what the guest says that it could do without; 0: not known */
    uint64_t sample_periods; /* that `active` rests on; 0: it is a guess */
    uint64_t faults_in;      /* pages brought back */
    uint64_t stall_ns;       /* waited for pages */
    uint64_t swap_read, swap_written;
    uint64_t pages_scanned, pages_shared, cow_breaks, scan_cpu_ns;
    uint64_t cpu_ns;                                                    /* of the vCPUs */
    uint64_t tlb_misses, walk_references, hidden_faults, traced_writes; /* counts */
    uint64_t shadow_memory;
    uint32_t balloon_state; /* enum balloon_state */
    uint32_t is_paused;
    uint32_t mmu_mode;      /* enum link_mmu */
    uint32_t mmu_is_chosen; /* 1: the VM chooses it by itself */
};

enum link_mmu { LINK_MMU_NESTED, LINK_MMU_MIXED, LINK_MMU_SHADOW };
/* "nested", ...; "unknown" for what is none. */
const char *link_mmu_name(uint32_t mode);

/*
 * Checks a message of `length` bytes for form: type, direction, count, exact size, and the number
 * of descriptors with it. The values inside are the receiver's to check. INVALID with one line.
 */
enum link_sender { LINK_VM, LINK_MANAGER };
enum status link_check(const void *message, uint64_t length, unsigned descriptors,
                       enum link_sender sender, struct error *err);

/* Bytes of a message of that type (one of the enum's) with `count` in its head. */
uint64_t link_size(enum link_type type, uint32_t count);

/*
 * One message without waiting. Sending: STATUS_BUSY where the other end's queue is full, NOT_FOUND
 * where it has hung up. Receiving, into LINK_MOST bytes, aligned to 8: BUSY where there is nothing,
 * NOT_FOUND where the other end has hung up, INVALID for what link_check refuses or does not fit.
 * Descriptors received are close-on-exec and the caller's; on failure none is left open. At most 2.
 */
#define LINK_DESCRIPTORS_MOST 2u
enum status link_send(int fd, const void *message, uint64_t length, const int *descriptors,
                      unsigned descriptor_count, struct error *err);
enum status link_receive(int fd, enum link_sender sender, void *message, uint64_t *length,
                         int descriptors[LINK_DESCRIPTORS_MOST], unsigned *descriptor_count,
                         struct error *err);

#endif
