#include "hostd/charge.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/bits.h"

/* Half of what has come or gone may be mapped twice: an error that is not worth a look. */
#define MOVED_BYTES (4 * MIB)

/* A VM has some 130 mappings, of 25 lines each, and two for each page in its window (mmu/window.h),
 * 4096 of those at most. Who has very many more is not looked at. */
#define LINES_MOST 250000u

/* Reads from the start of a file of /proc; NUL-terminated. */
static bool read_text(int fd, char *text, size_t size)
{
    ssize_t length = pread(fd, text, size - 1, 0);
    if (length <= 0)
        return false;
    text[length] = '\0';
    return true;
}

/* The number of KiB behind `key`, in bytes. */
static bool find_field(const char *text, const char *key, uint64_t *bytes)
{
    const char *at = strstr(text, key);
    if (at != NULL)
        *bytes = strtoull(at + strlen(key), NULL, 10) * KIB;
    return at != NULL;
}

/* Of /proc/PID/status: memory of nobody's file, and of memfds. Program text is the page cache's,
 * and the same for all. */
static bool status_read(int fd, uint64_t *anonymous, uint64_t *of_memfds)
{
    char text[4096];
    /* After the process's end ESRCH, or no such lines where it still waits for its parent. */
    return read_text(fd, text, sizeof text) && find_field(text, "RssAnon:", anonymous) &&
           find_field(text, "RssShmem:", of_memfds);
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
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    *charge = CHARGE_NONE;
    charge->process = (int)syscall(SYS_pidfd_open, pid, 0);
    charge->status = open(path, O_RDONLY | O_CLOEXEC);
    charge->started = charge_process_started(pid);
    if (charge->status >= 0 && charge->started != 0 && charge_measure(charge, 0))
        return true;
    charge_close(charge);
    return false;
}

void charge_close(struct charge *charge)
{
    if (charge->ram >= 0)
        close(charge->ram);
    if (charge->status >= 0)
        close(charge->status);
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
    uint64_t anonymous, of_memfds;
    if (charge->process >= 0 && has_ended(charge->process))
        return false;
    charge->ram_bytes =
        charge->ram >= 0 && fstat(charge->ram, &info) == 0 ? (uint64_t)info.st_blocks * 512 : 0;
    /* Nothing to be read: it has ended, or its first thread has, and then the last figure stands.
     */
    if (charge->status < 0 || !status_read(charge->status, &anonymous, &of_memfds))
        return charge->process >= 0;
    /* What is mapped of memfds beyond its RAM and the pool is memory of its own as well, in memfds
     * that nobody has shown us: translated code. Of the frames that it holds it has mapped those
     * that its guest has read since, and a frame that several of its pages hold once. */
    charge->beyond = (int64_t)(of_memfds - charge->ram_bytes - held);
    int64_t own = charge->beyond + (int64_t)(charge->unmapped - charge->twice);
    charge->rest_bytes = anonymous + (own > 0 ? (uint64_t)own : 0);
    return true;
}

static bool read_field(pid_t pid, const char *key, uint64_t *bytes)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && read_text(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    return is_read && find_field(text, key, bytes);
}

bool charge_has_moved(const struct charge *charge)
{
    int64_t moved = charge->beyond - charge->looked;
    return moved > (int64_t)MOVED_BYTES || moved < -(int64_t)MOVED_BYTES;
}

/* A mapping in /proc/PID/smaps: "from-to rights offset device inode  name", then its figures. */
struct mapping {
    unsigned major, minor;
    uint64_t inode;
};

static bool read_mapping(const char *line, struct mapping *mapping)
{
    unsigned long from, to;
    return sscanf(line, "%lx-%lx %*s %*s %x:%x %" SCNu64, &from, &to, &mapping->major,
                  &mapping->minor, &mapping->inode) == 5;
}

void charge_look(struct charge *charge, pid_t pid, uint64_t held, ino_t pool)
{
    char path[64], line[512];
    struct stat ram;
    struct mapping now = {0};
    /* A page of a file that is mapped n times counts n times in the one, and once in the other. */
    uint64_t resident = 0, part = 0, of_pool = 0, bytes;
    unsigned lines = 0;
    charge->looked = charge->beyond;
    snprintf(path, sizeof path, "/proc/%ld/smaps", (long)pid);
    FILE *file = charge->ram >= 0 && fstat(charge->ram, &ram) == 0 ? fopen(path, "re") : NULL;
    if (file == NULL)
        return;
    for (; lines < LINES_MOST && fgets(line, sizeof line, file) != NULL; lines++) {
        /* All memfds are on one device. */
        if (read_mapping(line, &now) || now.inode == 0 ||
            makedev(now.major, now.minor) != ram.st_dev)
            continue;
        if (strncmp(line, "Rss:", 4) == 0 && find_field(line, "Rss:", &bytes))
            *(now.inode == pool ? &of_pool : &resident) += bytes;
        else if (now.inode != pool && strncmp(line, "Pss:", 4) == 0 &&
                 find_field(line, "Pss:", &bytes))
            part += bytes;
    }
    fclose(file);
    if (lines == LINES_MOST)
        return;
    charge->twice = resident - least(resident, part);
    charge->unmapped = held - least(held, of_pool);
}

uint64_t charge_own(void)
{
    uint64_t anonymous = 0;
    read_field(getpid(), "RssAnon:", &anonymous);
    return anonymous;
}
