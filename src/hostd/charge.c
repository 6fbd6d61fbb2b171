#include "hostd/charge.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/bits.h"

/* Program text and libraries, which are the page cache's and the same for all. */
#define TEXT_ALLOWANCE (8 * MIB)

/* Reads from the start of a file of /proc; NUL-terminated. */
static bool read_text(int fd, char *text, size_t size)
{
    ssize_t length = pread(fd, text, size - 1, 0);
    if (length <= 0)
        return false;
    text[length] = '\0';
    return true;
}

static bool statm_read(int fd, uint64_t *resident, uint64_t *of_files)
{
    char text[256];
    unsigned long long size, pages, shared;
    /* After the process's end ESRCH, or zeros where it still waits for its parent. */
    if (!read_text(fd, text, sizeof text) ||
        sscanf(text, "%llu %llu %llu", &size, &pages, &shared) != 3 || size == 0)
        return false;
    *resident = pages * PAGE_SIZE;
    *of_files = shared * PAGE_SIZE;
    return true;
}

uint64_t charge_process_started(pid_t pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && read_text(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    /* The second field is a name in brackets that may contain anything: count from its end. */
    const char *at = is_read ? strrchr(text, ')') : NULL;
    for (unsigned field = 2; at != NULL && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}

bool charge_open(struct charge *charge, pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/statm", (long)pid);
    *charge = CHARGE_NONE;
    charge->process = (int)syscall(SYS_pidfd_open, pid, 0);
    charge->statm = open(path, O_RDONLY | O_CLOEXEC);
    charge->started = charge_process_started(pid);
    if (charge->statm >= 0 && charge->started != 0 && charge_measure(charge, 0))
        return true;
    charge_close(charge);
    return false;
}

void charge_close(struct charge *charge)
{
    if (charge->ram >= 0)
        close(charge->ram);
    if (charge->statm >= 0)
        close(charge->statm);
    if (charge->process >= 0)
        close(charge->process);
    *charge = CHARGE_NONE;
}

static bool has_ended(int process)
{
    struct pollfd poll_fd = {.fd = process, .events = POLLIN};
    return poll(&poll_fd, 1, 0) == 1;
}

bool charge_measure(struct charge *charge, uint64_t held)
{
    struct stat info;
    uint64_t resident, of_files;
    if (charge->process >= 0 && has_ended(charge->process))
        return false;
    charge->ram_bytes =
        charge->ram >= 0 && fstat(charge->ram, &info) == 0 ? (uint64_t)info.st_blocks * 512 : 0;
    /* Nothing to be read: it has ended, or its first thread has, and then the last figure stands.
     */
    if (charge->statm < 0 || !statm_read(charge->statm, &resident, &of_files))
        return charge->process >= 0;
    /* What is mapped of files beyond its RAM, the pool and programs is memory of its own as well,
     * in memfds that nobody has shown us. */
    uint64_t known = charge->ram_bytes + held + charge->twice + TEXT_ALLOWANCE;
    charge->rest_bytes = resident - of_files + (of_files > known ? of_files - known : 0);
    return true;
}

/* The number of KiB behind `key` in a file of /proc/PID, in bytes. */
static bool read_field(pid_t pid, const char *file, const char *key, uint64_t *bytes)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && read_text(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    const char *at = is_read ? strstr(text, key) : NULL;
    if (at == NULL)
        return false;
    *bytes = strtoull(at + strlen(key), NULL, 10) * KIB;
    return true;
}

void charge_look(struct charge *charge, pid_t pid, uint64_t elsewhere)
{
    uint64_t resident, part;
    /* A page that is mapped n times counts n times in the one and n times 1/n in the other. */
    if (!read_field(pid, "status", "RssShmem:", &resident) ||
        !read_field(pid, "smaps_rollup", "Pss_Shmem:", &part))
        return;
    charge->twice = resident > part + elsewhere ? resident - part - elsewhere : 0;
}

uint64_t charge_own(void)
{
    uint64_t resident = 0, of_files = 0;
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        statm_read(fd, &resident, &of_files);
        close(fd);
    }
    return resident - of_files;
}
