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
        table.append([row, contest.with_spread(native, in_seconds),
                      *(contest.with_spread(ratios(readings[other.name], readings[NATIVE], row),
                                            in_times) for other in others),
                      text, say(judged[row])])
    contest.print_table(table)
    return judged


def memory_rows(title, memory, ours, others):
    """Table rows and judgements: of the whole VMM, and of it without translated code.

    `memory` has (MiB, MiB of code cache or None) by contestant, a pair for each round.
    """
    rest = [vmm - (code or 0) for vmm, code in memory[ours.name]]
    totals = {name: [vmm for vmm, _ in pairs] for name, pairs in memory.items()}
    limits_of = ((totals[ours.name], limits.VMM_MIB), (rest, limits.VMM_MIB_WITHOUT_CODE))
    holds = [statistics.median(values) <= limit if values else None for values, limit in limits_of]
    form = "{:.1f}".format
    rows = [[f"VMM memory {title}, MiB",
             *(contest.with_spread(totals[other.name], form) for other in others),
             str(limits.VMM_MIB), say(holds[0])],
            ["without code cache, MiB",
             *(contest.with_spread(rest, form) if other is ours else "-" for other in others),
             str(limits.VMM_MIB_WITHOUT_CODE), say(holds[1])]]
    return rows, holds


def boot_rows(results, ours, qemus, others):
    """The table row of bench/run's boot times, and whether ours is within the faster TCG's."""
    boots = {other.name: [run["boot_seconds"] for run in results[other.name]] for other in others}
    tcg = [statistics.median(boots[qemu.name]) for qemu in qemus]
    limit = min(tcg) * limits.BOOT.factor if tcg else None
    holds = statistics.median(boots[ours.name]) <= limit if tcg else None
    form = "{:.2f}".format
    return ["boot to init, s", *(contest.with_spread(boots[other.name], form) for other in others),
            f"TCG = {limit:.2f}" if tcg else "TCG", say(holds)], holds


def print_machine(readings, ours, qemus, boots):
    """Prints and judges what concerns the machine as a whole.

    That is the VMM's memory after all rows have run, when a code cache is as full as it gets; and,
    if `boots` is the JSON of bench/run, its boots, and memory after a boot.
    """
    others = [*qemus, ours]
    judged = {}
    table = [["", *(other.name for other in others), "at most", "holds"]]
    if boots:
        with open(boots, encoding="utf-8") as stream:
            results = json.load(stream)["results"]
        if missing := [other.name for other in others if other.name not in results]:
            raise SystemExit(f"speed: {boots} has nothing about {', '.join(missing)}")
        row, judged["boot"] = boot_rows(results, ours, qemus, others)
        table.append(row)
        memory = {other.name: [(run["vmm_mib"], run["code_cache_mib"])
                               for run in results[other.name]] for other in others}
        rows, holds = memory_rows("after boot", memory, ours, others)
        table += rows
        judged["memory-after-boot"], judged["memory-after-boot-without-code"] = holds
    memory = {other.name: [run.memory for run in readings[other.name] if run.memory]
              for other in others}
    rows, holds = memory_rows("at the end", memory, ours, others)
    table += rows
    judged["memory-at-end"], judged["memory-at-end-without-code"] = holds
    contest.print_table(table)
    return judged
