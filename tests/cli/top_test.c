/* What `aerostat top` makes of the manager's status: cells, rates, order, what fits; keys; and that
 * nothing in a status can get at the terminal. */

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/top_layout.h"
#include "util/bits.h"

#define LINES_MOST   64u
#define HELP_COLUMNS 18u /* on a screen */

struct page {
    struct top_line lines[LINES_MOST];
    unsigned count;
};

static void take_line(void *context, const struct top_line *line)
{
    struct page *page = context;
    assert_true(page->count < LINES_MOST);
    page->lines[page->count++] = *line;
}

static struct page layout(struct top_view *view, const struct top_sample *now,
                          const struct top_sample *before)
{
    struct page page = {0};
    top_layout(view, now, before, take_line, &page);
    for (unsigned i = 0; i < page.count; i++) {
        const struct top_line *line = &page.lines[i];
        assert_true(strlen(line->text) <= view->width);
        assert_true(line->mark + line->mark_length <= view->width);
        for (const char *at = line->text; *at != '\0'; at++)
            assert_true(isprint((unsigned char)*at));
    }
    if (view->height != 0)
        assert_int_equal(page.count, view->height);
    return page;
}

/* `text` with ' for ". */
static struct top_sample sample_of(const char *text, uint64_t when_ns)
{
    char json[8192];
    struct top_sample sample;
    struct error err = {0};
    size_t length = strlen(text);
    assert_true(length < sizeof json);
    memcpy(json, text, length + 1);
    for (size_t i = 0; i < length; i++)
        json[i] = json[i] == '\'' ? '"' : json[i];
    json_t *reply = json_loads(json, 0, NULL);
    assert_non_null(reply);
    assert_int_equal(top_sample_read(&sample, reply, when_ns, &err), STATUS_OK);
    json_decref(reply);
    return sample;
}

static const char first[] =
    "{'host': {'memory': 1073741824, 'free': 75161928, 'used': 998579896, 'shared': 314572800,"
    " 'pool': 47185920, 'state': 'soft', 'tax': 0.75, 'vms': 3},"
    "'vms': [{'name': 'web', 'pid': 11, 'max': 536870912, 'min': 67108864, 'target': 402653184,"
    " 'resident': 367001600, 'active': 314572800, 'balloon': 0, 'balloon_target': 0,"
    " 'swapped': 0, 'compressed': 1024, 'shared': 31457280, 'shared_saved': 20971520,"
    " 'overhead': 10485760, 'swap_read': 0, 'swap_written': 4096, 'faults_in': 10,"
    " 'stall_ns': 0, 'pages_scanned': 1000, 'cpu_ns': 5000000000, 'paused': false,"
    " 'tlb_misses': 500, 'walk_references': 700, 'hidden_faults': 3, 'traced_writes': 0,"
    " 'shadow_memory': 1048576, 'mmu_mode': 'shadow', 'mmu_is_chosen': true,"
    " 'balloon_state': 'steady'},"
    "{'name': 'db', 'pid': 12, 'max': 536870912, 'resident': 268435456, 'balloon': 104857600,"
    " 'balloon_target': 209715200, 'balloon_state': 'stalled', 'swap_read': 5,"
    " 'mmu_mode': 'nested', 'mmu_is_chosen': false},"
    "{'name': 'ci10', 'pid': 13, 'max': 268435456, 'resident': 1, 'paused': true,"
    " 'mmu_mode': 'mixed', 'mmu_is_chosen': true},"
    "{'name': 'ci9', 'pid': 14, 'max': 268435456, 'resident': 2}]}";

static const char second[] =
    "{'host': {'memory': 1073741824, 'free': 75161928, 'state': 'soft'},"
    "'vms': [{'name': 'web', 'pid': 11, 'swap_read': 2097152, 'swap_written': 4096,"
    " 'faults_in': 1034, 'stall_ns': 1000000000, 'pages_scanned': 250001000,"
    " 'cpu_ns': 9000000000, 'tlb_misses': 2500, 'walk_references': 3500,"
    " 'hidden_faults': 2, 'traced_writes': 100, 'mmu_mode': 'shadow'},"
    "{'name': 'db', 'pid': 99, 'swap_read': 500000}]}"; /* another db */

