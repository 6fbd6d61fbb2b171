"""Memory of the VMs as the manager counts it, summed up."""

MIB = 1 << 20


def mib(number):
    return f"{number / MIB:.0f}M" if number >= 10 * MIB or number == 0 else f"{number / MIB:.1f}M"


def total(status, key):
    return sum(vm.get(key, 0) for vm in status["vms"])


def spent(status):
    """What the kernel says that the VMs' processes take, shared pages counted once; None: unknown."""
    kilobytes = 0
    for vm in status["vms"]:
        try:
            with open(f"/proc/{vm['pid']}/smaps_rollup", encoding="ascii") as stream:
                kilobytes += sum(int(line.split()[1]) for line in stream
                                 if line.startswith("Pss:"))
        except OSError:
            return None
    return kilobytes << 10


def summary(status, measured):
    host = status["host"]
    configured = total(status, "max")
    rows = [
        ("configured", configured, f"{len(status['vms'])} VMs, {configured / host['memory']:.1f} "
                                   "times the host memory given"),
        ("host memory", host["memory"], f"{mib(host['used'])} used, {mib(host['free'])} free"),
        ("guests' pages", total(status, "charged"), "private pages in memory"),
        ("processes", total(status, "overhead"), "translated code, tables, devices"),
        ("saved", total(status, "shared_saved"), f"by sharing {mib(total(status, 'shared'))} in "
                                                 f"{mib(host['pool'])}"),
        ("zero", total(status, "zero"), "pages that are nowhere"),
        ("ballooned", total(status, "balloon"), "given up by the guests"),
        ("compressed", total(status, "compressed"),
         f"pages, in {mib(total(status, 'compressed_size'))}"),
        ("on disks", total(status, "disk_backed"), "pages that the disk images still have"),
        ("swapped", total(status, "swapped"), "pages in swap files"),
    ]
    if measured is not None:
        rows.insert(2, ("measured", measured, "what the kernel counts for all of them (Pss)"))
    return "\n".join(f"{name:16} {mib(number):>6}  {text}" for name, number, text in rows)
