#include "control/name.h"

#include <string.h>

/* Not <ctype.h>: it follows the locale. */
#define LETTERS_AND_DIGITS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

enum status control_name_check(const char *name, struct error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > CONTROL_NAME_MOST || strspn(name, LETTERS_AND_DIGITS) == 0 ||
        strspn(name, LETTERS_AND_DIGITS "-_.") != length)
        return error_set(err, STATUS_INVALID,
                         "the name of a VM is 1 to %u letters, digits, '-', '_' or '.', the first "
                         "a letter or digit",
                         CONTROL_NAME_MOST);
    if (strcmp(name, CONTROL_MANAGER) == 0)
        return error_set(err, STATUS_INVALID, "no VM can be named " CONTROL_MANAGER);
    return STATUS_OK;
}
