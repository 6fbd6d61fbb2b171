"""Memory of the VMs as the manager counts it: a table, and a summary."""

MIB = 1 << 20
COLUMNS = (("MAX", "max"), ("TARGET", "target"), ("RESIDENT", "charged"), ("ACTIVE", "active"),
           ("BALLOON", "balloon"), ("SHARED", "shared"), ("SAVED", "shared_saved"),
           ("COMPR", "compressed"), ("SWAPPED", "swapped"), ("DISK", "disk_backed"),
           ("PROCESS", "overhead"))


def mib(number):
    return f"{number / MIB:.0f}M" if number >= 10 * MIB or number == 0 else f"{number / MIB:.1f}M"


def total(status, key):
    return sum(vm.get(key, 0) for vm in status["vms"])


def table(status, redraw=False, left=0.0):
    host = status["host"]
    lines = [f"host: {mib(host['memory'])}, {mib(host['free'])} free, state {host['state']}; "
             f"pool of shared pages {mib(host['pool'])}; {max(left, 0):.0f} s to go",
             "NAME        " + "".join(f"{head:>9}" for head, _ in COLUMNS)]
    for vm in status["vms"]:
        lines.append(f"{vm['name']:12}" + "".join(f"{mib(vm.get(key, 0)):>9}"
                                                  for _, key in COLUMNS))
    lines.append(f"{'all':12}" + "".join(f"{mib(total(status, key)):>9}" for _, key in COLUMNS))
    if redraw:
        return "\033[H\033[J" + "\n".join(lines)
    return "\n" + "\n".join(lines)


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
