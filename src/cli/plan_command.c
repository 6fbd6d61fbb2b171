/* aerostat plan: the policy's division of memory among the VMs of a file; nothing is started. */

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/plan.h"
#include "util/size.h"
#include "vm/exit_status.h"

static const char help[] =
    "usage: aerostat plan [-f FILE] [--memory SIZE] [--json]\n"
    "\n"
    "Shows how much host memory the policy would give each VM of the file: when all use all of\n"
    "their memory (ALL BUSY), when none does (ALL IDLE), when it does and no other (BUSY ALONE),\n"
    "and when all others do (IDLE ALONE). Starts nothing and asks nobody.\n"
    "\n"
    "  -f FILE         the file of VMs, default aerostat.yaml\n"
    "  --memory SIZE   host memory for all of them, instead of what the file says\n"
    "  --json          one object, sizes in bytes\n"
    "  --help          this text\n"
    "\n"
    "Exit status: 0, or 2 where the VMs cannot run side by side; the last line says why.\n";

static const char *const use_names[PLAN_USES] = {"all_busy", "all_idle", "busy_alone",
                                                 "idle_alone"};

struct sums {
    uint64_t max, min, overhead, paged;
};

static struct sums sums_of(const struct plan *plan)
{
    struct sums sums = {0};
    for (size_t i = 0; i < plan->file->count; i++) {
        const struct policy_vm *vm = &plan->vms[i];
        sums.max += vm->max;
        sums.min += vm->min;
        sums.overhead += vm->overhead;
        sums.paged += vm->max - vm->min;
    }
    return sums;
}

static void print_table(const struct plan *plan, uint64_t *const targets[PLAN_USES])
{
    char text[8][FORMAT_SIZE];
    int width = 4;
    for (size_t i = 0; i < plan->file->count; i++) {
        if ((int)strlen(plan->file->vms[i].name) > width)
            width = (int)strlen(plan->file->vms[i].name);
    }
    printf("%-*s  %6s  %6s  %10s  %8s  %8s  %10s  %10s  %s\n", width, "NAME", "MAX", "MIN",
           "SHARES", "ALL BUSY", "ALL IDLE", "BUSY ALONE", "IDLE ALONE", "GROUP");
    for (size_t i = 0; i < plan->file->count; i++) {
        const struct policy_vm *vm = &plan->vms[i];
        const char *group = plan->file->vms[i].group;
        printf("%-*s  %6s  %6s  %10" PRIu64 "  %8s  %8s  %10s  %10s  %s\n", width,
               plan->file->vms[i].name, format_bytes(text[0], vm->max),
               format_bytes(text[1], vm->min), vm->shares,
               format_bytes(text[2], targets[PLAN_ALL_BUSY][i]),
               format_bytes(text[3], targets[PLAN_ALL_IDLE][i]),
               format_bytes(text[4], targets[PLAN_BUSY_ALONE][i]),
               format_bytes(text[5], targets[PLAN_IDLE_ALONE][i]), group != NULL ? group : "-");
    }
    struct sums sums = sums_of(plan);
    printf(
        "\nhost memory %s: %s stay free, %s for the VMs' processes; the VMs' sizes add up to %s, "
        "%.1f times as much\n",
        format_bytes(text[0], plan->host.memory),
        format_bytes(text[1], policy_reserve(plan->host.memory)),
        format_bytes(text[2], sums.overhead), format_bytes(text[3], sums.max),
        (double)sums.max / (double)plan->host.memory);
}

static void print_json(const struct plan *plan, uint64_t *const targets[PLAN_USES],
                       const struct error *refusal)
{
    struct sums sums = sums_of(plan);
    json_t *vms = json_array();
    for (size_t i = 0; i < plan->file->count; i++) {
        const struct policy_vm *vm = &plan->vms[i];
        const struct vm_spec *spec = &plan->file->vms[i];
        json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I}", "name", spec->name, "group",
                                   spec->group != NULL ? spec->group : "", "max",
                                   (json_int_t)vm->max, "min", (json_int_t)vm->min, "shares",
                                   (json_int_t)vm->shares, "overhead", (json_int_t)vm->overhead);
        for (unsigned use = 0; use < PLAN_USES; use++)
            json_object_set_new(object, use_names[use], json_integer((json_int_t)targets[use][i]));
        json_array_append_new(vms, object);
    }
    json_t *whole = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:o}", "memory", (json_int_t)plan->host.memory,
        "reserve", (json_int_t)policy_reserve(plan->host.memory), "overhead",
        (json_int_t)sums.overhead, "max", (json_int_t)sums.max, "min", (json_int_t)sums.min,
        "swap_needed", (json_int_t)sums.paged, "fits", refusal->status == STATUS_OK, "vms", vms);
    json_dumpf(whole, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(whole);
}

static enum status show(struct plan *plan, bool as_json, struct error *err)
{
    uint64_t *targets[PLAN_USES], *all = calloc(PLAN_USES * plan->file->count, sizeof *all);
    if (all == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    for (unsigned use = 0; use < PLAN_USES; use++) {
        targets[use] = all + use * plan->file->count;
        plan_divide(plan, use, targets[use]);
    }
    enum status status = plan_admit(plan, err);
    if (as_json)
        print_json(plan, targets, err);
    else
        print_table(plan, targets);
    free(all);
    return status;
}

int plan_command(int argc, char **argv)
{
    const char *path = VM_FILE_DEFAULT, *memory_text = NULL;
    bool as_json = false;
    const struct argument_option options[] = {
        {"file", NULL, &path}, {"memory", NULL, &memory_text}, {"json", &as_json, NULL}, {0}};
    const struct arguments arguments = {.command = "plan", .help = help, .options = options};
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;

    struct error err = {0};
    struct vm_file file;
    struct plan plan;
    uint64_t memory = 0;
    if (memory_text != NULL && (size_parse(memory_text, &memory) != STATUS_OK || memory == 0)) {
        fprintf(stderr, "aerostat: --memory %s is not a size; write it like 64M or 1G\n",
                memory_text);
        return EXIT_STATUS_USAGE;
    }
    enum status status = vm_file_read(&file, path, &err);
    if (status != STATUS_OK)
        return client_failed(&err);
    if (memory == 0)
        memory = file.memory;
    if (memory == 0)
        status = error_set(&err, STATUS_INVALID,
                           "%s: memory is missing: how much of the host's the VMs may use; or "
                           "give --memory SIZE",
                           path);
    if (status == STATUS_OK)
        status = plan_make(&plan, &file, memory, &err);
    if (status == STATUS_OK) {
        status = show(&plan, as_json, &err);
        plan_close(&plan);
    }
    vm_file_close(&file);
    if (status == STATUS_OK)
        return EXIT_STATUS_OK;
    fflush(stdout);
    int failed = client_failed(&err);
    return status == STATUS_NO_MEMORY ? EXIT_STATUS_USAGE : failed;
}
