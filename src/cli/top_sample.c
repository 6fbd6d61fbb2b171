#include "cli/top_sample.h"

#include <stdlib.h>
#include <string.h>

#include "util/bits.h"

const struct top_column top_columns[TOP_COLUMNS] = {
    {'x', "MAX", "max", TOP_BYTES, "memory that the guest sees"},
    {'m', "MIN", "min", TOP_BYTES, "that it always has"},
    {'t', "TGT", "target", TOP_BYTES, "resident memory it is entitled to, by shares and use"},
    {'r', "RES", "resident", TOP_BYTES, "host memory that it has for itself"},
    {'a', "ACT", "active", TOP_BYTES, "in use lately, by sampling"},
    {'b', "BAL", "balloon", TOP_BYTES, "given up by the guest; ! it gives no more"},
    {'k', "BTGT", "balloon_target", TOP_BYTES, "that it is to give up"},
    {'w', "SWP", "swapped", TOP_BYTES, "in the swap file"},
    {'c', "CMP", "compressed", TOP_BYTES, "in the compression cache, before it was packed"},
    {'d', "SHR", "shared", TOP_BYTES, "in frames that others may have too"},
    {'v', "SAV", "shared_saved", TOP_BYTES, "saved by that"},
    {'o', "OVH", "overhead", TOP_BYTES, "memory of its process beside the guest's"},
    {'i', "SWI/s", "swap_read", TOP_BYTES_RATE, "read from the swap file in a second"},
    {'u', "SWO/s", "swap_written", TOP_BYTES_RATE, "written to it"},
    {'f', "FLT/s", "faults_in", TOP_COUNT_RATE, "pages brought back, from wherever they were"},
    {'l', "STL%", "stall_ns", TOP_TIME_RATE, "part of the time waited for pages, all its CPUs"},
    {'n', "SCN/s", "pages_scanned", TOP_COUNT_RATE, "pages looked at to be shared"},
    {'p', "CPU%", "cpu_ns", TOP_TIME_RATE, "its CPUs' use of the host's; 100 is one of these"},
    {'M', "MIS/s", "tlb_misses", TOP_COUNT_RATE, "addresses that its CPUs' TLBs did not know"},
    {'R', "REFS", "walk_references", TOP_RATIO, "entries of page tables read for each of these"},
    {'H', "HID/s", "hidden_faults", TOP_COUNT_RATE, "that shadow page tables did not know either"},
    {'T', "TRC/s", "traced_writes", TOP_COUNT_RATE, "writes to page tables that are traced"},
    {'S', "SHD", "shadow_memory", TOP_BYTES, "shadow page tables; part of OVH"},
    {'U', "MMU", "mmu_mode", TOP_MMU, "nested walks or shadows; + the VM chose so itself"},
};

const struct top_mmu top_mmus[TOP_MMUS] = {
    {"nested", "nest"}, {"mixed", "mix"}, {"shadow", "shad"}};

static uint64_t number_of(const json_t *object, const char *member)
{
    const json_t *value = json_object_get(object, member);
    return json_is_integer(value) && json_integer_value(value) >= 0
               ? (uint64_t)json_integer_value(value)
               : TOP_NONE;
}

static const char *text_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));
    return text != NULL ? text : "";
}

static uint64_t mmu_of(const json_t *object, const char *member)
{
    for (unsigned i = 0; i < TOP_MMUS; i++) {
        if (strcmp(text_of(object, member), top_mmus[i].name) == 0)
            return 2 * i + json_is_true(json_object_get(object, "mmu_is_chosen"));
    }
    return TOP_NONE;
}

static void vm_read(struct top_vm *vm, const json_t *object)
{
    struct error err;
    const char *name = text_of(object, "name");
    bool is_name = control_name_check(name, &err) == STATUS_OK;
    memset(vm, 0, sizeof *vm);
    strncpy(vm->name, is_name ? name : "?", sizeof vm->name - 1);
    vm->pid = number_of(object, "pid");
    vm->is_paused = json_is_true(json_object_get(object, "paused"));
    vm->is_stalled = strcmp(text_of(object, "balloon_state"), "stalled") == 0;
    for (unsigned i = 0; i < TOP_COLUMNS; i++)
        vm->number[i] =
            (top_columns[i].kind == TOP_MMU ? mmu_of : number_of)(object, top_columns[i].member);
}

static void host_read(struct top_sample *sample, const json_t *host)
{
    static const char *const states[] = {"high", "soft", "hard", "low"};
    const json_t *tax = json_object_get(host, "tax");
    strcpy(sample->state, "?");
    for (size_t i = 0; i < ARRAY_LENGTH(states); i++) {
        if (strcmp(text_of(host, "state"), states[i]) == 0)
            strcpy(sample->state, states[i]);
    }
    sample->tax = json_is_number(tax) ? json_number_value(tax) : -1;
    sample->memory = number_of(host, "memory");
    sample->free = number_of(host, "free");
    sample->used = number_of(host, "used");
    sample->pool = number_of(host, "pool");
    sample->shared = number_of(host, "shared");
}

static int compare_names(const void *a, const void *b)
{
    return strverscmp(((const struct top_vm *)a)->name, ((const struct top_vm *)b)->name);
}

enum status top_sample_read(struct top_sample *sample, const json_t *reply, uint64_t when_ns,
                            struct error *err)
{
    const json_t *host = json_object_get(reply, "host"), *vms = json_object_get(reply, "vms");
    *sample = (struct top_sample){.when_ns = when_ns};
    if (!json_is_object(host) || !json_is_array(vms))
        return error_set(err, STATUS_INVALID, "the manager: no status in the answer");
    size_t count = json_array_size(vms);
    sample->vms = calloc(count + 1, sizeof *sample->vms);
    if (sample->vms == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    host_read(sample, host);
    for (size_t i = 0; i < count; i++)
        vm_read(&sample->vms[i], json_array_get(vms, i));
    sample->count = count;
    qsort(sample->vms, count, sizeof *sample->vms, compare_names);
    return STATUS_OK;
}

void top_sample_close(struct top_sample *sample)
{
    free(sample->vms);
    *sample = (struct top_sample){0};
}

/* Below 0: not known. */
static double growth(const struct top_vm *is, const struct top_vm *was, unsigned column)
{
    uint64_t number = is->number[column], before = was->number[column];
    return number == TOP_NONE || before > number ? -1 : (double)(number - before);
}

double top_value(const struct top_sample *now, const struct top_sample *before, size_t vm,
                 unsigned column)
{
    const struct top_vm *is = &now->vms[vm];
    enum top_kind kind = top_columns[column].kind;
    if (kind == TOP_BYTES || kind == TOP_MMU)
        return is->number[column] == TOP_NONE ? -1 : (double)is->number[column];
    if (before == NULL || before->count == 0 || now->when_ns <= before->when_ns)
        return -1;
    const struct top_vm *was =
        bsearch(is, before->vms, before->count, sizeof *before->vms, compare_names);
    /* Another VM of that name counts from the beginning. */
    if (was == NULL || was->pid != is->pid)
        return -1;
    double grown = growth(is, was, column);
    if (grown < 0)
        return -1;
    if (kind == TOP_RATIO) {
        double of = growth(is, was, column - 1);
        return of > 0 ? grown / of : -1;
    }
    double rate = grown / ((double)(now->when_ns - before->when_ns) / 1e9);
    return kind == TOP_TIME_RATE ? rate / 1e7 : rate;
}
