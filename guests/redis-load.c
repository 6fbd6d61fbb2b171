/*
 * redis-load: works a Redis server on this machine, as a cache is worked.
 *
 *   redis-load SOCKET KEYS WARM_SECONDS SECONDS [TIMES [HOT]]
 *
 * Fills that many keys with values of 1000 bytes, of which two fifths do not compress; then asks
 * for keys, of which a tenth get nine in ten requests, in batches of 16: half GET, half SET. Every
 * value that comes back is compared. What happens in the first WARM_SECONDS is not counted. TIMES:
 * so many loads one after the other, each with other keys; HOT: how many in ten requests are for
 * that tenth, 9 if not told. A line each:
 *
 *   redis: used bytes=N                      what the server says that it has in memory, when full
 *   redis: load requests=N ns=N p99_ns=N     p99 of a batch
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "measure.h"

#define BATCH        16u
#define VALUE_BYTES  1000u
#define NOISE_BYTES  400u /* of a value, that do not compress */
#define HOT_PART     10u  /* one in so many keys ... */
#define HOT_REQUESTS 9u   /* ... gets so many of ten requests, by default */
#define MAX_BATCHES  4000000u
#define TRIES        600u /* of 0.1 s, to connect */

static uint32_t batch_us[MAX_BATCHES];
static uint64_t hot_requests = HOT_REQUESTS;

static _Noreturn void fail(const char *what)
{
    printf("redis: %s failed\n", what);
    exit(1);
}

static FILE *connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    for (unsigned i = 0; i < TRIES; i++) {
        if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
            return fdopen(fd, "r+");
        usleep(100000);
    }
    fail("connect");
}

static void make_value(uint8_t *value, uint64_t key)
{
    uint64_t seed = key * 0x9e3779b97f4a7c15u + 1;
    memset(value, (int)('a' + key % 26), VALUE_BYTES);
    for (unsigned i = 0; i < NOISE_BYTES; i += sizeof seed) {
        random_next(&seed);
        memcpy(value + i, &seed, sizeof seed);
    }
}

static void send_set(FILE *out, uint64_t key)
{
    uint8_t value[VALUE_BYTES + 8];
    make_value(value, key);
    fprintf(out, "*3\r\n$3\r\nSET\r\n$12\r\n%012" PRIu64 "\r\n$%u\r\n", key, VALUE_BYTES);
    fwrite(value, 1, VALUE_BYTES, out);
    fputs("\r\n", out);
}

static void send_get(FILE *out, uint64_t key)
{
    fprintf(out, "*2\r\n$3\r\nGET\r\n$12\r\n%012" PRIu64 "\r\n", key);
}

static void read_line(FILE *in, char *line, size_t size)
{
    if (fgets(line, (int)size, in) == NULL)
        fail("reading");
}

static void expect_ok(FILE *in)
{
    char line[256];
    read_line(in, line, sizeof line);
    if (strcmp(line, "+OK\r\n") != 0)
        fail(line);
}

static void expect_value(FILE *in, uint64_t key)
{
    char line[256];
    uint8_t value[VALUE_BYTES + 8], got[VALUE_BYTES + 2];
    make_value(value, key);
    read_line(in, line, sizeof line);
    if (fread(got, 1, sizeof got, in) != sizeof got || memcmp(got, value, VALUE_BYTES) != 0)
        fail("a value");
}

static void fill(FILE *in, FILE *out, uint64_t keys)
{
    for (uint64_t key = 0; key < keys;) {
        unsigned sent = 0;
        for (; sent < BATCH && key < keys; sent++)
            send_set(out, key++);
        fflush(out);
        while (sent-- > 0)
            expect_ok(in);
    }
}

static void print_used(FILE *in, FILE *out)
{
    char line[256];
    uint64_t used = 0;
    fputs("*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n", out);
    fflush(out);
    /* The answer is $LENGTH, then that many bytes and an empty line. */
    read_line(in, line, sizeof line);
    size_t left = strtoull(line + 1, NULL, 10) + 2;
    while (left > 0) {
        read_line(in, line, sizeof line);
        left -= strlen(line) < left ? strlen(line) : left;
        if (strncmp(line, "used_memory:", 12) == 0)
            used = strtoull(line + 12, NULL, 10);
    }
    printf("redis: used bytes=%" PRIu64 "\n", used);
}

static void one_batch(FILE *in, FILE *out, uint64_t keys, uint64_t *seed)
{
    uint64_t key[BATCH], hot = keys / HOT_PART;
    uint64_t sets = random_next(seed) >> 16;
    for (unsigned i = 0; i < BATCH; i++) {
        uint64_t chance = random_next(seed);
        key[i] = (chance >> 8) % keys;
        if (chance % 10 < hot_requests)
            key[i] = (chance >> 8) % hot * HOT_PART;
        if (sets >> i & 1)
            send_set(out, key[i]);
        else
            send_get(out, key[i]);
    }
    fflush(out);
    for (unsigned i = 0; i < BATCH; i++) {
        if (sets >> i & 1)
            expect_ok(in);
        else
            expect_value(in, key[i]);
    }
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void load(FILE *in, FILE *out, uint64_t keys, uint64_t warm_ns, uint64_t ns, uint64_t seed)
{
    uint64_t batches = 0, begin = now_ns(), before = begin, start = begin;
    while (before - begin < warm_ns + ns && batches < MAX_BATCHES) {
        one_batch(in, out, keys, &seed);
        uint64_t now = now_ns();
        if (before - begin >= warm_ns)
            batch_us[batches++] = (uint32_t)((now - before) / 1000);
        else
            start = now;
        before = now;
    }
    uint64_t took = now_ns() - start;
    qsort(batch_us, batches, sizeof *batch_us, compare);
    printf("redis: load requests=%" PRIu64 " ns=%" PRIu64 " p99_ns=%" PRIu64 "\n", batches * BATCH,
           took, batches ? batch_us[batches * 99 / 100] * UINT64_C(1000) : 0);
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 7) {
        fprintf(stderr, "usage: redis-load SOCKET KEYS WARM_SECONDS SECONDS [TIMES [HOT]]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t keys = strtoull(argv[2], NULL, 10);
    if (keys < HOT_PART)
        fail("counting keys");
    FILE *in = connect_to(argv[1]), *out = fdopen(dup(fileno(in)), "w");
    if (out == NULL)
        fail("connect");
    setvbuf(out, NULL, _IOFBF, (size_t)BATCH * (VALUE_BYTES + 64));
    fill(in, out, keys);
    print_used(in, out);
    if (argc > 6)
        hot_requests = strtoull(argv[6], NULL, 10);
    uint64_t times = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
    for (uint64_t i = 0; i < times; i++)
        load(in, out, keys, i == 0 ? strtoull(argv[3], NULL, 10) * 1000000000u : 0,
             strtoull(argv[4], NULL, 10) * 1000000000u, i + 1);
    return 0;
}