static void test_plain(void **state)
{
    (void)state;
    static const char *const expected[] = {
        "12:00:00  host soft: memory 1G, free 71M (7.0%), used 952M, pool 45M  tax 75%",
        "4 VMs of 1.5G, 1.50 of memory: resident 606M, balloons 100M, overhead 10M",
        "shared 300M in 45M of frames, saved 20M; compressed 1K, swapped 0",
        "",
        "NAME       MAX   MIN   TGT   RES   ACT   BAL  BTGT   SWP   CMP   SHR   SAV   OVH "
        "SWI/s SWO/s FLT/s  STL% SCN/s  CPU% MIS/s  REFS HID/s TRC/s   SHD   MMU",
        "ci9       256M     -     -     2     -     -     -     -     -     -     -     - "
        "    -     -     -     -     -     -     -     -     -     -     -     -",
        "*ci10     256M     -     -     1     -     -     -     -     -     -     -     - "
        "    -     -     -     -     -     -     -     -     -     -     -  mix+",
        "db        512M     -     -  256M     - 100M!  200M     -     -     -     -     - "
        "    -     -     -     -     -     -     -     -     -     -     -  nest",
        "web       512M   64M  384M  350M  300M     0     0     0    1K   30M   20M   10M "
        "    -     -     -     -     -     -     -     -     -     -    1M shad+",
    };
    struct top_sample sample = sample_of(first, 0);
    struct top_view view = {.width = 200, .sort = TOP_SORT_NAME, .time = "12:00:00"};
    struct page page = layout(&view, &sample, NULL);
    assert_int_equal(page.count, ARRAY_LENGTH(expected));
    for (unsigned i = 0; i < page.count; i++)
        assert_string_equal(page.lines[i].text, expected[i]);
    assert_int_equal(page.lines[0].style, TOP_STRONG);
    assert_int_equal(page.lines[4].style, TOP_HEAD);
    top_sample_close(&sample);
}

static unsigned column_of(const char *title)
{
    unsigned i = 0;
    while (strcmp(top_columns[i].title, title) != 0)
        i++;
    return i;
}

static void test_rates(void **state)
{
    (void)state;
    struct top_sample before = sample_of(first, 1000000000), now = sample_of(second, 3000000000);
    assert_string_equal(now.vms[1].name, "web");
    assert_true(top_value(&now, &before, 1, column_of("SWI/s")) == 1048576);
    assert_true(top_value(&now, &before, 1, column_of("SWO/s")) == 0);
    assert_true(top_value(&now, &before, 1, column_of("FLT/s")) == 512);
    assert_true(top_value(&now, &before, 1, column_of("STL%")) == 50);
    assert_true(top_value(&now, &before, 1, column_of("CPU%")) == 200);
    assert_true(top_value(&now, &before, 1, column_of("MIS/s")) == 1000);
    assert_true(top_value(&now, &before, 1, column_of("REFS")) == 1.4);
    assert_true(top_value(&now, &before, 1, column_of("HID/s")) < 0); /* it ran backwards */
    assert_true(top_value(&now, &before, 0, column_of("REFS")) < 0);
    assert_true(top_value(&now, &before, 1, column_of("RES")) < 0);
    assert_true(top_value(&now, &before, 0, column_of("SWI/s")) < 0); /* another process */
    assert_true(top_value(&before, &now, 3, column_of("SWI/s")) < 0); /* time goes back */

    struct top_view view = {.width = 200, .sort = column_of("FLT/s")};
    struct page page = layout(&view, &now, &before);
    assert_string_equal(
        page.lines[5].text,
        "web          -     -     -     -     -     -     -     -     -     -     -  "
        "   -    1M     0   512  50.0  125M   200  1000  1.40     -    50     -  shad");
    assert_string_equal(
        page.lines[6].text,
        "db           -     -     -     -     -     -     -     -     -     -     -  "
        "   -     -     -     -     -     -     -     -     -     -     -     -     -");
    top_sample_close(&before);
    top_sample_close(&now);
}

/* The first letters of the VMs' names, from above. */
static const char *order(struct top_view *view, const struct top_sample *sample, char text[8])
{
    struct page page = layout(view, sample, NULL);
    for (unsigned i = 0; i < 4; i++) {
        const char *name = page.lines[5 + i].text;
        text[i] = name[0] == 'c' ? name[2] : name[0];
    }
    text[4] = '\0';
    return text;
}

