/* What is a request, and that nothing else is. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control/request.h"
#include "util/bits.h"

static enum status parse_in(const struct control_language *language, const char *line,
                            struct control_request *request, struct error *err)
{
    /* Exactly as long as the line, for the sanitizer's sake. */
    size_t length = strlen(line);
    char *copy = malloc(length == 0 ? 1 : length);
    for (size_t i = 0; i < length; i++)
        copy[i] = line[i];
    *err = (struct error){0};
    const struct control_verb *verb;
    enum status status = control_request_parse(language, copy, length, request, &verb, err);
    free(copy);
    assert_int_equal(verb == NULL, status != STATUS_OK);
    return status;
}

static enum status parse(const char *line, struct control_request *request, struct error *err)
{
    return parse_in(&control_vm_language, line, request, err);
}

static void test_every_request(void **state)
{
    static const struct {
        const char *line;
        struct control_request expected;
    } good[] = {
        {"{\"request\":\"stats\"}", {.kind = CONTROL_STATS}},
        {"{\"version\":1,\"request\":\"stats\"}", {.kind = CONTROL_STATS}},
        {" { \"request\" : \"pause\" } ", {.kind = CONTROL_PAUSE}},
        {"{\"request\":\"resume\"}", {.kind = CONTROL_RESUME}},
        {"{\"request\":\"console\"}\r", {.kind = CONTROL_CONSOLE}},
        {"{\"request\":\"stop\"}", {.kind = CONTROL_STOP}},
        {"{\"request\":\"stop\",\"force\":false}", {.kind = CONTROL_STOP}},
        {"{\"force\":true,\"request\":\"stop\"}", {.kind = CONTROL_STOP, .force = true}},
        {"{\"request\":\"balloon\",\"size\":0}", {.kind = CONTROL_BALLOON}},
        {"{\"request\":\"balloon\",\"size\":67108864}",
         {.kind = CONTROL_BALLOON, .size = 64 * MIB}},
        {"{\"request\":\"resident\",\"size\":9223372036854775807}",
         {.kind = CONTROL_RESIDENT, .size = INT64_MAX}},
        {"{\"request\":\"st\\u0061ts\"}", {.kind = CONTROL_STATS}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        struct control_request request;
        struct error err;
        if (parse(good[i].line, &request, &err) != STATUS_OK)
            fail_msg("%s: %s", good[i].line, err.text);
        assert_int_equal(request.kind, good[i].expected.kind);
        assert_int_equal(request.size, good[i].expected.size);
        assert_int_equal(request.force, good[i].expected.force);
    }
}

static void test_what_is_none(void **state)
{
    static const char *const bad[] = {
        "",
        "stats",
        "\"stats\"",
        "[]",
        "null",
        "1",
        "{",
        "{}",
        "{\"request\":\"stats\"",
        "{\"request\":\"stats\"}}",
        "{\"request\":\"stats\"} {\"request\":\"stats\"}",
        "{\"request\":\"stats\",}",
        "{'request':'stats'}",
        "{\"request\":\"stat\"}",
        "{\"request\":\"Stats\"}",
        "{\"request\":\"\"}",
        "{\"request\":1}",
        "{\"request\":null}",
        "{\"request\":[\"stats\"]}",
        "{\"request\":{\"request\":\"stats\"}}",
        "{\"request\":\"stats\\u0000\"}",
        "{\"request\":\"stats\",\"request\":\"stop\"}",
        "{\"version\":2,\"request\":\"stats\"}",
        "{\"version\":\"1\",\"request\":\"stats\"}",
        "{\"version\":1.0,\"request\":\"stats\"}",
        "{\"version\":-1,\"request\":\"stats\"}",
        "{\"version\":1}",
        "{\"request\":\"stats\",\"size\":1}",
        "{\"request\":\"stats\",\"force\":true}",
        "{\"request\":\"stats\",\"verbose\":true}",
        "{\"request\":\"stop\",\"force\":1}",
        "{\"request\":\"stop\",\"force\":\"true\"}",
        "{\"request\":\"stop\",\"force\":null}",
        "{\"request\":\"stop\",\"size\":1}",
        "{\"request\":\"balloon\"}",
        "{\"request\":\"balloon\",\"size\":-1}",
        "{\"request\":\"balloon\",\"size\":1.5}",
        "{\"request\":\"balloon\",\"size\":1e3}",
        "{\"request\":\"balloon\",\"size\":\"64M\"}",
        "{\"request\":\"balloon\",\"size\":9223372036854775808}",
        "{\"request\":\"balloon\",\"size\":null}",
        "{\"request\":\"resident\",\"size\":1,\"force\":false}",
        "\xff\xfe{\"request\":\"stats\"}",
        "{\"request\":\"sta\xc3(ts\"}",
        "\x1b[2J",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct control_request request;
        struct error err;
        enum status status = parse(bad[i], &request, &err);
        if (status == STATUS_OK)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(err.status, status);
        /* A line for people, that repeats nothing of what came. */
        assert_true(strlen(err.text) > 0);
        for (const char *at = err.text; *at != '\0'; at++)
            assert_in_range(*at, ' ', '~');
    }
}

static enum status parse_length(const char *line, size_t length)
{
    struct control_request request;
    const struct control_verb *verb;
    struct error err;
    return control_request_parse(&control_vm_language, line, length, &request, &verb, &err);
}

static void test_depth_and_length(void **state)
{
    static char line[2 * CONTROL_LINE_MOST];
    static const char *const nests[] = {"[", "{\"a\":", "{\"request\":"};
    for (size_t i = 0; i < ARRAY_LENGTH(nests); i++) {
        size_t length = 0, piece = strlen(nests[i]);
        for (; length + piece < CONTROL_LINE_MOST; length += piece)
            memcpy(line + length, nests[i], piece);
        assert_int_not_equal(parse_length(line, length), STATUS_OK);
    }
    /* As long as may be, and one more. */
    static const char good[] = "{\"request\":\"stats\"}";
    memset(line, ' ', sizeof line);
    memcpy(line, good, sizeof good - 1);
    assert_int_equal(parse_length(line, CONTROL_LINE_MOST - 1), STATUS_OK);
    assert_int_not_equal(parse_length(line, CONTROL_LINE_MOST), STATUS_OK);
    assert_int_not_equal(parse_length(line, 0), STATUS_OK);
    memset(line + sizeof good - 1, 0, sizeof line - (sizeof good - 1));
    assert_int_not_equal(parse_length(line, 100), STATUS_OK);
}

static void test_of_the_manager(void **state)
{
    static const char *const bad[] = {
        "{\"request\":\"stats\"}", /* a VM's */
        "{\"request\":\"admit\",\"name\":\"a\"}",
        "{\"request\":\"admit\",\"max\":1}",
        "{\"request\":\"admit\",\"name\":\"\",\"max\":1}",
        "{\"request\":\"admit\",\"name\":\"../a\",\"max\":1}",
        "{\"request\":\"admit\",\"name\":\"manager\",\"max\":1}",
        "{\"request\":\"admit\",\"name\":\"a\\u0000b\",\"max\":1}",
        "{\"request\":\"admit\",\"name\":7,\"max\":1}",
        "{\"request\":\"admit\",\"name\":\"a\",\"max\":-1}",
        "{\"request\":\"admit\",\"name\":\"a\",\"max\":1,\"group\":\" \"}",
        "{\"request\":\"admit\",\"name\":\"a\",\"max\":1,\"size\":1}",
        "{\"request\":\"set\"}",
        "{\"request\":\"set\",\"name\":\"a\",\"max\":1}",
        "{\"request\":\"memory\"}",
        "{\"request\":\"quit\",\"force\":true}",
    };
    const struct control_language *language = &control_manager_language;
    struct control_request request;
    struct error err;
    assert_int_equal(parse_in(language,
                              "{\"request\":\"admit\",\"name\":\"vm-1.a\",\"max\":7,\"min\":6,"
                              "\"shares\":5,\"swap\":4,\"overhead\":3,\"group\":\"g\"}",
                              &request, &err),
                     STATUS_OK);
    assert_int_equal(request.kind, CONTROL_ADMIT);
    assert_string_equal(request.name, "vm-1.a");
    assert_string_equal(request.group, "g");
    assert_int_equal(request.max, 7);
    assert_int_equal(request.min, 6);
    assert_int_equal(request.shares, 5);
    assert_int_equal(request.swap, 4);
    assert_int_equal(request.overhead, 3);
    assert_int_equal(request.descriptor, -1);
    assert_int_equal(
        parse_in(language, "{\"request\":\"set\",\"name\":\"b\",\"group\":\"\"}", &request, &err),
        STATUS_OK);
    assert_int_equal(request.kind, CONTROL_SET);
    assert_int_equal(request.has, CONTROL_HAS_NAME | CONTROL_HAS_GROUP);
    assert_string_equal(request.group, "");
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        if (parse_in(language, bad[i], &request, &err) == STATUS_OK)
            fail_msg("accepted: %s", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_request),
        cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_depth_and_length),
        cmocka_unit_test(test_of_the_manager),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
