"""From readings to the table: times native, the limits of limits.py, and whether they hold.

`readings` is a dictionary here: the name of a contestant, or NATIVE, to its Readings, a round each.
"""

import json
import statistics

import contest
import limits

NATIVE = "native"


def ratios(runs, base_runs, row):
    """How many times what it takes elsewhere, round by round."""
    return [run.values[row] / base.values[row] for run, base in zip(runs, base_runs)
            if row in run.values and row in base.values]


def in_seconds(nanoseconds):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def in_times(ratio):
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def cell(values, form):
    return contest.with_spread(values, form) if values else "-"


def faster_tcg(readings, qemus, row):
    """The runs of the TCG whose median is the less; None without any."""
    medians = {}
    for qemu in qemus:
        if values := [run.values[row] for run in readings[qemu.name] if row in run.values]:
            medians[qemu.name] = statistics.median(values)
    return readings[min(medians, key=medians.get)] if medians else None


def judge(readings, ours, qemus, row):
    """The limit of a row as the table has it, and whether it holds (None: cannot say)."""
    limit = limits.LIMITS[row]
    native = readings[NATIVE]
    base = native if limit.base == limits.NATIVE else faster_tcg(readings, qemus, row)
    text = limit.text
    if base is None:
        return text, None
    if base is not native and (times := ratios(base, native, row)):
        text += f" = {in_times(statistics.median(times) * limit.factor)}"
    shares = ratios(readings[ours.name], base, row)
    return text, statistics.median(shares) <= limit.factor if shares else None


def say(holds):
    return {True: "yes", False: "NO", None: "-"}[holds]


def print_rows(readings, ours, qemus, rows):
    """Prints the table; gives the rows' judgements."""
    others = [*qemus, ours]
    table = [["row", "native", *(other.name for other in others), "at most", "holds"]]
    judged = {}
    for row in rows:
        text, judged[row] = judge(readings, ours, qemus, row)
        native = [run.values[row] for run in readings[NATIVE] if row in run.values]
        table.append([row, cell(native, in_seconds),
                      *(cell(ratios(readings[other.name], readings[NATIVE], row), in_times)
                        for other in others), text, say(judged[row])])
    contest.print_table(table)
    return judged


def print_boots(path, ours, qemus):
    """The same for what bench/run has measured in this run of `make bench`: boot and memory."""
    with open(path, encoding="utf-8") as stream:
        results = json.load(stream)["results"]
    names = [contestant.name for contestant in (*qemus, ours) if contestant.name in results]
    if ours.name not in names:
        print(f"{path} has nothing about {ours.name}")
        return {"boot": None, "vmm-memory": None, "vmm-memory-without-code": None}

    def medians(key):
        return {name: statistics.median(run[key] for run in results[name]) for name in names}

    boots, vmm = medians("boot_seconds"), medians("vmm_mib")
    rest = statistics.median(run["vmm_mib"] - run["code_cache_mib"] for run in results[ours.name])
    tcg = [boots[qemu.name] for qemu in qemus if qemu.name in names]
    boot_limit = min(tcg) * limits.BOOT.factor if tcg else None
    judged = {
        "boot": boots[ours.name] <= boot_limit if tcg else None,
        "vmm-memory": vmm[ours.name] <= limits.VMM_MIB,
        "vmm-memory-without-code": rest <= limits.VMM_MIB_WITHOUT_CODE,
    }
    contest.print_table([
        ["", *names, "at most", "holds"],
        ["boot to init, s", *(f"{boots[name]:.2f}" for name in names),
         f"TCG = {boot_limit:.2f}" if tcg else "TCG", say(judged["boot"])],
        ["VMM memory, MiB", *(f"{vmm[name]:.1f}" for name in names), str(limits.VMM_MIB),
         say(judged["vmm-memory"])],
        ["without code cache, MiB", *("-" if name != ours.name else f"{rest:.1f}"
                                      for name in names),
         str(limits.VMM_MIB_WITHOUT_CODE), say(judged["vmm-memory-without-code"])]])
    return judged
