#include "hostd/options.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "policy/policy.h"
#include "util/bits.h"
#include "util/size.h"

/* Less is no memory for VMs. */
#define MEMORY_LEAST (16 * MIB)

const char hostd_options_help[] =
    "usage: aerostatd [--memory SIZE] [--swap-size SIZE] [--swap-dir DIR] [--tax PART]\n"
    "                 [--scan-cpu PART] [--scan-always] [--socket PATH]\n"
    "\n"
    "The manager of this user's VMs: divides the host's memory among them, and has VMs of one\n"
    "group share equal pages. One runs for a user; it finds VMs by itself, and they run on when "
    "it\n"
    "ends. SIZE is a number with K, M, G or T.\n"
    "\n"
    "  --memory SIZE     host memory that all VMs together may use, default what the host or this\n"
    "                    process's cgroup has to spare; `aerostat memory` changes it\n"
    "  --swap-size SIZE  space that all VMs' swap files together may take, default any\n"
    "  --swap-dir DIR    where `aerostat up` puts VMs' swap files\n"
    "  --tax PART        of what an idle page is worth, so that who does not use memory lends it "
    "to\n"
    "                    who does: 0 to 0.99, default 0.75; 0: shares alone count\n"
    "  --scan-cpu PART   most CPU time for finding equal pages, of one CPU, all VMs together: 0 "
    "to\n"
    "                    1, default 0.25; 0: no page is shared from now on\n"
    "  --scan-always     use all of that time, even where memory is not short or little is found\n"
    "  --socket PATH     a second control socket, at this path\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0; 2 for a mistake, or where one runs already; 4 where the manager failed.\n";

static enum status take_size(const char *name, const char *text, uint64_t least, uint64_t *size,
                             struct error *err)
{
    if (size_parse(text, size) != STATUS_OK || *size < least || *size > INT64_MAX)
        return error_set(err, STATUS_INVALID, "%s must be a size, at least %uM: 512M, 4G", name,
                         (unsigned)(least / MIB));
    return STATUS_OK;
}

/* 0 to `most`, as a decimal fraction. */
static enum status take_part(const char *name, const char *text, double most, double *part,
                             struct error *err)
{
    char *end;
    double value = strtod(text, &end);
    if (strspn(text, "0123456789.") != strlen(text) || end == text || *end != '\0' ||
        !(value <= most))
        return error_set(err, STATUS_INVALID, "%s must be a part, 0 to %g: 0.5", name, most);
    *part = value;
    return STATUS_OK;
}

enum status hostd_options_parse(int argc, char *const *argv, struct hostd_options *options,
                                struct error *err)
{
    enum { MEMORY = 1, SWAP_SIZE, SWAP_DIR, TAX, SCAN_CPU, SCAN_ALWAYS, SOCKET, HELP };
    static const struct option names[] = {
        {"memory", required_argument, NULL, MEMORY},
        {"swap-size", required_argument, NULL, SWAP_SIZE},
        {"swap-dir", required_argument, NULL, SWAP_DIR},
        {"tax", required_argument, NULL, TAX},
        {"scan-cpu", required_argument, NULL, SCAN_CPU},
        {"scan-always", no_argument, NULL, SCAN_ALWAYS},
        {"socket", required_argument, NULL, SOCKET},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    enum status status = STATUS_OK;
    double part = 0;
    int which;
    *options = (struct hostd_options){
        .swap = POLICY_NO_LIMIT, .tax = POLICY_TAX_DEFAULT, .scan_ppm = POLICY_SCAN_DEFAULT};
    optind = 0; /* tests parse more than once */
    opterr = 0;
    while (status == STATUS_OK && (which = getopt_long(argc, argv, ":", names, NULL)) != -1) {
        switch (which) {
        case MEMORY:
            status = take_size("--memory", optarg, MEMORY_LEAST, &options->memory, err);
            break;
        case SWAP_SIZE:
            status = take_size("--swap-size", optarg, 0, &options->swap, err);
            break;
        case SWAP_DIR:
            options->swap_dir = optarg;
            break;
        case TAX:
            status = take_part("--tax", optarg, POLICY_TAX_MOST, &options->tax, err);
            break;
        case SCAN_CPU:
            status = take_part("--scan-cpu", optarg, 1, &part, err);
            if (status == STATUS_OK)
                options->scan_ppm = (uint32_t)lround(part * 1e6);
            break;
        case SCAN_ALWAYS:
            options->scan_always = true;
            break;
        case SOCKET:
            options->socket = optarg;
            break;
        case HELP:
            options->help = true;
            return STATUS_OK;
        case ':':
            status = error_set(err, STATUS_INVALID, "%s needs a value", argv[optind - 1]);
            break;
        default:
            status =
                error_set(err, STATUS_INVALID, "%s is no option of aerostatd (--help lists them)",
                          argv[optind - 1]);
            break;
        }
    }
    if (status == STATUS_OK && optind < argc)
        status = error_set(err, STATUS_INVALID, "%s is not expected (--help lists the options)",
                           argv[optind]);
    return status;
}