static void test_order(void **state)
{
    (void)state;
    char text[8];
    struct top_sample sample = sample_of(first, 0);
    struct top_view view = {.width = 80, .height = 24, .sort = TOP_SORT_NAME};
    assert_string_equal(order(&view, &sample, text), "9*dw");
    assert_true(top_view_key(&view, 'z'));
    assert_string_equal(order(&view, &sample, text), "wd*9");
    assert_true(top_view_key(&view, 'z'));
    assert_true(top_view_key(&view, 'r'));
    assert_string_equal(order(&view, &sample, text), "wd9*");
    assert_true(top_view_key(&view, 'b'));
    assert_string_equal(order(&view, &sample, text), "dw9*"); /* equals by name: ci9, ci10 */
    assert_true(top_view_key(&view, 'U'));
    assert_string_equal(order(&view, &sample, text), "w*d9"); /* shadow, mixed, nested, unknown */
    assert_true(top_view_key(&view, 's'));
    assert_int_equal(view.sort, TOP_SORT_NAME);
    assert_true(top_view_key(&view, '>'));
    assert_int_equal(view.sort, 0);
    assert_true(top_view_key(&view, '<'));
    assert_true(top_view_key(&view, '<'));
    assert_int_equal(view.sort, TOP_COLUMNS - 1);
    assert_false(top_view_key(&view, 'Q'));
    top_sample_close(&sample);
}

/* The column that sorts stands out, wherever it is. */
static void test_mark(void **state)
{
    (void)state;
    struct top_sample sample = sample_of(first, 0);
    struct top_view view = {.width = 200, .height = 24};
    for (unsigned sort = 0; sort < TOP_COLUMNS; sort++) {
        view.sort = sort;
        struct page page = layout(&view, &sample, NULL);
        char title[16], right[16];
        snprintf(title, sizeof title, "%.*s", (int)page.lines[4].mark_length,
                 page.lines[4].text + page.lines[4].mark);
        snprintf(right, sizeof right, "%5s", top_columns[sort].title);
        assert_string_equal(title, right);
    }
    top_sample_close(&sample);
}

static struct top_sample many(unsigned count)
{
    char text[8192];
    int at = snprintf(text, sizeof text, "{'host': {}, 'vms': [");
    for (unsigned i = 0; i < count; i++)
        at += snprintf(text + at, sizeof text - (size_t)at,
                       "%s{'name': 'a-long-name-of-a-vm-%u', 'max': %u}", i > 0 ? "," : "", i, i);
    snprintf(text + at, sizeof text - (size_t)at, "]}");
    return sample_of(text, 0);
}

/* At every size, with whatever is chosen: layout() looks at the lines. */
static void test_sizes(void **state)
{
    (void)state;
    struct top_sample samples[] = {many(0), many(1), many(40)};
    for (unsigned width = 1; width < 220; width++) {
        for (unsigned height = 0; height < 45; height++) {
            struct top_view view = {.width = width,
                                    .height = height,
                                    .first_vm = width % 50,
                                    .first_column = width % 30};
            view.help = (width + height) % 5 == 0 ? 1 + width % 2 : 0;
            if (view.help != 0 || height > 0 || width >= TOP_WIDTH_LEAST)
                layout(&view, &samples[(width + height) % 3], NULL);
        }
    }
    struct top_view view = {.width = 80, .height = 24};
    struct page page = layout(&view, &samples[2], NULL);
    assert_string_equal(page.lines[3].text, "VMs 1 to 18 of 40, columns 1 to 10 of 24");
    assert_non_null(strstr(page.lines[23].text, "q quit"));
    for (unsigned i = 0; i < 100; i++) {
        top_view_key(&view, TOP_DOWN);
        top_view_key(&view, TOP_RIGHT);
        page = layout(&view, &samples[2], NULL);
    }
    assert_string_equal(page.lines[3].text, "VMs 23 to 40 of 40, columns 15 to 24 of 24");
    top_view_key(&view, TOP_PAGE_UP);
    top_view_key(&view, TOP_LEFT);
    page = layout(&view, &samples[2], NULL);
    assert_string_equal(page.lines[3].text, "VMs 6 to 23 of 40, columns 14 to 23 of 24");
    view.note = "the manager does not answer";
    page = layout(&view, &samples[2], NULL);
    assert_string_equal(page.lines[23].text, view.note);
    for (unsigned i = 0; i < 3; i++)
        top_sample_close(&samples[i]);
}

