/* Files of VMs: what they mean, and that every mistake is told with its place. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/vm_file.h"
#include "util/bits.h"

static enum status parse(struct vm_file *file, const char *text, struct error *err)
{
    *err = (struct error){0};
    return vm_file_parse(file, "dir/vms.yaml", text, strlen(text), err);
}

static void parse_well(struct vm_file *file, const char *text)
{
    struct error err;
    if (parse(file, text, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

static void test_everything(void **state)
{
    struct vm_file file;
    parse_well(&file, "memory: 512M\n"
                      "swap: {dir: swap, size: 2G}\n"
                      "vms:\n"
                      "  web:\n"
                      "    kernel: vmlinuz\n"
                      "    initrd: /boot/initrd\n"
                      "    append: 'console=ttyS0 quiet'\n"
                      "    disks: [web.img, 'data,1.img,ro', 'x.img,overlay']\n"
                      "    net: user,hostfwd=tcp:8080-80\n"
                      "    cpus: 2\n"
                      "    code_cache: 4M\n"
                      "    max: 256M\n"
                      "    min: 32M\n"
                      "    shares: 500\n"
                      "    group: g\n");
    assert_int_equal(file.memory, 512 * MIB);
    assert_string_equal(file.swap_dir, "dir/swap");
    assert_int_equal(file.swap_size, 2 * GIB);
    assert_int_equal(file.count, 1);
    const struct vm_spec *web = &file.vms[0];
    assert_string_equal(web->name, "web");
    assert_int_equal(web->line, 4);
    assert_string_equal(web->kernel, "dir/vmlinuz");
    assert_string_equal(web->initrd, "/boot/initrd");
    assert_string_equal(web->append, "console=ttyS0 quiet");
    assert_int_equal(web->disk_count, 3);
    assert_string_equal(web->disks[0].path, "dir/web.img");
    assert_false(web->disks[0].read_only || web->disks[0].overlay);
    assert_string_equal(web->disks[1].path, "dir/data,1.img");
    assert_true(web->disks[1].read_only);
    assert_string_equal(web->disks[2].path, "dir/x.img");
    assert_true(web->disks[2].overlay);
    assert_string_equal(web->net, "user,hostfwd=tcp:8080-80");
    assert_int_equal(web->cpus, 2);
    assert_int_equal(web->code_cache, 4 * MIB);
    assert_int_equal(web->max, 256 * MIB);
    assert_int_equal(web->min, 32 * MIB);
    assert_int_equal(web->shares, 500);
    assert_string_equal(web->group, "g");
    vm_file_close(&file);
}

static void test_defaults_and_copies(void **state)
{
    struct vm_file file;
    parse_well(&file, "defaults: {kernel: k, max: 64M, group: g, disks: [base.img]}\n"
                      "vms:\n"
                      "  a: {}\n"
                      "  b: {count: 3, max: 128M, disks: []}\n"
                      "  c: {count: 1, kernel: l}\n");
    static const char *const names[] = {"a", "b-1", "b-2", "b-3", "c-1"};
    assert_int_equal(file.count, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_string_equal(file.vms[i].name, names[i]);
    assert_int_equal(file.vms[0].max, 64 * MIB);
    assert_int_equal(file.vms[2].max, 128 * MIB);
    assert_int_equal(file.vms[3].disk_count, 0);
    assert_string_equal(file.vms[3].group, "g");
    assert_string_equal(file.vms[4].kernel, "dir/l");
    assert_int_equal(file.vms[4].cpus, 1);
    assert_int_equal(file.vms[4].min, 0);
    assert_int_equal(file.vms[4].shares, 0);
    assert_int_equal(file.memory, 0);
    assert_null(file.swap_dir);
    assert_true(file.swap_size == UINT64_MAX);
    vm_file_close(&file);
}

/* Who would write to an image that somebody else has gets an overlay; nobody else does. */
static void test_overlays(void **state)
{
    struct vm_file file;
    parse_well(&file, "defaults: {kernel: k, max: 64M}\n"
                      "vms:\n"
                      "  copies: {count: 2, disks: copies.img}\n"
                      "  alone: {disks: alone.img}\n"
                      "  writer: {disks: [shared.img, 'many.img,ro']}\n"
                      "  reader: {disks: ['shared.img,ro', 'many.img,ro']}\n");
    assert_true(file.vms[0].disks[0].overlay && file.vms[1].disks[0].overlay);
    assert_false(file.vms[2].disks[0].overlay);
    assert_true(file.vms[3].disks[0].overlay);
    assert_false(file.vms[3].disks[1].overlay);
    assert_false(file.vms[4].disks[0].overlay || file.vms[4].disks[1].overlay);
    vm_file_close(&file);
}

