/* Runs a fuzz target's function on files, or on every file of directories, given as arguments: what
 * libFuzzer does with a corpus, without libFuzzer. Fails when it found no file. */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int run_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return -1;
    }
    /* Exactly as long as the file, so that a sanitizer sees reads beyond it. */
    uint8_t *data = malloc(size);
    int result = -1;
    if ((data != NULL || size == 0) && fread(data, 1, size, file) == size) {
        LLVMFuzzerTestOneInput(data, size);
        result = 1;
    } else {
        fprintf(stderr, "%s: cannot be read\n", path);
    }
    free(data);
    fclose(file);
    return result;
}

static int run_path(const char *path);

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int run_directory(const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, compare_names);
    if (count < 0) {
        perror(path);
        return -1;
    }
    int total = 0;
    for (int i = 0; i < count; i++) {
        char inside[4096];
        if (total >= 0 && entries[i]->d_name[0] != '.') {
            snprintf(inside, sizeof(inside), "%s/%s", path, entries[i]->d_name);
            int result = run_path(inside);
            total = result < 0 ? -1 : total + result;
        }
        free(entries[i]);
    }
    free(entries);
    return total;
}

/* The number of files run, or -1. */
static int run_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        perror(path);
        return -1;
    }
    return S_ISDIR(info.st_mode) ? run_directory(path) : run_file(path, (size_t)info.st_size);
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int result = run_path(argv[i]);
        if (result < 0)
            return 1;
        total += result;
    }
    printf("%d inputs\n", total);
    return total > 0 ? 0 : 1;
}
