#include "vm/options.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "control/name.h"
#include "cpu/translate/code_pool.h"
#include "util/bits.h"
#include "util/clock.h"
#include "util/size.h"

#define MEMORY_LEAST   (2 * MIB)
#define MEMORY_MOST    (256 * GIB)
#define MEMORY_DEFAULT (256 * MIB)
#define SHADOW_PART    25u /* of guest memory, for shadow page tables */
#define SWAP_MOST      (4096 * GIB)

#define SAMPLE_PERIOD_DEFAULT 30u /* seconds, as in the paper */
#define SAMPLE_PERIOD_MOST    3600u

const char options_help[] =
    "usage: aerostat run --kernel FILE [OPTION]...\n"
    "\n"
    "Boots a Linux kernel (bzImage or ELF vmlinux), or a multiboot ELF, in a virtual machine.\n"
    "\n"
    "  --kernel FILE      the kernel to boot\n"
    "  --initrd FILE      initial RAM disk; the module of a multiboot kernel\n"
    "  --append STR       kernel command line\n"
    "  --memory SIZE      guest memory: 2M to 256G, default 256M\n"
    "  --resident SIZE    most host memory that the guest's memory may take, from 1M: what is\n"
    "                     over it is compressed or swapped; default: all of it\n"
    "  --min SIZE         host memory that a manager leaves the VM in any case; default 0\n"
    "  --shares N         the VM's part of scarce host memory, against other VMs' shares: 1 to\n"
    "                     1000000000; default: in proportion to --memory\n"
    "  --group NAME       the VM shares equal pages with VMs of this group; default: with itself\n"
    "  --balloon SIZE     guest memory that the guest's balloon driver is to give up; default 0\n"
    "  --swap-dir DIR     folder of the swap file, which has no name and goes when the VM ends;\n"
    "                     default $TMPDIR or /var/tmp\n"
    "  --swap-size SIZE   most that the swap file may hold, 0 for no swap file; default: as much\n"
    "                     as --memory\n"
    "  --cpus N           virtual CPUs: 1 to 16, default 1\n"
    "  --disk FILE[,ro|,overlay]\n"
    "                     raw disk image as the next /dev/vdX, up to 8. ro: read-only; overlay:\n"
    "                     what is written goes to a temporary file in --swap-dir, and is gone\n"
    "                     when the VM ends\n"
    "  --net none         no network (default)\n"
    "  --net user[,hostfwd=tcp:HOST-GUEST]...\n"
    "                     user-mode network; forwards port HOST of this machine to port GUEST\n"
    "                     of the VM: hostfwd=tcp:127.0.0.1:2222-:22 or hostfwd=tcp:2222-22\n"
    "  --name NAME        name of the VM, for aerostat ps and the like: up to 64 letters, digits,\n"
    "                     '-', '_' and '.', the first a letter or digit; default vm1, vm2, ...\n"
    "  --detach           run in the background: prints the name once the VM has started;\n"
    "                     aerostat console NAME is its serial port\n"
    "  --engine ENGINE    translate (default) or interp (slower, simpler: for comparison)\n"
    "  --code-cache SIZE  bound of the translator's code and tables, shared by all CPUs: 2M to\n"
    "                     512M, at least 256K a CPU, default 64M; the second half is used if\n"
    "                     code is run again and again that does not fit into the first\n"
    "  --mmu MMU          nested (default): page walks through the guest's tables and a nested "
    "one,\n"
    "                     as with EPT; shadow: through tables that follow the guest's; or auto:\n"
    "                     each CPU uses what costs it less\n"
    "  --shadow-memory SIZE\n"
    "                     most that these take, all CPUs together: 1M to 1G; default: a 25th of\n"
    "                     --memory\n"
    "  --large-pages on|off\n"
    "                     for measuring: 2 MiB entries in the nested table (default: on)\n"
    "  --walk-caches on|off\n"
    "                     for measuring: page walks remember upper levels (default: on)\n"
    "  --console WHERE    stdio (default), or a file that gets the serial port's output\n"
    "  --debug-exit       I/O port 0xf4 ends the VM: writing v gives exit status (v << 1) | 1\n"
    "  --chaos SEED       for testing: take random pages away and bring them back all the time\n"
    "  --double-paging    for measuring: bring a page back before the guest writes it to a disk\n"
    "  --sample-period SECONDS\n"
    "                     for measuring: CPU time of the VM in which a sample shows how much of "
    "its\n"
    "                     memory is in use, 1 to 3600, default 30\n"
    "  --no-reboot        a guest reset ends the VM instead of restarting it\n"
    "  --stats FILE       write counters as JSON when the VM ends\n"
    "  --help             this text\n"
    "\n"
    "On a terminal, Ctrl-] q ends the VM and Ctrl-] Ctrl-] sends one Ctrl-] to it.\n"
    "\n"
    "Exit status: 0 after power-off (or reset with --no-reboot), 2 for a mistake in the options\n"
    "or files, 3 after a triple fault of the guest, 4 when the VMM failed, 128 + N after signal "
    "N.\n";

