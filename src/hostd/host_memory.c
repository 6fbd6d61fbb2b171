#include "hostd/host_memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/bits.h"

/* The names of one version's files in the folder of a cgroup. */
static const struct version {
    const char *mounts[2]; /* where its hierarchy may be; NULL: no second */
    const char *limit, *usage, *cache;
} versions[] = {
    {{"/sys/fs/cgroup/memory", NULL},
     "memory.limit_in_bytes",
     "memory.usage_in_bytes",
     "total_inactive_file"},
    {{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}, "memory.max", "memory.current", "inactive_file"},
};

/* The number that follows `key` at the start of a line, or, without a key, the file's first. False:
 * there is none; a limit of "max" is none. */
static bool read_number(const char *path, const char *key, uint64_t *number)
{
    char line[256];
    bool found = false;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        const char *at = line;
        char *end;
        if (key != NULL) {
            size_t length = strlen(key);
            if (strncmp(line, key, length) != 0 || strchr(": ", line[length]) == NULL)
                continue;
            at += length + 1;
        }
        *number = strtoull(at, &end, 10);
        found = end != at;
        if (key == NULL)
            break;
    }
    fclose(file);
    return found;
}

/* What one cgroup leaves, if that is less than *spare. */
static void apply_cgroup(const struct version *version, const char *folder, uint64_t *spare)
{
    char path[2 * PATH_MAX];
    uint64_t limit, usage = 0, cache = 0;
    snprintf(path, sizeof path, "%s/%s", folder, version->limit);
    if (!read_number(path, NULL, &limit))
        return;
    snprintf(path, sizeof path, "%s/%s", folder, version->usage);
    read_number(path, NULL, &usage);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    read_number(path, version->cache, &cache); /* goes as soon as somebody wants the memory */
    usage -= cache < usage ? cache : usage;
    uint64_t left = limit > usage ? limit - usage : 0;
    if (left < *spare)
        *spare = left;
}

/* The cgroup at `path` of the hierarchy, and those above it. */
static void apply_branch(const struct version *version, const char *root, const char *path,
                         uint64_t *spare)
{
    for (size_t i = 0; i < ARRAY_LENGTH(version->mounts) && version->mounts[i] != NULL; i++) {
        char folder[PATH_MAX];
        int base = snprintf(folder, sizeof folder, "%s%s", root, version->mounts[i]);
        if (base < 0 || (size_t)base + strlen(path) >= sizeof folder)
            continue;
        strcpy(folder + base, path);
        for (char *cut; (cut = strrchr(folder + base, '/')) != NULL; *cut = '\0')
            apply_cgroup(version, folder, spare);
        apply_cgroup(version, folder,
                     spare); /* in a container its own is the topmost that it sees */
    }
}

/* Is "memory" among the controllers of a hierarchy ("cpu,memory")? */
static bool names_memory(const char *controllers)
{
    static const char word[] = "memory";
    const char *at = strstr(controllers, word);
    return at != NULL && (at == controllers || at[-1] == ',') &&
           strchr(",", at[sizeof word - 1]) != NULL;
}

uint64_t host_memory_spare(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX];
    uint64_t spare;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!read_number(path, "MemAvailable", &spare))
        return 0;
    spare *= KIB;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *where = controllers == NULL ? NULL : strchr(controllers + 1, ':');
        if (where == NULL)
            continue;
        *controllers++ = '\0';
        *where++ = '\0';
        if (controllers[0] == '\0')
            apply_branch(&versions[1], root, where, &spare);
        else if (names_memory(controllers))
            apply_branch(&versions[0], root, where, &spare);
    }
    if (file != NULL)
        fclose(file);
    return spare;
}
