#include "control/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG         16
#define AUTOMATIC_NAMES 100000u

static const char socket_suffix[] = ".sock", log_suffix[] = ".log";
static const char unready_name[] = ".unready"; /* with the suffix, as all sockets have */

#define FILE_NAME_SIZE (CONTROL_NAME_MOST + sizeof socket_suffix)

static bool is_own_folder(const char *path)
{
    struct stat info;
    return path[0] == '/' && stat(path, &info) == 0 && S_ISDIR(info.st_mode) &&
           info.st_uid == geteuid();
}

enum status control_folder_open(struct control_folder *folder, struct error *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int length;
    folder->fd = -1;
    if (runtime != NULL && is_own_folder(runtime))
        length = snprintf(folder->path, sizeof folder->path, "%s/aerostat", runtime);
    else
        length =
            snprintf(folder->path, sizeof folder->path, "/tmp/aerostat-%u", (unsigned)geteuid());
    if (length < 0 || (size_t)length >= sizeof folder->path)
        return error_set(err, STATUS_INVALID, "XDG_RUNTIME_DIR is too long");

    if (mkdir(folder->path, 0700) != 0 && errno != EEXIST)
        return error_set(err, STATUS_INVALID, "cannot make the folder %s: %s", folder->path,
                         strerror(errno));
    folder->fd = open(folder->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat info;
    if (folder->fd < 0 || fstat(folder->fd, &info) != 0) {
        error_set(err, STATUS_INVALID, "cannot open the folder %s: %s", folder->path,
                  strerror(errno));
    } else if (info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
        error_set(err, STATUS_INVALID, "%s must be this user's and have mode 700", folder->path);
    } else {
        return STATUS_OK;
    }
    control_folder_close(folder);
    return STATUS_INVALID;
}

void control_folder_close(struct control_folder *folder)
{
    if (folder->fd >= 0)
        close(folder->fd);
    folder->fd = -1;
}

static void folder_lock(struct control_folder *folder)
{
    while (flock(folder->fd, LOCK_EX) != 0 && errno == EINTR)
        continue;
}

static void folder_unlock(struct control_folder *folder)
{
    flock(folder->fd, LOCK_UN);
}

static void file_name(char text[FILE_NAME_SIZE], const char *name, const char *suffix)
{
    snprintf(text, FILE_NAME_SIZE, "%s%s", name, suffix);
}

static bool is_manager(const char *name)
{
    return strcmp(name, CONTROL_MANAGER) == 0;
}

/* By way of the descriptor: whatever the folder's path is, it fits, and is this very folder. */
static struct sockaddr_un address_of(const struct control_folder *folder, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _Static_assert(sizeof "/proc/self/fd/2147483647/" + FILE_NAME_SIZE <= sizeof address.sun_path,
                   "every name fits");
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s%s", folder->fd, name,
             socket_suffix);
    return address;
}

/* A connected socket, or -1 with errno; 0 seconds: at once or not at all. */
static int try_connect(const struct control_folder *folder, const char *name, unsigned seconds)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (seconds == 0 ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        return -1;
    struct sockaddr_un address = address_of(folder, name);
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int failure = errno;
    close(fd);
    errno = failure;
    return -1;
}

/* With the folder locked: what there is of that name. A log that says nothing goes as well. */
static void remove_files(struct control_folder *folder, const char *name)
{
    char text[FILE_NAME_SIZE];
    struct stat info;
    file_name(text, name, socket_suffix);
    unlinkat(folder->fd, text, 0);
    file_name(text, name, log_suffix);
    if (fstatat(folder->fd, text, &info, AT_SYMLINK_NOFOLLOW) == 0 && info.st_size == 0)
        unlinkat(folder->fd, text, 0);
}

/* With the folder locked: removes what a dead VM has left. True: nobody has the name. A VM that is
 * too busy to answer is alive. */
static bool name_is_free(struct control_folder *folder, const char *name)
{
    int fd = try_connect(folder, name, 0);
    int failure = errno;
    if (fd >= 0)
        close(fd);
    if (fd >= 0 || (failure != ECONNREFUSED && failure != ENOENT))
        return false;
    if (failure == ECONNREFUSED)
        remove_files(folder, name);
    return true;
}

/* With the folder locked. The socket gets its name when it listens: whoever sees it can connect. */
static enum status listen_as(struct control_folder *folder, const char *name, int *listener,
                             struct error *err)
{
    struct sockaddr_un address = address_of(folder, unready_name);
    char unready[FILE_NAME_SIZE], ready[FILE_NAME_SIZE];
    file_name(unready, unready_name, socket_suffix);
    file_name(ready, name, socket_suffix);
    unlinkat(folder->fd, unready, 0); /* of one that was killed here */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(fd, BACKLOG) != 0 || renameat(folder->fd, unready, folder->fd, ready) != 0) {
        error_set(err, STATUS_INVALID, "cannot make the control socket %s/%s%s: %s", folder->path,
                  name, socket_suffix, strerror(errno));
        if (fd >= 0)
            close(fd);
        return STATUS_INVALID;
    }
    *listener = fd;
    return STATUS_OK;
}