enum option_id {
    OPTION_KERNEL = 1,
    OPTION_INITRD,
    OPTION_APPEND,
    OPTION_MEMORY,
    OPTION_RESIDENT,
    OPTION_BALLOON,
    OPTION_MIN,
    OPTION_SHARES,
    OPTION_GROUP,
    OPTION_SWAP_DIR,
    OPTION_SWAP_SIZE,
    OPTION_CPUS,
    OPTION_DISK,
    OPTION_NET,
    OPTION_NAME,
    OPTION_DETACH,
    OPTION_ENGINE,
    OPTION_CODE_CACHE,
    OPTION_MMU,
    OPTION_SHADOW_MEMORY,
    OPTION_LARGE_PAGES,
    OPTION_WALK_CACHES,
    OPTION_CONSOLE,
    OPTION_DEBUG_EXIT,
    OPTION_CHAOS,
    OPTION_DOUBLE_PAGING,
    OPTION_SAMPLE_PERIOD,
    OPTION_NO_REBOOT,
    OPTION_STATS,
    OPTION_HELP,
};

static const struct option long_options[] = {
    {"kernel", required_argument, NULL, OPTION_KERNEL},
    {"initrd", required_argument, NULL, OPTION_INITRD},
    {"append", required_argument, NULL, OPTION_APPEND},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"resident", required_argument, NULL, OPTION_RESIDENT},
    {"balloon", required_argument, NULL, OPTION_BALLOON},
    {"min", required_argument, NULL, OPTION_MIN},
    {"shares", required_argument, NULL, OPTION_SHARES},
    {"group", required_argument, NULL, OPTION_GROUP},
    {"swap-dir", required_argument, NULL, OPTION_SWAP_DIR},
    {"swap-size", required_argument, NULL, OPTION_SWAP_SIZE},
    {"cpus", required_argument, NULL, OPTION_CPUS},
    {"disk", required_argument, NULL, OPTION_DISK},
    {"net", required_argument, NULL, OPTION_NET},
    {"name", required_argument, NULL, OPTION_NAME},
    {"detach", no_argument, NULL, OPTION_DETACH},
    {"engine", required_argument, NULL, OPTION_ENGINE},
    {"code-cache", required_argument, NULL, OPTION_CODE_CACHE},
    {"mmu", required_argument, NULL, OPTION_MMU},
    {"shadow-memory", required_argument, NULL, OPTION_SHADOW_MEMORY},
    {"large-pages", required_argument, NULL, OPTION_LARGE_PAGES},
    {"walk-caches", required_argument, NULL, OPTION_WALK_CACHES},
    {"console", required_argument, NULL, OPTION_CONSOLE},
    {"debug-exit", no_argument, NULL, OPTION_DEBUG_EXIT},
    {"chaos", required_argument, NULL, OPTION_CHAOS},
    {"double-paging", no_argument, NULL, OPTION_DOUBLE_PAGING},
    {"sample-period", required_argument, NULL, OPTION_SAMPLE_PERIOD},
    {"no-reboot", no_argument, NULL, OPTION_NO_REBOOT},
    {"stats", required_argument, NULL, OPTION_STATS},
    {"help", no_argument, NULL, OPTION_HELP},
    {NULL, 0, NULL, 0},
};

/* A size of [least, most] bytes; `range` says that in words. */
static enum status size_option(const char *option, const char *text, uint64_t least, uint64_t most,
                               const char *range, uint64_t *size, struct error *err)
{
    if (size_parse(text, size) != STATUS_OK)
        return error_set(err, STATUS_INVALID, "%s %s is not a size; write it like 256M or 1G",
                         option, text);
    if (*size < least || *size > most)
        return error_set(err, STATUS_INVALID, "%s %s is out of range; give %s", option, text,
                         range);
    return STATUS_OK;
}

