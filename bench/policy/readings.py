"""What the figures of the policy make of the samples that they take."""

import statistics

MIB = 1 << 20
STATES = ("high", "soft", "hard", "low")
MOST_OF_IT = 0.9  # of the way from one value to another


def allocation(vm):
    """MiB of host memory that a VM has, its part of shared pages included."""
    return (vm["charged"] + vm["compressed_size"] + vm["shared"] - vm["shared_saved"]) / MIB


def totals(status):
    """MiB, of all VMs."""
    def total(name):
        return sum(vm[name] for vm in status["vms"]) / MIB

    return {"allocated": sum(allocation(vm) for vm in status["vms"]),
            **{name: total(name) for name in ("zero", "shared_saved", "balloon", "compressed",
                                              "swapped", "disk_backed")}}


def state_parts(states):
    """The part of the time in each."""
    return {state: states.count(state) / len(states) for state in STATES}


def arrival(points, begin, before, after):
    """Seconds from `begin` until a value of [(seconds, value)] has gone most of the way between two
    others; None: it has not."""
    limit = before + MOST_OF_IT * (after - before)
    for at, value in points:
        if at >= begin and (value >= limit if after > before else value <= limit):
            return at - begin
    return None


def step_rows(points, steps, period):
    """Of [(seconds, truth, {estimate: value})] and [(seconds, truth)], a row for each step: medians
    of its second half, and after how many periods the estimate "used" had come to the truth."""
    rows, last = [], points[-1][0]
    for index, (begin, truth) in enumerate(steps):
        end = steps[index + 1][0] if index + 1 < len(steps) else last
        inside = [(at, estimates) for at, _, estimates in points if begin <= at <= end]
        half = [estimates for at, estimates in inside if at >= (begin + end) / 2]
        took = arrival([(at, estimates["used"]) for at, estimates in inside], begin,
                       inside[0][1]["used"], truth)
        rows.append({"truth": truth, "begin": begin,
                     **{name: statistics.median(estimates[name] for estimates in half)
                        for name in inside[0][1]},
                     "periods": None if took is None else took / period})
    return rows
