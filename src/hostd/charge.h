#ifndef AEROSTAT_HOSTD_CHARGE_H
#define AEROSTAT_HOSTD_CHARGE_H

/*
 * What the host's memory is charged with for one process, as the kernel has it, whatever the
 * process says: the blocks of its RAM file, and what else it has for itself. Both are read through
 * descriptors that belong to this process and no later one of the same number.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct charge {
    int ram;     /* the RAM memfd, owned; -1: not known */
    int status;  /* /proc/PID/status, owned; -1: none */
    int process; /* a pidfd, readable when the process has ended, owned; -1: before Linux 5.3 */
    uint64_t
        started; /* when the process began, in clock ticks since the host's boot; 0: not known */
    /* Found by charge_look: bytes that are mapped twice, and would be counted twice; and bytes of
     * the frames that it holds and has not mapped. */
    uint64_t twice, unmapped;
    int64_t beyond;      /* measured: what is mapped of memfds beyond the RAM and what it holds */
    int64_t looked;      /* the same when that was found */
    uint64_t ram_bytes;  /* measured: the RAM file's memory */
    uint64_t rest_bytes; /* the process's own memory beside that; all of it where ram is -1 */
};

#define CHARGE_NONE ((struct charge){.ram = -1, .status = -1, .process = -1})

/* False: there is no such process any more. */
bool charge_open(struct charge *charge, pid_t pid);
void charge_close(struct charge *charge);

/* `held`: bytes of the pool that the process may have mapped, which are counted elsewhere. False:
 * the process has ended. */
bool charge_measure(struct charge *charge, uint64_t held);

/* Looks closer, which takes the kernel a walk through all of the process's page tables: now and
 * then, and where what has been measured since has moved. `held` as above, of a pool with this
 * inode. To be measured again after that. */
bool charge_has_moved(const struct charge *charge);
void charge_look(struct charge *charge, pid_t pid, uint64_t held, ino_t pool);

/* When a process began, as above; 0: there is none. */
uint64_t charge_process_started(pid_t pid);

/* What this process has for itself. */
uint64_t charge_own(void);

#endif