/* The same, in whole pages. */
static enum status pages_option(const char *option, const char *text, uint64_t least, uint64_t most,
                                const char *range, uint64_t *size, struct error *err)
{
    enum status status = size_option(option, text, least, most, range, size, err);
    *size = align_down(*size, PAGE_SIZE);
    return status;
}

static bool cut_end(const char *text, size_t *length, const char *end)
{
    size_t end_length = strlen(end);
    if (*length < end_length || strcmp(text + *length - end_length, end) != 0)
        return false;
    *length -= end_length;
    return true;
}

static enum status disk_parse(const char *text, struct vm_options *options, struct error *err)
{
    if (options->disk_count == OPTIONS_MAX_DISKS)
        return error_set(err, STATUS_INVALID, "more than %u --disk options", OPTIONS_MAX_DISKS);
    /* File names may hold commas: only these at the end are ours. */
    size_t path_length = strlen(text);
    bool read_only = cut_end(text, &path_length, ",ro");
    bool overlay = !read_only && cut_end(text, &path_length, ",overlay");
    if (path_length == 0)
        return error_set(err, STATUS_INVALID, "--disk needs a file name");
    char *path = strndup(text, path_length);
    if (path == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    options->disks[options->disk_count++] = (struct disk_options){path, read_only, overlay};
    return STATUS_OK;
}

/* "hostfwd=RULE", `length` bytes of it. */
static enum status net_option_parse(const char *text, size_t length, struct net_options *net,
                                    struct error *err)
{
    static const char hostfwd[] = "hostfwd=";
    size_t prefix = sizeof hostfwd - 1;
    char rule[128];
    if (length < prefix || strncmp(text, hostfwd, prefix) != 0)
        return error_set(err, STATUS_INVALID,
                         "--net user: %.*s is not known; give hostfwd=tcp:HOST-GUEST", (int)length,
                         text);
    if (length - prefix >= sizeof rule)
        return error_set(err, STATUS_INVALID, "--net user: the hostfwd rule is too long");
    if (net->forward_count == OPTIONS_MAX_FORWARDS)
        return error_set(err, STATUS_INVALID, "--net user: more than %u hostfwd rules",
                         OPTIONS_MAX_FORWARDS);
    memcpy(rule, text + prefix, length - prefix);
    rule[length - prefix] = '\0';
    return forward_parse(&net->forwards[net->forward_count++], rule, err);
}

static enum status net_parse(const char *text, struct vm_options *options, struct error *err)
{
    if (strcmp(text, "none") == 0)
        return STATUS_OK;
    size_t prefix = strlen("user");
    if (strncmp(text, "user", prefix) != 0 || (text[prefix] != '\0' && text[prefix] != ','))
        return error_set(err, STATUS_INVALID,
                         "--net %s is not known; give none or user[,hostfwd=tcp:HOST-GUEST]", text);
    if (options->net_count == OPTIONS_MAX_NETS)
        return error_set(err, STATUS_INVALID, "more than %u --net options", OPTIONS_MAX_NETS);

    struct net_options *net = &options->nets[options->net_count++];
    enum status status = STATUS_OK;
    for (const char *at = text + prefix; status == STATUS_OK && *at == ',';) {
        size_t length = strcspn(++at, ",");
        status = net_option_parse(at, length, net, err);
        at += length;
    }
    return status;
}

static enum status name_option(const char *option, const char *value, struct error *err)
{
    struct error why;
    enum status status = control_name_check(value, &why);
    return status == STATUS_OK ? status : error_set(err, status, "%s: %s", option, why.text);
}

/* *off: whether it says "off". */
static enum status switch_parse(const char *option, const char *value, bool *off, struct error *err)
{
    *off = strcmp(value, "off") == 0;
    if (*off || strcmp(value, "on") == 0)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "%s %s is not known; give on or off", option, value);
}

