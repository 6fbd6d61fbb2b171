/* What memory there is, and what a process takes of it, as the kernel says it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hostd/charge.h"
#include "hostd/host_memory.h"
#include "util/bits.h"

/* ---- the host: files as the kernel shows them, in a folder of ours ---- */

static char root[64];

static void put(const char *path, const char *text)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *at = whole + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        assert_true(mkdir(whole, 0700) == 0 || errno == EEXIST);
        *at = '/';
    }
    FILE *file = fopen(whole, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int setup(void **state)
{
    strcpy(root, "/tmp/aerostat-host-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("/proc/meminfo", "MemTotal:  2000 kB\nMemFree: 1 kB\nMemAvailable:   1000 kB\n");
    return 0;
}

static int teardown(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static void test_host_alone(void **state)
{
    assert_int_equal(host_memory_spare("/nowhere"), 0);
    assert_int_equal(host_memory_spare(root), 1000 * KIB);
    put("/proc/self/cgroup", "0::/\n3:cpu:/a\nnonsense\n");
    assert_int_equal(host_memory_spare(root), 1000 * KIB);
    assert_true(host_memory_spare("") > MIB); /* this one */
}

static void test_cgroup_v2(void **state)
{
    put("/proc/self/cgroup", "0::/user/me\n");
    put("/sys/fs/cgroup/user/me/memory.max", "max\n");
    put("/sys/fs/cgroup/user/me/memory.current", "700000\n");
    assert_int_equal(host_memory_spare(root), 1000 * KIB);
    put("/sys/fs/cgroup/user/memory.max", "900000\n");
    put("/sys/fs/cgroup/user/memory.current", "800000\n");
    put("/sys/fs/cgroup/user/memory.stat", "anon 1\nactive_file 9\ninactive_file 50000\n");
    assert_int_equal(host_memory_spare(root), 150000); /* of the one above */
    put("/sys/fs/cgroup/user/me/memory.max", "750000\n");
    assert_int_equal(host_memory_spare(root), 50000);
    put("/sys/fs/cgroup/user/me/memory.max", "1000\n"); /* below what it has */
    assert_int_equal(host_memory_spare(root), 0);
}

static void test_in_a_container(void **state)
{
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/memory.max", "600000\n");
    put("/sys/fs/cgroup/memory.current", "100000\n");
    assert_int_equal(host_memory_spare(root), 500000);
}

static void test_cgroup_v1(void **state)
{
    put("/proc/self/cgroup", "5:cpuset,memory:/jobs\n2:memory_not:/x\n1:cpu:/y\n0::/z\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "500000\n");
    put("/sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "400000\n");
    put("/sys/fs/cgroup/memory/jobs/memory.stat", "cache 5\ntotal_inactive_file 30000\n");
    assert_int_equal(host_memory_spare(root), 130000);
}

/* ---- a process ---- */

enum { BYTES = 24 << 20 };

/* BYTES of memory, all of it in use. It is not touched here, for which a sanitizer takes memory of
 * its own. */
static void use_memory(int flags, int fd)
{
    const int protection = PROT_READ | PROT_WRITE;
    if (syscall(SYS_mmap, NULL, BYTES, protection, flags | MAP_POPULATE, fd, (off_t)0) < 0)
        _exit(1);
}

static void test_a_process(void **state)
{
    struct charge charge;
    int ready[2], go[2];
    int ram = memfd_create("ram", MFD_CLOEXEC), pool = memfd_create("pool", MFD_CLOEXEC);
    struct stat info;
    char byte = 0;
    assert_int_equal(ftruncate(ram, 4 * BYTES), 0);
    assert_int_equal(ftruncate(pool, 4 * BYTES), 0);
    assert_int_equal(fstat(pool, &info), 0);
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where the test fails */
        if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        /* its RAM, mapped twice, frames, memory of its own, and a memfd that it has told nobody of,
         * mapped twice as well */
        int hidden = memfd_create("hidden", MFD_CLOEXEC);
        if (ftruncate(hidden, BYTES) != 0)
            _exit(1);
        use_memory(MAP_SHARED, ram);
        use_memory(MAP_SHARED, ram);
        use_memory(MAP_SHARED, pool);
        use_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
        use_memory(MAP_SHARED, hidden);
        use_memory(MAP_SHARED, hidden);
        if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        if (ftruncate(hidden, 0) != 0 || write(ready[1], &byte, 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(charge_open(&charge, child));
    charge.ram = ram;
    assert_int_equal(charge.started, charge_process_started(child));
    assert_true(charge_measure(&charge, 0));
    assert_int_equal(charge.ram_bytes, 0);
    const uint64_t before = charge.rest_bytes; /* a sanitizer has much of its own */
    assert_int_equal(write(go[1], &byte, 1), 1);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(charge_measure(&charge, BYTES));
    assert_int_equal(charge.ram_bytes, BYTES);
    assert_in_range(charge.rest_bytes - before, 3.95 * BYTES, 4.05 * BYTES);
    assert_true(charge_has_moved(&charge));
    charge_look(&charge, child, BYTES, info.st_ino);
    assert_true(charge_measure(&charge, BYTES));
    assert_false(charge_has_moved(&charge));
    assert_in_range(charge.rest_bytes - before, 1.95 * BYTES, 2.05 * BYTES);
    /* It holds more frames, none of which it has mapped. */
    assert_true(charge_measure(&charge, 3 * BYTES));
    assert_true(charge_has_moved(&charge));
    charge_look(&charge, child, 3 * BYTES, info.st_ino);
    assert_true(charge_measure(&charge, 3 * BYTES));
    assert_false(charge_has_moved(&charge));
    assert_in_range(charge.rest_bytes - before, 1.95 * BYTES, 2.05 * BYTES);
    /* It gives back what is mapped twice. */
    assert_int_equal(write(go[1], &byte, 1), 1);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(charge_measure(&charge, 3 * BYTES));
    assert_true(charge_has_moved(&charge));
    charge_look(&charge, child, 3 * BYTES, info.st_ino);
    assert_true(charge_measure(&charge, 3 * BYTES));
    assert_in_range(charge.rest_bytes - before, 0.95 * BYTES, 1.05 * BYTES);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_false(charge_measure(&charge, 0));
    assert_false(charge_measure(&charge, 0));
    charge_close(&charge);
    assert_false(charge_open(&charge, child));
    assert_int_equal(charge_process_started(child), 0);
    close(pool);
    for (unsigned i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_host_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cgroup_v2, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_a_container, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cgroup_v1, setup, teardown),
        cmocka_unit_test(test_a_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