enum status control_folder_claim(struct control_folder *folder, const char *name,
                                 char taken[CONTROL_NAME_MOST + 1], int *listener,
                                 struct error *err)
{
    enum status status = STATUS_OK;
    *listener = -1;
    if (name != NULL && !is_manager(name) && (status = control_name_check(name, err)) != STATUS_OK)
        return status;
    folder_lock(folder);
    bool found = false;
    if (name != NULL) {
        strcpy(taken, name);
        found = name_is_free(folder, name);
    }
    for (unsigned i = 1; name == NULL && !found && i <= AUTOMATIC_NAMES; i++) {
        snprintf(taken, CONTROL_NAME_MOST + 1, "vm%u", i);
        found = name_is_free(folder, taken);
    }
    if (found)
        status = listen_as(folder, taken, listener, err);
    else if (name != NULL && is_manager(name))
        status = error_set(err, STATUS_BUSY, "a manager is running already");
    else if (name != NULL)
        status = error_set(err, STATUS_BUSY, "a VM named %s is running already", name);
    else
        status = error_set(err, STATUS_BUSY, "no name is free; give --name");
    folder_unlock(folder);
    return status;
}

void control_folder_leave(struct control_folder *folder, const char *name)
{
    folder_lock(folder);
    remove_files(folder, name);
    folder_unlock(folder);
}

void control_folder_tidy(struct control_folder *folder, const char *name)
{
    folder_lock(folder);
    name_is_free(folder, name); /* for what it removes */
    folder_unlock(folder);
}

enum status control_folder_connect(struct control_folder *folder, const char *name,
                                   unsigned seconds, int *fd, struct error *err)
{
    enum status status = is_manager(name) ? STATUS_OK : control_name_check(name, err);
    *fd = -1;
    if (status != STATUS_OK)
        return status;
    *fd = try_connect(folder, name, seconds);
    if (*fd >= 0)
        return STATUS_OK;
    if (errno == ECONNREFUSED || errno == ENOENT) {
        control_folder_tidy(folder, name);
        return is_manager(name) ? error_set(err, STATUS_NOT_FOUND, "no manager is running")
                                : error_set(err, STATUS_NOT_FOUND, "no VM is named %s", name);
    }
    return error_set(err, STATUS_IO, "cannot reach %s: %s", name,
                     errno == EAGAIN ? "it does not answer" : strerror(errno));
}

bool control_folder_is_socket(char *file)
{
    size_t length = strlen(file), suffix = sizeof socket_suffix - 1;
    if (length <= suffix || strcmp(file + length - suffix, socket_suffix) != 0)
        return false;
    file[length - suffix] = '\0';
    return control_name_check(file, NULL) == STATUS_OK;
}

static int is_listed(const struct dirent *entry)
{
    char file[sizeof entry->d_name];
    strcpy(file, entry->d_name);
    return control_folder_is_socket(file);
}

enum status control_folder_list(struct control_folder *folder, char ***names, size_t *count,
                                struct error *err)
{
    struct dirent **entries;
    *names = NULL;
    *count = 0;
    int found = scandirat(folder->fd, ".", &entries, is_listed, versionsort);
    if (found < 0)
        return error_set(err, STATUS_IO, "cannot read the folder %s: %s", folder->path,
                         strerror(errno));
    enum status status = STATUS_OK;
    *names = calloc((size_t)found + 1, sizeof **names);
    for (int i = 0; i < found; i++) {
        char *name = *names == NULL || !control_folder_is_socket(entries[i]->d_name)
                         ? NULL
                         : strdup(entries[i]->d_name);
        if (name != NULL)
            (*names)[(*count)++] = name;
        free(entries[i]);
    }
    free(entries);
    if (*names == NULL || *count != (size_t)found)
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
    return status;
}

enum status control_folder_open_log(struct control_folder *folder, const char *name, int *fd,
                                    struct error *err)
{
    char text[FILE_NAME_SIZE];
    file_name(text, name, log_suffix);
    *fd = openat(folder->fd, text, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW | O_CLOEXEC,
                 0600);
    if (*fd < 0)
        return error_set(err, STATUS_INVALID, "cannot make %s/%s: %s", folder->path, text,
                         strerror(errno));
    return STATUS_OK;
}

bool control_peer(int fd, pid_t *pid, uid_t *uid)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || size != sizeof peer)
        return false;
    *pid = peer.pid;
    *uid = peer.uid;
    return true;
}