static enum status engine_parse(const char *value, const struct engine_ops **engine,
                                struct error *err)
{
    static const struct engine_ops *const engines[] = {&translate_engine, &interp_engine,
                                                       &translate_lockstep_engine};
    for (size_t i = 0; i < ARRAY_LENGTH(engines); i++) {
        if (strcmp(value, engines[i]->name) == 0) {
            *engine = engines[i];
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_INVALID, "--engine %s is not known; give translate or interp",
                     value);
}

static enum status mmu_parse(const char *value, enum mmu_mode *mode, struct error *err)
{
    static const char *const names[] = {
        [MMU_NESTED] = "nested", [MMU_SHADOW] = "shadow", [MMU_AUTO] = "auto"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        if (strcmp(value, names[i]) == 0) {
            *mode = (enum mmu_mode)i;
            return STATUS_OK;
        }
    }
    return error_set(err, STATUS_INVALID, "--mmu %s is not known; give nested, shadow or auto",
                     value);
}

static enum status path_check(const char *option, const char *value, struct error *err)
{
    if (*value == '\0')
        return error_set(err, STATUS_INVALID, "%s needs a file name", option);
    return STATUS_OK;
}

static enum status option_apply(int id, const char *value, struct vm_options *options,
                                struct error *err)
{
    uint64_t number;
    switch (id) {
    case OPTION_KERNEL:
        options->kernel = value;
        return path_check("--kernel", value, err);
    case OPTION_INITRD:
        options->initrd = value;
        return path_check("--initrd", value, err);
    case OPTION_APPEND:
        options->append = value;
        return STATUS_OK;
    case OPTION_MEMORY:
        return pages_option("--memory", value, MEMORY_LEAST, MEMORY_MOST, "2M to 256G",
                            &options->memory, err);
    case OPTION_RESIDENT:
        return pages_option("--resident", value, OPTIONS_RESIDENT_LEAST, MEMORY_MOST,
                            "1M to what --memory says", &options->resident, err);
    case OPTION_BALLOON:
        return pages_option("--balloon", value, 0, MEMORY_MOST, "less than --memory says",
                            &options->balloon, err);
    case OPTION_MIN:
        return pages_option("--min", value, 0, MEMORY_MOST, "0 to what --memory says",
                            &options->min, err);
    case OPTION_SHARES:
        if (number_parse(value, 1, OPTIONS_SHARES_MOST, &number) != STATUS_OK)
            return error_set(err, STATUS_INVALID, "--shares %s: give a number from 1 to %u", value,
                             OPTIONS_SHARES_MOST);
        options->shares = (uint32_t)number;
        return STATUS_OK;
    case OPTION_GROUP:
        options->group = value;
        return name_option("--group", value, err);
    case OPTION_SWAP_DIR:
        options->swap_dir = value;
        return path_check("--swap-dir", value, err);
    case OPTION_SWAP_SIZE:
        return pages_option("--swap-size", value, 0, SWAP_MOST, "0 to 4096G", &options->swap_size,
                            err);
    case OPTION_CPUS:
        if (number_parse(value, 1, OPTIONS_MAX_CPUS, &number) != STATUS_OK)
            return error_set(err, STATUS_INVALID, "--cpus %s: give a number from 1 to %u", value,
                             OPTIONS_MAX_CPUS);
        options->cpus = (unsigned)number;
        return STATUS_OK;
    case OPTION_DISK:
        return disk_parse(value, options, err);
    case OPTION_NET:
        return net_parse(value, options, err);
    case OPTION_NAME:
        options->name = value;
        return name_option("--name", value, err);
    case OPTION_DETACH:
        options->detach = true;
        return STATUS_OK;
    case OPTION_ENGINE:
        return engine_parse(value, &options->engine, err);
    case OPTION_CODE_CACHE:
        return size_option("--code-cache", value, CODE_POOL_LEAST, CODE_POOL_MOST, "2M to 512M",
                           &options->code_cache, err);
    case OPTION_MMU:
        return mmu_parse(value, &options->mmu.mode, err);
    case OPTION_SHADOW_MEMORY:
        return size_option("--shadow-memory", value, MIB, GIB, "1M to 1G",
                           &options->mmu.shadow_bytes, err);
    case OPTION_LARGE_PAGES:
        return switch_parse("--large-pages", value, &options->mmu.no_host_large, err);
    case OPTION_WALK_CACHES:
        return switch_parse("--walk-caches", value, &options->mmu.no_walk_caches, err);
    case OPTION_CONSOLE:
        options->console = strcmp(value, "stdio") == 0 ? NULL : value;
        return path_check("--console", value, err);
    case OPTION_DEBUG_EXIT:
        options->debug_exit = true;
        return STATUS_OK;
    case OPTION_CHAOS:
        options->chaos = true;
        if (number_parse(value, 0, UINT64_MAX, &options->chaos_seed) != STATUS_OK)
            return error_set(err, STATUS_INVALID, "--chaos %s: give a number as the seed", value);
        return STATUS_OK;
    case OPTION_DOUBLE_PAGING:
        options->double_paging = true;
        return STATUS_OK;
    case OPTION_SAMPLE_PERIOD:
        if (number_parse(value, 1, SAMPLE_PERIOD_MOST, &number) != STATUS_OK)
            return error_set(err, STATUS_INVALID, "--sample-period %s: give seconds, 1 to %u",
                             value, SAMPLE_PERIOD_MOST);
        options->sample_period_ns = number * NS_PER_SECOND;
        return STATUS_OK;
    case OPTION_NO_REBOOT:
        options->no_reboot = true;
        return STATUS_OK;
    case OPTION_STATS:
        options->stats = value;
        return path_check("--stats", value, err);
    case OPTION_HELP:
        options->help = true;
        return STATUS_OK;
    }
    return error_set(err, STATUS_INTERNAL, "option table and parser disagree");
}

/* What options say together. */
static enum status options_check(struct vm_options *options, struct error *err)
{
    if (options->kernel == NULL)
        return error_set(err, STATUS_INVALID, "--kernel is missing; see aerostat run --help");
    if (options->mmu.shadow_bytes == 0)
        options->mmu.shadow_bytes = options->memory / SHADOW_PART;
    if (options->code_cache / options->cpus < CODE_PIECE_LEAST)
        return error_set(err, STATUS_INVALID, "--code-cache: %u CPUs need at least %uK",
                         options->cpus, options->cpus * (unsigned)(CODE_PIECE_LEAST / KIB));
    if (options->resident == UINT64_MAX)
        options->resident = options->memory;
    if (options->resident > options->memory)
        return error_set(err, STATUS_INVALID,
                         "--resident is more than the VM's memory, %" PRIu64 "M",
                         options->memory / MIB);
    if (options->min > options->memory)
        return error_set(err, STATUS_INVALID, "--min is more than the VM's memory, %" PRIu64 "M",
                         options->memory / MIB);
    if (options->balloon >= options->memory)
        return error_set(err, STATUS_INVALID,
                         "--balloon must be less than the VM's memory, %" PRIu64 "M",
                         options->memory / MIB);
    return STATUS_OK;
}

enum status options_parse(int argc, char *const *argv, struct vm_options *options,
                          struct error *err)
{
    *options = (struct vm_options){
        .engine = &translate_engine,
        .append = "",
        .memory = MEMORY_DEFAULT,
        .resident = UINT64_MAX,
        .swap_size = OPTIONS_SWAP_DEFAULT,
        .code_cache = CODE_POOL_DEFAULT,
        .cpus = 1,
        .sample_period_ns = SAMPLE_PERIOD_DEFAULT * NS_PER_SECOND,
    };
    enum status status = STATUS_OK;
    opterr = 0;
    optind = 1;
    for (int id; (id = getopt_long(argc, argv, ":", long_options, NULL)) != -1;) {
        const char *given = argv[optind - 1];
        if (id == ':')
            status =
                error_set(err, STATUS_INVALID, "%s needs a value; see aerostat run --help", given);
        else if (id == '?')
            status = error_set(err, STATUS_INVALID, "%s is not an option; see aerostat run --help",
                               given);
        else
            status = option_apply(id, optarg, options, err);
        if (status != STATUS_OK)
            goto out;
        if (options->help)
            return STATUS_OK;
    }
    if (optind < argc) {
        status = error_set(err, STATUS_INVALID, "%s: unexpected argument; see aerostat run --help",
                           argv[optind]);
        goto out;
    }
    status = options_check(options, err);
out:
    if (status != STATUS_OK)
        options_free(options);
    return status;
}

void options_free(struct vm_options *options)
{
    for (unsigned i = 0; i < options->disk_count; i++)
        free((char *)options->disks[i].path);
    options->disk_count = 0;
}