/* All columns are explained on two screens of 80 by 24, and their keys are all different. */
static void test_help(void **state)
{
    (void)state;
    struct top_sample sample = many(1);
    struct top_view view = {.width = 80, .height = 24};
    assert_true(top_view_key(&view, 'h'));
    struct page page = layout(&view, &sample, NULL);
    for (unsigned i = 0; i < TOP_COLUMNS; i++) {
        char line[100];
        snprintf(line, sizeof line, "%c   %-5s %s", top_columns[i].key, top_columns[i].title,
                 top_columns[i].meaning);
        if (i == HELP_COLUMNS) {
            assert_true(top_view_key(&view, 'h'));
            page = layout(&view, &sample, NULL);
        }
        assert_string_equal(page.lines[4 + i % HELP_COLUMNS].text, line);
        assert_null(strchr("qhszQ?<>", top_columns[i].key));
        for (unsigned j = 0; j < i; j++)
            assert_int_not_equal(top_columns[i].key, top_columns[j].key);
    }
    assert_true(top_view_key(&view, 'r')); /* back, and what the key is for */
    assert_int_equal(view.help, 0);
    assert_int_equal(view.sort, column_of("RES"));
    for (unsigned i = 0; i < 3; i++) /* round, and back to the table */
        assert_true(top_view_key(&view, 'h'));
    assert_int_equal(view.help, 0);
    top_sample_close(&sample);
}

static void test_cells(void **state)
{
    (void)state;
    static const struct {
        const char *counter, *cell;
    } cases[] = {
        {"0", "    0"},       {"99999", "99999"},    {"100000", " 100k"},
        {"9998999", "9999k"}, {"25000000", "  25M"}, {"9000000000000000000", "9999M"},
    };
    struct top_sample before = sample_of("{'host': {}, 'vms': [{'name': 'a', 'faults_in': 0}]}", 0);
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        char text[200];
        snprintf(text, sizeof text, "{'host': {}, 'vms': [{'name': 'a', 'faults_in': %s}]}",
                 cases[i].counter);
        struct top_sample now = sample_of(text, 1000000000);
        struct top_view view = {.width = 200, .sort = column_of("FLT/s")};
        struct page page = layout(&view, &now, &before);
        char cell[16];
        snprintf(cell, sizeof cell, "%.5s", page.lines[5].text + page.lines[4].mark);
        assert_string_equal(cell, cases[i].cell);
        top_sample_close(&now);
    }
    top_sample_close(&before);
}

/* Names, texts and numbers as nobody should send them. */
static void test_hostile(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{'host': {'state': '\\u001b[2J', 'memory': -1, 'tax': 1e300, 'free': 'x'},"
        " 'vms': [{'name': '\\u001b]0;x\\u0007', 'max': -5, 'pid': []}, 7, null, 'x', [1],"
        " {'name': '../a'}, {'name': ''}, {'name': 'a', 'max': 1.5, 'balloon_state': 3},"
        " {'name': 'a', 'mmu_mode': '\\u001b[2J', 'mmu_is_chosen': 7}, {'name': 'a'},"
        " {'name': 'a', 'mmu_mode': ['nested'], 'walk_references': 5, 'tlb_misses': 0}]}",
        "{'host': {'memory': 0, 'free': 9223372036854775807, 'tax': -0.0}, 'vms': ["
        " {'name': 'a', 'max': 9223372036854775807, 'cpu_ns': 9223372036854775807},"
        " {'name': 'b', 'max': 9223372036854775807, 'resident': 9223372036854775807}]}",
        "{'host': {}, 'vms': []}",
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(texts); i++) {
        struct top_sample before = sample_of(texts[i], 0), now = sample_of(texts[i], 1);
        for (unsigned sort = 0; sort <= TOP_COLUMNS; sort++) {
            struct top_view view = {.width = 80 + sort, .height = 30, .sort = sort};
            layout(&view, &now, &before);
        }
        top_sample_close(&before);
        top_sample_close(&now);
    }
    static const char *const no_status[] = {"{}", "{\"host\": 1, \"vms\": []}", "[]",
                                            "{\"host\": {}, \"vms\": {}}"};
    for (unsigned i = 0; i < ARRAY_LENGTH(no_status); i++) {
        struct top_sample sample;
        struct error err = {0};
        json_t *reply = json_loads(no_status[i], 0, NULL);
        assert_int_equal(top_sample_read(&sample, reply, 0, &err), STATUS_INVALID);
        json_decref(reply);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_rates),   cmocka_unit_test(test_order),
        cmocka_unit_test(test_mark),  cmocka_unit_test(test_sizes),   cmocka_unit_test(test_help),
        cmocka_unit_test(test_cells), cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
