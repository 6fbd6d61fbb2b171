#include "cli/format.h"

#include <inttypes.h>
#include <stdio.h>

const char *format_bytes(char text[FORMAT_SIZE], uint64_t bytes)
{
    static const char suffixes[] = "\0KMGTPE";
    unsigned unit = 0;
    uint64_t rest = 0;
    while (bytes >= 1024) {
        rest = bytes % 1024;
        bytes /= 1024;
        unit++;
    }
    if (bytes < 10 && rest * 10 / 1024 != 0)
        snprintf(text, FORMAT_SIZE, "%" PRIu64 ".%" PRIu64 "%c", bytes, rest * 10 / 1024,
                 suffixes[unit]);
    else if (unit != 0)
        snprintf(text, FORMAT_SIZE, "%" PRIu64 "%c", bytes, suffixes[unit]);
    else
        snprintf(text, FORMAT_SIZE, "%" PRIu64, bytes);
    return text;
}

const char *format_seconds(char text[FORMAT_SIZE], double seconds)
{
    if (!(seconds >= 0 && seconds < 1e12)) {
        snprintf(text, FORMAT_SIZE, "?");
        return text;
    }
    uint64_t whole = (uint64_t)seconds, minutes = whole / 60, hours = minutes / 60;
    if (whole < 60)
        snprintf(text, FORMAT_SIZE, "%" PRIu64 "s", whole);
    else if (minutes < 60)
        snprintf(text, FORMAT_SIZE, "%" PRIu64 "m%02" PRIu64 "s", minutes, whole % 60);
    else if (hours < 24)
        snprintf(text, FORMAT_SIZE, "%" PRIu64 "h%02" PRIu64 "m", hours, minutes % 60);
    else
        snprintf(text, FORMAT_SIZE, "%" PRIu64 "d%02" PRIu64 "h", hours / 24, hours % 24);
    return text;
}
