#include "util/size.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <strings.h>

/* Digits at *text, which moves past them. */
static enum status digits_parse(const char **text, uint64_t *value)
{
    const char *at = *text;
    if (!isdigit((unsigned char)*at))
        return STATUS_INVALID;
    *value = 0;
    for (; isdigit((unsigned char)*at); at++) {
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*at - '0'), value))
            return STATUS_INVALID;
    }
    *text = at;
    return STATUS_OK;
}

enum status size_parse(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "kmgt";
    uint64_t value;
    if (digits_parse(&text, &value) != STATUS_OK)
        return STATUS_INVALID;

    unsigned shift = 0;
    if (*text != '\0') {
        unsigned i = 0;
        while (suffixes[i] != '\0' && suffixes[i] != tolower((unsigned char)*text))
            i++;
        if (suffixes[i] == '\0')
            return STATUS_INVALID;
        shift = 10 * (i + 1);
        text++;
        if (*text != '\0' && strcasecmp(text, "b") != 0 && strcasecmp(text, "ib") != 0)
            return STATUS_INVALID;
    }
    if (shift != 0 && value >> (64 - shift) != 0)
        return STATUS_INVALID;
    *bytes = value << shift;
    return STATUS_OK;
}

void size_format(uint64_t bytes, char *buffer, size_t capacity)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    unsigned unit = 0;
    while (unit < 4 && bytes >> (10 * (unit + 1)) != 0)
        unit++;
    /* A fraction only where one digit says it exactly, else the next smaller unit. */
    for (;; unit--) {
        uint64_t scale = (uint64_t)1 << (10 * unit);
        uint64_t rest = bytes % scale;
        if (rest == 0) {
            snprintf(buffer, capacity, "%" PRIu64 " %s", bytes / scale, units[unit]);
            return;
        }
        if (rest == scale / 2) {
            snprintf(buffer, capacity, "%" PRIu64 ".5 %s", bytes / scale, units[unit]);
            return;
        }
    }
}

enum status number_parse(const char *text, uint64_t least, uint64_t most, uint64_t *value)
{
    if (digits_parse(&text, value) != STATUS_OK || *text != '\0')
        return STATUS_INVALID;
    return *value >= least && *value <= most ? STATUS_OK : STATUS_INVALID;
}
