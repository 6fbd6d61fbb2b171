#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "area.h"

/* Objects in files. They are unlinked at once, so that a checker leaves nothing behind. */

static int file_open(const struct worker *worker, const char *folder, const char *kind, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/checker.%s.%u.%d", folder, kind, worker->number, getpid());
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | flags, 0600);
    if (file < 0)
        check_fail_call(path);
    unlink(path);
    return file;
}

static struct area *file_area(struct worker *worker, unsigned number, uint64_t bytes, int file)
{
    struct area *area = check_allocate(sizeof *area);
    *area = (struct area){.worker = worker,
                          .object = number,
                          .pages = area_pages_of(bytes),
                          .file = file,
                          .place = "file"};
    return area;
}

static void file_finish(void *object, uint32_t last_round)
{
    struct area *area = object;
    check_drop_caches(area->worker);
    area_verify(area, last_round);
}

/* In memory: the file is emptied now and then, and its pages are taken anew. */
static void *tmpfs_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    return file_area(worker, number, bytes, file_open(worker, worker->tmp, "tmpfs", 0));
}

static void tmpfs_step(void *object, uint32_t round)
{
    struct area *area = object;
    area_verify(area, round - 1);
    if (round % 4 == 0) {
        if (ftruncate(area->file, 0) != 0)
            check_fail_call("ftruncate");
        area_write_all(area, round);
    } else {
        area_write(area, round);
    }
    area_sabotage(area, round);
}

const struct object_kind kind_tmpfs = {
    .name = "tmpfs",
    .help = "a file in the folder of --tmp, meant for tmpfs",
    .share = 15,
    .start = tmpfs_start,
    .step = tmpfs_step,
    .finish = file_finish,
};

/* Through the page cache; in even rounds it is written to the disk, and read from there again. */
static void *disk_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    return file_area(worker, number, bytes, file_open(worker, worker->disk, "disk", 0));
}

static void disk_step(void *object, uint32_t round)
{
    struct area *area = object;
    area_verify(area, round - 1);
    area_write(area, round);
    area_sabotage(area, round);
    if (round % 2 == 0 && fsync(area->file) != 0)
        check_fail_call("fsync");
    if (round % 2 == 0)
        check_drop_caches(area->worker);
}

const struct object_kind kind_disk = {
    .name = "disk",
    .help = "a file in the folder of --disk, through the page cache",
    .share = 10,
    .on_disk = true,
    .start = disk_start,
    .step = disk_step,
    .finish = file_finish,
};

/* From the disk right into the checker's memory, and from there to the disk. */
static void *direct_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    int file = file_open(worker, worker->disk, "direct", O_DIRECT);
    struct area *area = file_area(worker, number, bytes, file);
    area->chunk = check_map(AREA_CHUNK * PAGE_BYTES, MAP_PRIVATE);
    if (posix_fallocate(file, 0, (off_t)area->pages * PAGE_BYTES) != 0)
        check_fail("direct: no room for %u pages", area->pages);
    return area;
}

static void direct_step(void *object, uint32_t round)
{
    struct area *area = object;
    area_verify(area, round - 1);
    area_write(area, round);
    area_sabotage(area, round);
}

const struct object_kind kind_direct = {
    .name = "direct",
    .help = "a file in the folder of --disk, past the page cache",
    .share = 5,
    .on_disk = true,
    .start = direct_start,
    .step = direct_step,
    .finish = file_finish,
};

/*
 * A file that is written through a shared mapping and verified there and by read; and, through a
 * private mapping of it, copies of every other page.
 */
struct mapped {
    struct area mapping, file, copy;
};

static void *mapped_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct mapped *mapped = check_allocate(sizeof *mapped);
    const char *folder = worker->disk ? worker->disk : worker->tmp;
    struct area *area = file_area(worker, number, bytes, file_open(worker, folder, "mapped", 0));
    size_t length = (size_t)area->pages * PAGE_BYTES;
    if (posix_fallocate(area->file, 0, (off_t)length) != 0)
        check_fail("mapped: no room for %u pages", area->pages);
    mapped->file = *area;
    mapped->mapping = *area;
    mapped->mapping.place = "shared mapping";
    mapped->mapping.memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, area->file, 0);
    mapped->copy = mapped->mapping;
    mapped->copy.place = "private mapping";
    if (mapped->mapping.memory == MAP_FAILED)
        check_fail_call("mmap");
    return mapped;
}

static void mapped_step(void *object, uint32_t round)
{
    struct mapped *mapped = object;
    size_t length = (size_t)mapped->file.pages * PAGE_BYTES;
    area_verify(round & 1 ? &mapped->mapping : &mapped->file, round - 1);
    area_write(&mapped->mapping, round);
    area_sabotage(&mapped->mapping, round);
    if (round % 3 == 0) {
        if (msync(mapped->mapping.memory, length, MS_SYNC) != 0)
            check_fail_call("msync");
        check_drop_caches(mapped->file.worker);
    }

    struct area *copy = &mapped->copy;
    copy->memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE, copy->file, 0);
    if (copy->memory == MAP_FAILED)
        check_fail_call("mmap");
    uint32_t generation = round & GENERATION_MASK;
    for (uint32_t page = 0; page < copy->pages; page += 2)
        area_write_page(copy, page, (struct page_identity){copy->object + 1, page, generation});
    for (uint32_t page = 0; page < copy->pages; page += 2)
        area_verify_page(copy, page, (struct page_identity){copy->object + 1, page, generation});
    for (uint32_t page = 1; page < copy->pages; page += 2) {
        generation = area_generation(copy, page, round);
        area_verify_page(copy, page, (struct page_identity){copy->object, page, generation});
    }
    munmap(copy->memory, length);
}

static void mapped_finish(void *object, uint32_t last_round)
{
    struct mapped *mapped = object;
    area_verify(&mapped->mapping, last_round);
    area_verify(&mapped->file, last_round);
}

const struct object_kind kind_mapped = {
    .name = "mapped",
    .help = "shared and private mappings of a file on the disk, or in --tmp without one",
    .share = 10,
    .start = mapped_start,
    .step = mapped_step,
    .finish = mapped_finish,
};
