#include "cli/top_layout.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/format.h"

#define NAME_LEAST 8u
#define HEAD_LINES 5u /* host, VMs, sharing, which part, titles */

/* Columns explained on a page of the help, which has 24 lines with the others: those of memory, and
 * those of the MMU. */
#define HELP_COLUMNS 18u
#define HELP_PAGES   ((TOP_COLUMNS + HELP_COLUMNS - 1) / HELP_COLUMNS)

static const char keys_line[] =
    "q quit  h help  < > or a column's letter: sort  z reverse  arrows: columns, VMs";
static const char help_keys_line[] = "q quit  h more  any other key: back";

struct output {
    const struct top_view *view;
    top_emit *emit;
    void *context;
    unsigned lines, most; /* most: 0 for no limit */
};

/* One line, cut to the width; nothing below the screen's end. */
static void put(struct output *output, struct top_line *line)
{
    if (output->most != 0 && output->lines >= output->most)
        return;
    line->text[output->view->width] = '\0';
    output->lines++;
    output->emit(output->context, line);
}

static void put_text(struct output *output, enum top_style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put_text(struct output *output, enum top_style style, const char *format, ...)
{
    struct top_line line = {.style = style};
    va_list list;
    va_start(list, format);
    vsnprintf(line.text, sizeof line.text, format, list);
    va_end(list);
    put(output, &line);
}

/* ---- Host ---- */

static const char *bytes(char text[FORMAT_SIZE], uint64_t number)
{
    return number == TOP_NONE ? "-" : format_bytes(text, number);
}

/* All VMs' of a column; unknown ones count as nothing. */
static uint64_t sum_of(const struct top_sample *sample, const char *member)
{
    unsigned column = 0;
    uint64_t sum = 0;
    while (strcmp(top_columns[column].member, member) != 0)
        column++;
    for (size_t i = 0; i < sample->count; i++) {
        uint64_t number = sample->vms[i].number[column];
        if (number != TOP_NONE && number <= UINT64_MAX / 2 - sum)
            sum += number;
    }
    return sum;
}

static double ratio(uint64_t part, uint64_t whole)
{
    return part == TOP_NONE || whole == TOP_NONE || whole == 0 ? 0 : (double)part / (double)whole;
}

static void put_host(struct output *output, const struct top_sample *now)
{
    char a[FORMAT_SIZE], b[FORMAT_SIZE], c[FORMAT_SIZE], d[FORMAT_SIZE], tax[16] = "";
    enum top_style style = strcmp(now->state, "high") == 0   ? TOP_PLAIN
                           : strcmp(now->state, "soft") == 0 ? TOP_STRONG
                                                             : TOP_ALARM;
    if (now->tax >= 0 && now->tax <= 1)
        snprintf(tax, sizeof tax, "  tax %.0f%%", 100 * now->tax);
    const char *time = output->view->time != NULL ? output->view->time : "";
    put_text(output, style, "%s%shost %s: memory %s, free %s (%.1f%%), used %s, pool %s%s", time,
             time[0] != '\0' ? "  " : "", now->state, bytes(a, now->memory), bytes(b, now->free),
             100 * ratio(now->free, now->memory), bytes(c, now->used), bytes(d, now->pool), tax);
    uint64_t max = sum_of(now, "max");
    put_text(output, TOP_PLAIN,
             "%zu VMs of %s, %.2f of memory: resident %s, balloons %s, overhead %s", now->count,
             bytes(a, max), ratio(max, now->memory), bytes(b, sum_of(now, "resident")),
             bytes(c, sum_of(now, "balloon")), bytes(d, sum_of(now, "overhead")));
    char e[FORMAT_SIZE];
    put_text(output, TOP_PLAIN, "shared %s in %s of frames, saved %s; compressed %s, swapped %s",
             bytes(a, now->shared), bytes(b, now->pool), bytes(c, sum_of(now, "shared_saved")),
             bytes(d, sum_of(now, "compressed")), bytes(e, sum_of(now, "swapped")));
}

/* ---- VMs ---- */

struct order {
    double value;
    size_t vm;
};

static int compare_orders(const void *a, const void *b)
{
    const struct order *one = a, *other = b;
    if (one->value != other->value)
        return one->value > other->value ? -1 : 1;
    return one->vm < other->vm ? -1 : 1; /* by name */
}

/* Indices into now->vms as they are shown; the caller frees. NULL: out of memory. */
static struct order *order_of(const struct top_view *view, const struct top_sample *now,
                              const struct top_sample *before)
{
    struct order *order = calloc(now->count + 1, sizeof *order);
    for (size_t i = 0; order != NULL && i < now->count; i++) {
        bool by_name = view->sort >= TOP_COLUMNS;
        double value = by_name ? 0 - (double)i : top_value(now, before, i, view->sort);
        order[i] = (struct order){.value = view->is_reverse ? -value : value, .vm = i};
    }
    if (order != NULL)
        qsort(order, now->count, sizeof *order, compare_orders);
    return order;
}

static void cell_format(char text[FORMAT_SIZE], double value, enum top_kind kind)
{
    if (value < 0)
        snprintf(text, FORMAT_SIZE, "-");
    else if (kind == TOP_MMU)
        snprintf(text, FORMAT_SIZE, "%s%s", top_mmus[(unsigned)value / 2].cell,
                 (unsigned)value % 2 != 0 ? "+" : "");
    else if (kind == TOP_RATIO)
        snprintf(text, FORMAT_SIZE, value < 99.995 ? "%.2f" : "%.0f",
                 value < 99999 ? value : 99999);
    else if (kind == TOP_BYTES || kind == TOP_BYTES_RATE)
        format_bytes(text, value < 0x1p63 ? (uint64_t)value : 1ull << 63);
    else if (kind == TOP_TIME_RATE)
        snprintf(text, FORMAT_SIZE, value < 99.95 ? "%.1f" : "%.0f", value < 99999 ? value : 99999);
    else if (value < 99999.5)
        snprintf(text, FORMAT_SIZE, "%.0f", value);
    else if (value < 9999e3)
        snprintf(text, FORMAT_SIZE, "%.0fk", value / 1e3);
    else
        snprintf(text, FORMAT_SIZE, "%.0fM", value < 9999e6 ? value / 1e6 : 9999);
}

static unsigned columns_that_fit(const struct top_view *view, unsigned name_width)
{
    unsigned room = view->width > name_width ? (view->width - name_width) / (TOP_CELL + 1) : 0;
    return room < TOP_COLUMNS ? room : TOP_COLUMNS;
}

/* As wide as the longest, but not too much of the screen. */
static unsigned name_width_of(const struct top_view *view, const struct top_sample *now)
{
    unsigned width = NAME_LEAST, most = view->width / 4;
    for (size_t i = 0; i < now->count; i++) {
        unsigned length = (unsigned)strlen(now->vms[i].name) + now->vms[i].is_paused;
        width = length > width ? length : width;
    }
    return width < most ? width : most;
}

/* The part of VMs and columns that is shown, where it is not all. */
static void put_part(struct output *output, size_t vms, size_t shown, unsigned columns)
{
    const struct top_view *view = output->view;
    char part[64] = "", which[64] = "";
    if (shown < vms)
        snprintf(part, sizeof part, "VMs %zu to %zu of %zu", view->first_vm + 1,
                 view->first_vm + shown, vms);
    if (columns < TOP_COLUMNS)
        snprintf(which, sizeof which, "columns %u to %u of %u", view->first_column + 1,
                 view->first_column + columns, TOP_COLUMNS);
    put_text(output, TOP_PLAIN, "%s%s%s", part, part[0] != '\0' && which[0] != '\0' ? ", " : "",
             which);
}

static void put_titles(struct output *output, unsigned name_width, unsigned first, unsigned count)
{
    struct top_line line = {.style = TOP_HEAD};
    const struct top_view *view = output->view;
    int at = snprintf(line.text, sizeof line.text, "%-*s", (int)name_width, "NAME");
    for (unsigned i = 0; i < count; i++)
        at += snprintf(line.text + at, sizeof line.text - (size_t)at, " %*s", (int)TOP_CELL,
                       top_columns[first + i].title);
    if (view->sort >= TOP_COLUMNS) {
        line.mark_length = 4;
    } else if (view->sort >= first && view->sort < first + count) {
        line.mark = name_width + (view->sort - first) * (TOP_CELL + 1) + 1;
        line.mark_length = TOP_CELL;
    }
    put(output, &line);
}

static void put_vm(struct output *output, const struct top_sample *now,
                   const struct top_sample *before, size_t index, unsigned name_width,
                   unsigned first, unsigned count)
{
    struct top_line line = {.style = TOP_PLAIN};
    const struct top_vm *vm = &now->vms[index];
    char name[CONTROL_NAME_MOST + 2];
    snprintf(name, sizeof name, "%s%s", vm->is_paused ? "*" : "", vm->name);
    int at =
        snprintf(line.text, sizeof line.text, "%-*.*s", (int)name_width, (int)name_width, name);
    for (unsigned i = first; i < first + count; i++) {
        char text[FORMAT_SIZE];
        cell_format(text, top_value(now, before, index, i), top_columns[i].kind);
        if (vm->is_stalled && strcmp(top_columns[i].member, "balloon") == 0 &&
            strlen(text) < TOP_CELL)
            strcat(text, "!");
        at += snprintf(line.text + at, sizeof line.text - (size_t)at, " %*s", (int)TOP_CELL, text);
    }
    put(output, &line);
}

static void put_vms(struct output *output, struct top_view *view, const struct top_sample *now,
                    const struct top_sample *before)
{
    unsigned name_width = name_width_of(view, now), count = columns_that_fit(view, name_width);
    if (view->first_column > TOP_COLUMNS - count)
        view->first_column = TOP_COLUMNS - count;
    size_t room = view->height > HEAD_LINES + 1 ? view->height - HEAD_LINES - 1 : 1;
    size_t shown = view->height == 0 || room > now->count ? now->count : room;
    if (view->first_vm > now->count - shown)
        view->first_vm = now->count - shown;
    put_part(output, now->count, shown, count);
    put_titles(output, name_width, view->first_column, count);
    struct order *order = order_of(view, now, before);
    for (size_t i = 0; order != NULL && i < shown; i++)
        put_vm(output, now, before, order[view->first_vm + i].vm, name_width, view->first_column,
               count);
    free(order);
}

/* ---- The rest ---- */

static void put_help(struct output *output)
{
    put_text(output, TOP_PLAIN,
             "Sizes in bytes, rounded down. * before a name: paused. Host states, by free");
    put_text(output, TOP_PLAIN,
             "memory: high, soft (balloons), hard (paging), low (VMs stand still).");
    put_text(output, TOP_HEAD, "KEY TITLE MEANING (the key sorts by it)");
    put_text(output, TOP_PLAIN, "s   NAME");
    unsigned first = (output->view->help - 1) * HELP_COLUMNS;
    for (unsigned i = first; i < first + HELP_COLUMNS && i < TOP_COLUMNS; i++)
        put_text(output, TOP_PLAIN, "%c   %-5s %s", top_columns[i].key, top_columns[i].title,
                 top_columns[i].meaning);
}

static void put_empty_lines(struct output *output)
{
    while (output->lines < output->most)
        put_text(output, TOP_PLAIN, "%s", "");
}

/* The last line is there whatever else has room. */
static void put_foot(struct output *output)
{
    const struct top_view *view = output->view;
    put_empty_lines(output);
    output->most = view->height;
    if (view->note != NULL)
        put_text(output, TOP_ALARM, "%s", view->note);
    else
        put_text(output, TOP_FOOT, "%s", view->help != 0 ? help_keys_line : keys_line);
}

void top_layout(struct top_view *view, const struct top_sample *now,
                const struct top_sample *before, top_emit *emit, void *context)
{
    struct output output = {.view = view, .emit = emit, .context = context};
    view->width = view->width < TOP_WIDTH_MOST ? view->width : TOP_WIDTH_MOST;
    output.most = view->height > 0 ? view->height - 1 : 0;
    if (view->width < TOP_WIDTH_LEAST || view->height == 1) {
        output.most = view->height;
        put_text(&output, TOP_ALARM, "too small: q quits");
        put_empty_lines(&output);
        return;
    }
    if (view->help != 0) {
        put_help(&output);
    } else {
        put_host(&output, now);
        put_vms(&output, view, now, before);
    }
    if (view->height > 0)
        put_foot(&output);
}

/* By a column, or by name; with the first VM on the screen. */
static void sort_by(struct top_view *view, unsigned sort)
{
    view->sort = sort;
    view->first_vm = 0;
}

static bool sort_by_key(struct top_view *view, int key)
{
    if (key == 's') {
        sort_by(view, TOP_SORT_NAME);
        return true;
    }
    for (unsigned i = 0; i < TOP_COLUMNS; i++) {
        if (key == top_columns[i].key) {
            sort_by(view, i);
            return true;
        }
    }
    return false;
}

bool top_view_key(struct top_view *view, int key)
{
    size_t page = view->height > HEAD_LINES + 2 ? view->height - HEAD_LINES - 2 : 1;
    unsigned sort = view->sort;
    if (view->help != 0 && key != 'h' && key != '?') {
        view->help = 0;
        sort_by_key(view, key);
        return true;
    }
    switch (key) {
    case 'h':
    case '?':
        view->help = view->help < HELP_PAGES ? view->help + 1 : 0;
        return true;
    case '<':
        sort_by(view, sort == 0 ? TOP_SORT_NAME : sort - 1);
        return true;
    case '>':
        sort_by(view, sort == TOP_SORT_NAME ? 0 : sort + 1);
        return true;
    case 'z':
        view->is_reverse = !view->is_reverse;
        return true;
    case TOP_LEFT:
        view->first_column -= view->first_column > 0;
        return true;
    case TOP_RIGHT:
        view->first_column++;
        return true;
    case TOP_UP:
        view->first_vm -= view->first_vm > 0;
        return true;
    case TOP_DOWN:
        view->first_vm++;
        return true;
    case TOP_PAGE_UP:
        view->first_vm -= view->first_vm < page ? view->first_vm : page;
        return true;
    case TOP_PAGE_DOWN:
        view->first_vm += page;
        return true;
    default:
        return sort_by_key(view, key);
    }
}
