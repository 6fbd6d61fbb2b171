#include "cli/client.h"

#include <stdio.h>

#include "vm/exit_status.h"

int client_failed(const struct error *err)
{
    fprintf(stderr, "aerostat: %s\n", err->text);
    switch (err->status) {
    case STATUS_INVALID:
    case STATUS_NOT_FOUND:
    case STATUS_BUSY:
    case STATUS_UNSUPPORTED:
    case STATUS_NO_SPACE:
        return EXIT_STATUS_USAGE;
    default:
        return EXIT_STATUS_FAILURE;
    }
}