static void test_aliases(void **state)
{
    struct vm_file file;
    parse_well(&file, "vms:\n  a: &x {kernel: k, max: 64M}\n  b: *x\n");
    assert_int_equal(file.count, 2);
    assert_string_equal(file.vms[1].kernel, "dir/k");
    vm_file_close(&file);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"", "dir/vms.yaml says nothing"},
        {"vms: [", "dir/vms.yaml:2: did not find expected node content"},
        {"vms:\n\tx: 1\n", "dir/vms.yaml:2: found character that cannot start any token"},
        {"- a\n", "dir/vms.yaml:1: the file: this must be keys with values"},
        {"memory: 1G\n", "dir/vms.yaml:1: vms: is missing"},
        {"vms: {}\n", "dir/vms.yaml:1: vms: names none"},
        {"vms:\n", "dir/vms.yaml:1: vms: this must be keys with values"},
        {"vms: {a: {kernel: k, max: 4M}}\n---\nvms: {}\n", "dir/vms.yaml:3: a second document"},
        {"memory: much\n", "dir/vms.yaml:1: memory: much is not a size"},
        {"memory: 4K\n", "dir/vms.yaml:1: memory: 4K is out of range"},
        {"memory:\n", "dir/vms.yaml:1: memory: has no value"},
        {"memory: [1G]\n", "dir/vms.yaml:1: memory: this must be one value"},
        {"memroy: 1G\n", "dir/vms.yaml:1: memroy: no such key; there are memory, swap, defaults "
                         "and vms"},
        {"memory: 1G\nmemory: 2G\n", "dir/vms.yaml:2: memory: is there already, in line 1"},
        {"swap: {folder: x}\n", "dir/vms.yaml:1: folder: no such key; there are dir and size"},
        {"swap: {size: -1}\n", "dir/vms.yaml:1: size: -1 is not a size"},
        {"defaults: {count: 2}\n", "dir/vms.yaml:1: count: is for one VM"},
        {"vms:\n  a:\n    max: 4M\n", "dir/vms.yaml:2: a: kernel is missing"},
        {"vms:\n  a:\n    kernel: k\n", "dir/vms.yaml:2: a: max is missing"},
        {"vms:\n  a:\n    kernel: ''\n", "dir/vms.yaml:3: kernel: needs a file name"},
        {"vms:\n  a:\n    kernel: k\n    max: 1Q\n", "dir/vms.yaml:4: max: 1Q is not a size"},
        {"vms:\n  a:\n    kernel: k\n    max: 1M\n", "dir/vms.yaml:4: max: 1M is out of range"},
        {"vms:\n  a:\n    kernel: k\n    max: 4M\n    min: 8M\n",
         "dir/vms.yaml:5: min: is more than max, 4M"},
        {"vms:\n  a: {kernel: k, max: 4M, shares: 0}\n",
         "dir/vms.yaml:2: shares: 0 is not a number from 1 to"},
        {"vms:\n  a: {kernel: k, max: 4M, cpus: 17}\n",
         "dir/vms.yaml:2: cpus: 17 is not a number from 1 to 16"},
        {"vms:\n  a: {kernel: k, max: 4M, code_cache: 1M}\n",
         "dir/vms.yaml:2: code_cache: 1M is out of range; give 2M to 512M"},
        {"vms:\n  a: {kernel: k, max: 4M, count: 0}\n", "dir/vms.yaml:2: count: 0 is not a"},
        {"vms:\n  a: {kernel: k, max: 4M, group: 'a b'}\n",
         "dir/vms.yaml:2: group: a group's name is"},
        {"vms:\n  a: {kernel: k, max: 4M, net: bridge}\n",
         "dir/vms.yaml:2: net: bridge is not known"},
        {"vms:\n  a: {kernel: k, max: 4M, net: 'user,mac=1'}\n",
         "dir/vms.yaml:2: net: mac=1 is not known"},
        {"vms:\n  a: {kernel: k, max: 4M, net: 'user,hostfwd=tcp:x-1'}\n",
         "dir/vms.yaml:2: net: hostfwd=tcp:x-1: "},
        {"vms:\n  a:\n    kernel: k\n    max: 4M\n    count: 2\n    net: "
         "user,hostfwd=tcp:2222-22\n",
         "dir/vms.yaml:6: net: 2 copies cannot all have one port"},
        {"vms:\n  a: {kernel: k, max: 4M, disks: [',ro']}\n",
         "dir/vms.yaml:2: disks: needs a file name"},
        {"vms:\n  a: {kernel: k, max: 4M, disks: [a, b, c, d, e, f, g, h, i]}\n",
         "dir/vms.yaml:2: disks: more than 8"},
        {"vms:\n  a: {kernel: k, max: 4M, disks: [{a: b}]}\n",
         "dir/vms.yaml:2: disks: this must be one value"},
        {"vms:\n  a: {kernel: k, max: 4M}\n  a: {kernel: k, max: 4M}\n",
         "dir/vms.yaml:3: a: is there already, in line 2"},
        {"vms:\n  a: {kernel: k, max: 4M, count: 2}\n  a-2: {kernel: k, max: 4M}\n",
         "dir/vms.yaml:3: a-2: a VM named a-2 is there already, from line 2"},
        {"vms:\n  -a: {kernel: k, max: 4M}\n", "dir/vms.yaml:2: -a: the name of a VM is"},
        {"vms:\n  a: {kernel: k, max: 4M, count: 1024}\n  b: {kernel: k, max: 4M}\n",
         "dir/vms.yaml:3: b: more than 1024 VMs"},
        {"vms:\n  a: {kernel: \"k\\0\", max: 4M}\n", "dir/vms.yaml:2: kernel: this must be one"},
        {"\"\\e[2J\": 1\n", "dir/vms.yaml:1: ?[2J: no such key"},
        {"vms: &a\n  b: *a\n", "dir/vms.yaml:2: b: no such key; there are kernel"},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct vm_file file;
        struct error err;
        enum status status = parse(&file, cases[i].text, &err);
        if (status != STATUS_INVALID ||
            strncmp(err.text, cases[i].said, strlen(cases[i].said)) != 0)
            fail_msg("%s: status %d: %s", cases[i].text, (int)status, err.text);
    }
}

static void test_files(void **state)
{
    char folder[] = "/tmp/aerostat-vm-file-XXXXXX", path[64], kernel[64];
    struct vm_file file;
    struct error err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/vms.yaml", folder);
    snprintf(kernel, sizeof kernel, "%s/k", folder);
    assert_int_equal(vm_file_read(&file, path, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(vm_file_read(&file, folder, &err), STATUS_INVALID);
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    fputs("vms:\n  a:\n    max: 4M\n    kernel: k\n", stream);
    fclose(stream);
    assert_int_equal(vm_file_read(&file, path, &err), STATUS_OK);
    assert_string_equal(file.vms[0].kernel, kernel);
    assert_int_equal(vm_file_check_files(&file, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "vms.yaml:4: kernel: cannot read "));
    stream = fopen(kernel, "w");
    assert_non_null(stream);
    fclose(stream);
    assert_int_equal(vm_file_check_files(&file, &err), STATUS_OK);
    vm_file_close(&file);
    unlink(kernel);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything), cmocka_unit_test(test_defaults_and_copies),
        cmocka_unit_test(test_overlays),   cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_mistakes),   cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
