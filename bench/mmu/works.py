"""What Debian guests do: each work is a life of a guest, that gives one or more rows of figures.

A guest waits for a line before it is measured, so that several begin at the same time.

A row's figure is a rate, so that more is better: units of work in a second of CPU time of the VMM's
process, which depends less than wall time on what else the machine does. Where a row is named after a benchmark of "Performance
Evaluation of Intel EPT Hardware Assist" (VMware 2009), it does what that one is said to do;
guests/mmu-work.c has them. The build and the cache are those of bench/paging, with all their memory.
"""

import os
import re
import time

import contest

import build
import redis

PROGRAM = os.path.join(contest.BUILD, "guests", "mmu-work")
ROW_SECONDS = 180  # a row that takes longer hangs
LINE = re.compile(r"^mmu: (\w+) units=(\d+) ns=(\d+)(?: large=(\d+))?$")
MICRO = ("segv", "fault", "pcd", "nps", "fork", "mix")
HEAP_TIMES = 2  # as long as other rows: `auto` needs millions of misses to have a large shadow built
HEAPS = tuple((size, pages) for size in (64, 256, 512) for pages in ("small", "large"))
LARGE_LEAST = 90  # percent of a heap that must be in large pages, or it is none of that kind


def read_line(line):
    """(units a second, percent in large pages or None), or None if it is no such line."""
    match = LINE.match(line)
    if not match:
        return None
    return int(match[2]) * 1e9 / int(match[3]), int(match[4]) if match[4] else None


def cpu_seconds(pid):
    """User and system, of all threads."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
        fields = stream.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Metered:
    """A guest, and the part of a CPU that it had between the last two lines that were waited for."""

    def __init__(self, guest, clock=time.monotonic, cpu=cpu_seconds):
        self._guest, self._clock, self._cpu = guest, clock, cpu
        self._readings = []

    def __getattr__(self, name):
        return getattr(self._guest, name)

    def expect(self, pattern, seconds):
        found = self._guest.expect(pattern, seconds)
        self._readings.append((self._clock(), self._cpu(self._guest.process.pid)))
        return found

    def share(self):
        (begin, begin_cpu), (end, end_cpu) = self._readings[-2:]
        return (end_cpu - begin_cpu) / (end - begin)


def expect_line(guest, together):
    guest.expect(r"^mmu: \w+ (ready|failed)", ROW_SECONDS)
    together.wait()
    guest.answer()
    guest.expect(r"^mmu: \w+ (begin|failed)", ROW_SECONDS)
    _, match = guest.expect(r"^mmu: .*", ROW_SECONDS)
    figures = read_line(match[0])
    if figures is None:
        raise RuntimeError(f"{guest.contestant.name}: {match[0]}")
    return figures


class Programs:
    """Rows by guests/mmu-work in one guest: {row: its arguments}."""

    def __init__(self, name, memory, rows):
        self.name, self.memory, self.rows = name, memory, rows
        # Linux leaves large pages off by itself where there is little memory.
        self.commands = "; ".join(["echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
                                   *(f"mmu-work {words}" for words in rows.values())])

    def prepare(self, folder):
        return contest.make_initramfs(os.path.join(folder, f"{self.name}.cpio"),
                                      {"bin/mmu-work": PROGRAM}), None

    def measure(self, guest, together):
        """`together`: a barrier of all guests that are measured."""
        figures = {}
        for row, words in self.rows.items():
            rate, large = expect_line(guest, together)
            if large is not None and (large >= LARGE_LEAST) != words.endswith("large"):
                raise RuntimeError(f"{guest.contestant.name}: {row}: {large} % of it in large pages")
            figures[row] = rate / guest.share()
        return figures


class Part:
    """A part of bench/paging."""

    def __init__(self, name, part):
        self.name, self.memory, self.part = name, part.MEMORY, part
        self.commands = f"read line; {part.COMMANDS}"
        self.rows = {name: ""}

    def prepare(self, folder):
        return self.part.prepare(folder)

    def measure(self, guest, together):
        together.wait()
        guest.answer()
        return {self.name: self.part.measure(guest)[self.part.RATE] / guest.share()}


def heap_row(size, pages):
    return f"heap {size}M {'2M' if pages == 'large' else '4K'}"


def works(seconds):
    """All of them, by name; rows of mmu-work take so many seconds each, those of heaps HEAP_TIMES as many."""
    heaps = {heap_row(size, pages): f"heap {seconds * HEAP_TIMES} {size} {pages}" for size, pages in HEAPS}
    corners = {row: words for row, words in heaps.items() if " 512 " in words}
    return {
        "micro": Programs("micro", 128, {row: f"{row} {seconds}" for row in MICRO}),
        "build": Part("build", build),
        "redis": Part("redis", redis),
        "heap": Programs("heap", 768, heaps),
        "corners": Programs("corners", 768, corners),
    }
