"""What bench/ksm/run's counters come to: a table, and whether the limits hold."""

MIB_PAGES = 256
NAMES = {"aerostat": "Aerostat", "qemu": "QEMU + KSM"}
CPU_MOST = 1 / 3   # of KSM's CPU time
RATE_LEAST = 2     # times KSM's pages a CPU second
SOON = 0.9         # of the most that is saved


def possible(figures):
    return figures["pages"] - figures["distinct"]


def saved_part(figures):
    """Of what could be saved at that moment."""
    return figures["saved"] / max(possible(figures), 1)


def rates(runs, key="unshared_scanned"):
    """Pages looked at a CPU second, in each of the intervals: those that were not shared yet, or with
    "scanned" as the contestant itself counts."""
    before = {key: 0, "cpu_seconds": 0}
    found = []
    for figures in runs:
        seconds = figures["cpu_seconds"] - before["cpu_seconds"]
        found.append((figures[key] - before[key]) / seconds if seconds > 0 else 0)
        before = figures
    return found


def table(results):
    rows = [["", "minutes", "pages, MiB", "different, MiB", "saved, MiB", "of possible",
             "taken, MiB", "CPU, s", "CPU ms per MiB saved", "not shared, looked at a CPU s", "with shared ones", "rounds of work"]]
    for name in NAMES:
        runs = results.get(name, ())
        for figures, rate, raw in zip(runs, rates(runs), rates(runs, "scanned")):
            rows.append([NAMES[name], f"{figures['minutes']:g}",
                         *(f"{figures[key] / MIB_PAGES:.1f}" for key in ("pages", "distinct", "saved")),
                         f"{100 * saved_part(figures):.1f} %",
                         f"{figures['taken'] / MIB_PAGES:.1f}", f"{figures['cpu_seconds']:.2f}",
                         f"{cost(figures):.1f}", f"{rate:,.0f}",
                         f"{raw:,.0f}", str(figures["rounds_of_work"])])
    return rows


def cost(figures):
    """CPU milliseconds per MiB saved."""
    return 1000 * figures["cpu_seconds"] / max(figures["saved"] / MIB_PAGES, 1 / MIB_PAGES)


def soon(name, history):
    """How soon, and for how much, most of it was found: what the minutes are too coarse for."""
    most = max((point["sharing"] for point in history), default=0)
    for point in history:
        if most and point["sharing"] >= SOON * most:
            return (f"{NAMES[name]}: {SOON:.0%} of the most that it saved ({most / MIB_PAGES:.0f} MiB)"
                    f" after {point['seconds']:.0f} s and {point['cpu_seconds']:.2f} s of CPU time")
    return f"{NAMES[name]}: nothing was saved"


def rate_table(full_speed):
    return [["at full speed, what can be shared is shared", "not shared, looked at a CPU s",
             "with shared ones"],
            *([NAMES[name], f"{rate['unshared']:,.0f}", f"{rate['all']:,.0f}"]
              for name, rate in full_speed.items())]


def limits(results):
    """[{what, minutes, value, limit, holds}], of the minutes that both have been looked at after."""
    if len(results) < 2:
        return []
    found = []

    def judge(what, minutes, value, limit, at_least):
        found.append(judged(f"after {minutes:g} min: {what}", value, limit, at_least))

    of_theirs = {figures["minutes"]: figures for figures in results["qemu"]}
    for ours in results["aerostat"]:
        minutes = ours["minutes"]
        if minutes not in of_theirs:
            continue
        theirs = of_theirs[minutes]
        judge("memory saved, times KSM's", minutes, ours["saved"] / max(theirs["saved"], 1), 1, True)
        judge("CPU time per MiB saved, times KSM's", minutes,
              cost(ours) / max(cost(theirs), 1e-9), CPU_MOST, False)
        judge("CPU time, times KSM's", minutes,
              ours["cpu_seconds"] / max(theirs["cpu_seconds"], 1e-9), CPU_MOST, False)
    return found


def judged(what, value, limit, at_least):
    return {"what": what, "value": value, "limit": limit,
            "holds": value >= limit if at_least else value <= limit}


def rate_limits(full_speed):
    if len(full_speed) < 2:
        return []
    return [judged(f"at full speed: pages looked at a CPU second, {kind}, times KSM's",
                   full_speed["aerostat"][key] / max(full_speed["qemu"][key], 1e-9), RATE_LEAST, True)
            for key, kind in (("unshared", "that are not shared"), ("all", "shared ones too"))]


def sentence(limit):
    bound = "at most" if limit["limit"] < 1 else "at least"
    return (f"{limit['what']}: {limit['value']:.2f} ({bound}"
            f" {limit['limit']:.2f}: {'holds' if limit['holds'] else 'MISSED'})")
