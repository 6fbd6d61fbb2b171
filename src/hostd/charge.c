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

/* Half of what has come or gone may be mapped twice: an error that is not worth a look. */
#define MOVED_BYTES (4 * MIB)

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
     * that nobody has shown us: translated code. */
    charge->beyond = of_memfds - least(of_memfds, charge->ram_bytes + held);
    charge->rest_bytes = anonymous + charge->beyond - least(charge->beyond, charge->twice);
    return true;
}

static bool read_field(pid_t pid, const char *file, const char *key, uint64_t *bytes)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && read_text(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    return is_read && find_field(text, key, bytes);
}

bool charge_has_moved(const struct charge *charge)
{
    uint64_t a = charge->beyond, b = charge->looked;
    return (a > b ? a - b : b - a) > MOVED_BYTES;
}

void charge_look(struct charge *charge, pid_t pid, uint64_t elsewhere)
{
    uint64_t resident, part;
    charge->looked = charge->beyond;
    /* A page that is mapped n times counts n times in the one and n times 1/n in the other. */
    if (!read_field(pid, "status", "RssShmem:", &resident) ||
        !read_field(pid, "smaps_rollup", "Pss_Shmem:", &part))
        return;
    charge->twice = resident - least(resident, part + elsewhere);
}

uint64_t charge_own(void)
{
    uint64_t anonymous = 0;
    read_field(getpid(), "status", "RssAnon:", &anonymous);
    return anonymous;
}
