#include "util/size.h"

#include <ctype.h>
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

enum status number_parse(const char *text, uint64_t least, uint64_t most, uint64_t *value)
{
    if (digits_parse(&text, value) != STATUS_OK || *text != '\0')
        return STATUS_INVALID;
    return *value >= least && *value <= most ? STATUS_OK : STATUS_INVALID;
}
