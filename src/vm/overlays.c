#include "vm/overlays.h"

#include <stdlib.h>

#include "util/temp_file.h"

struct overlays {
    struct image *images[OPTIONS_MAX_DISKS];
};

enum status overlays_open(struct overlays **out, const struct vm_options *options,
                          struct error *err)
{
    struct overlays *overlays = calloc(1, sizeof *overlays);
    if (overlays == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    const char *folder = temp_file_folder(options->swap_dir);
    for (unsigned i = 0; i < options->disk_count; i++) {
        const struct disk_options *disk = &options->disks[i];
        enum status status = disk->overlay
                                 ? image_open_overlay(&overlays->images[i], disk->path, folder, err)
                                 : STATUS_OK;
        if (status != STATUS_OK) {
            overlays_close(overlays);
            return status;
        }
    }
    *out = overlays;
    return STATUS_OK;
}

void overlays_close(struct overlays *overlays)
{
    for (unsigned i = 0; overlays != NULL && i < OPTIONS_MAX_DISKS; i++)
        image_close(overlays->images[i]);
    free(overlays);
}

struct image *overlays_image(const struct overlays *overlays, unsigned disk)
{
    return overlays->images[disk];
}
