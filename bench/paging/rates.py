"""Rates and latencies: guests/paging.c fills an area, reads it at random, works on values by keys."""

import os
import re

import contest

MEMORY = 256    # MiB
RESIDENT = 128  # MiB
AREA = 176      # MiB
TOUCHES = 30000
SECONDS = 600
PROGRAM = os.path.join(contest.BUILD, "guests", "paging")
RATE = "operations_per_second"
COLUMNS = (
    ("fill_mib_per_second", "fill, MiB/s", "{:.0f}"),
    ("touches_per_second", "reads/s", "{:.0f}"),
    ("slow_percent", "slow, %", "{:.0f}"),
    ("slow_mib_per_second", "paged in, MiB/s", "{:.1f}"),
    ("p50_us", "p50, us", "{:.0f}"),
    ("p99_us", "p99, us", "{:.0f}"),
    (RATE, "key ops/s", "{:.0f}"),
)


def prepare(folder):
    """(the initramfs, the image of a disk or None)"""
    del folder
    return contest.make_initramfs(os.path.join(contest.BUILD, "paging.cpio"),
                                  {"bin/paging": PROGRAM}), None


COMMANDS = f"paging {AREA} {TOUCHES}"


def measure(guest):
    figures = {}
    for _ in range(3):
        _, match = guest.expect(r"^paging: (\w+) (.*)$", SECONDS)
        if match.group(1) == "page":
            raise RuntimeError(f"{guest.contestant.name}: {match.group(0)}")
        figures[match.group(1)] = {name: int(value) for name, value in
                                   re.findall(r"(\w+)=(\d+)", match.group(2))}
    fill, random, keys = (figures[name] for name in ("fill", "random", "keys"))
    return {
        "fill_mib_per_second": fill["bytes"] / (1 << 20) / (fill["ns"] / 1e9),
        "touches_per_second": random["touches"] / (random["ns"] / 1e9),
        "slow_percent": 100 * random["slow"] / random["touches"],
        "slow_mib_per_second": random["slow"] / 256 / (random["ns"] / 1e9),
        "p50_us": random["p50_ns"] / 1000,
        "p99_us": random["p99_ns"] / 1000,
        RATE: keys["operations"] / (keys["ns"] / 1e9),
    }
