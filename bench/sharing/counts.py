"""What the manager's status says of sharing, summed over all VMs, and when it has settled."""

import statistics
import time
from dataclasses import dataclass

import contents

PAGE = 4096
READ_SECONDS = 5
OVERHEAD_MIB = 64  # more than a VM's process takes beside the guest's memory
SETTLED_SECONDS = 8  # over which nothing much has changed
SETTLED_PART = 0.01  # and how much that is, of what is shared
FREE = 0.2  # of host memory, while scanning: more than in any state of shortage


@dataclass
class Sample:
    """Bytes, unless said."""
    configured: int
    zero: int  # never written, or all zero: takes no memory
    balloon: int
    away: int  # compressed, swapped, or on the guest's disk alone: 0 where there is memory for all
    shared: int  # of all VMs, in frames
    frames: int
    net_shared: int  # pages that became shared, less those that became private again
    scanned: int  # pages looked at

    @property
    def in_use(self):
        """What the guests have something in: the denominator of the figure."""
        return self.configured - self.zero - self.balloon

    @property
    def reclaimed(self):
        return self.shared - self.frames


def sample_of(status):
    vms = status["vms"]

    def total(*names):
        return sum(vm[name] for vm in vms for name in names)

    return Sample(configured=total("max"), zero=total("zero"), balloon=total("balloon"),
                  away=total("compressed", "swapped", "disk_backed"), shared=total("shared"),
                  frames=status["host"]["frames"] * PAGE,
                  net_shared=total("pages_shared") - total("cow_breaks"),
                  scanned=total("pages_scanned"))


def is_settled(history):
    """Of [(seconds, Sample)]: every page has been looked at once or would have been, by their
    number, and what is shared has grown by less than a small part over the last seconds."""
    now, last = history[-1]
    before = [sample for seconds, sample in history if now - seconds >= SETTLED_SECONDS]
    if not before or last.scanned * PAGE < last.in_use:
        return False
    return abs(last.net_shared - before[-1].net_shared) <= SETTLED_PART * max(last.net_shared, 1)


def parts(samples):
    """Medians of the samples, in percent."""
    def median(value):
        return statistics.median(100 * value(sample) for sample in samples)

    return {
        "shared": median(lambda s: s.shared / max(s.in_use, 1)),
        "reclaimed": median(lambda s: s.reclaimed / max(s.in_use, 1)),
        "shared_of_configured": median(lambda s: s.shared / s.configured),
        "reclaimed_of_configured": median(lambda s: s.reclaimed / s.configured),
        "zero_of_configured": median(lambda s: s.zero / s.configured),
    }


def follow(host, status):
    """Sets a fleet's host memory to what leaves FREE of it."""
    memory = status["host"]
    if abs(memory["free"] / memory["memory"] - FREE) > 0.02:
        host.set_memory(memory["used"] / (1 - FREE))


def ample_memory(sizes):
    """MiB of host memory, of which FREE are free whatever VMs of those sizes do."""
    return round(sum(size + OVERHEAD_MIB for size in sizes) / (1 - FREE))


@dataclass
class Reading:
    """What was read once sharing had settled, or did not."""
    settled: bool
    seconds: float  # that it took
    statuses: list
    samples: list

    def figures(self):
        return {**parts(self.samples), "settled": self.settled,
                "states": sorted({status["host"]["state"] for status in self.statuses})}


def settle_and_read(host, seconds):
    """Waits until what a fleet's VMs share has settled, for so long at most; then reads it."""
    began, history = time.monotonic(), []

    def look(status):
        follow(host, status)
        history.append((time.monotonic() - began, sample_of(status)))

    host.watch(seconds, until=lambda _: is_settled(history), each=look)
    settled, took = is_settled(history), time.monotonic() - began
    statuses = host.watch(READ_SECONDS, each=lambda status: follow(host, status))
    return Reading(settled, took, statuses, [sample_of(status) for status in statuses])


def bound_of(host):
    """Stops a fleet's VMs, and compares what is shared with what could be: the least memory that
    their pages could be kept in is that of their different contents."""
    for name in host.vms:
        host.aerostat("pause", name)
    status = host.status()
    found = contents.of_memfds([vm["pid"] for vm in status["vms"]], "aerostat-ram", "aerostat-pool")
    # What is in frames is there once, and in the VMs more often.
    in_use = found.pages - status["host"]["frames"] + sample_of(status).shared // PAGE
    return {"pages": in_use, "distinct": found.distinct,
            "kept": found.pages, "frames": status["host"]["frames"],
            "reclaimed_possible": 100 * (1 - found.distinct / max(in_use, 1)),
            "reclaimed_then": 100 * (1 - found.pages / max(in_use, 1))}
