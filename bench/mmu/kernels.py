"""What bench/mmu/kernel.c measures: single operations, in cycles; references of cold walks, counted."""

import json
import os
import re
import subprocess
import tempfile
import threading

import contest

KERNEL = os.path.join(contest.BUILD, "bench", "mmu-kernel.elf")
SECONDS = 120
WALKS = 8192  # as in kernel.c
MEMORY = "256M"  # with spare TLB entries (mmu.h) for those pages, and for what the kernel itself uses
# In cycles of a Pentium 4: natively, with binary translation, with VT-x; both with shadow tables.
# Adams and Agesen, "A Comparison of Software and Hardware Techniques for x86 Virtualization", 2006.
PAPER = {
    "syscall": (242, 2308, 246),
    "page-fault": (1093, 3927, 11242),
    "pte-unchanged": (1, 391, 12733),
    "pte-map": (5, 2121, 17020),
    "pte-unmap": (4, 17, 9154),
}


def read_nano(console):
    """{operation: cycles}"""
    figures = {name: int(cycles)
               for name, cycles in re.findall(r"^nano: (\S+) (\d+)\r?$", console, re.MULTILINE)}
    if not figures or not re.search(r"^done: \d+ checks, 0 failed", console, re.MULTILINE):
        raise RuntimeError(f"the kernel says:\n{console[-2000:]}")
    return figures


def command(options, append):
    return [contest.harness.AEROSTAT, "run", *options, "--kernel", KERNEL, "--memory", MEMORY,
            "--debug-exit", "--no-reboot", "--append", append]


def nano(options):
    done = subprocess.run(command(options, "nano"), text=True, stdout=subprocess.PIPE,
                          timeout=SECONDS)
    return read_nano(done.stdout)


def references_of(before, after):
    """References a walk, from the VM's counters before and after WALKS misses of its TLB."""
    misses = after["tlb_misses"] - before["tlb_misses"]
    if misses != WALKS:
        raise RuntimeError(f"the TLB missed {misses} times, not {WALKS}")
    return (after["walk_references"] - before["walk_references"]) / misses


def walks(options, kind):
    """References a walk, of pages of that kind, "small" or "large"."""
    with tempfile.TemporaryDirectory(prefix="aerostat-mmu-") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}

        def count():
            text = subprocess.run([contest.harness.AEROSTAT, "stats", "--json", "walks"], check=True,
                                  env=environment, text=True, stdout=subprocess.PIPE).stdout
            return json.loads(text)

        with subprocess.Popen(command([*options, "--name", "walks"], f"walk={kind}"),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env=environment) as process:
            watchdog = threading.Timer(SECONDS, process.kill)
            watchdog.start()
            counts = {}
            for line in process.stdout:
                if match := re.match(r"walks: (ready|done)", line):
                    counts[match[1]] = count()
                    process.stdin.write("\n")
                    process.stdin.flush()
            watchdog.cancel()
    if len(counts) != 2:
        raise RuntimeError(f"no walks were made with {' '.join(options)}")
    return references_of(counts["ready"], counts["done"])
