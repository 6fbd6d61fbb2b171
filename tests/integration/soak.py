#!/usr/bin/env python3
"""Executes garbage in VMs, in every mode, for a time; what fails is told with its seed and kept.

    soak.py [--seconds N] [--seed FIRST] [--jobs N] [--engine translate|interp]

A failure is repeated with `soak.py --seconds 1 --jobs 1 --seed SEED --engine ENGINE`. Without
--engine, seeds take turns.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys
import tempfile
import time

import garbage

RUN_SECONDS = 5
ENGINES = ("translate", "interp")


def build_kernel(folder):
    here = os.path.dirname(os.path.abspath(__file__))
    kernel = os.path.join(folder, "garbage.elf")
    subprocess.run([os.path.join(here, "build-garbage.sh"), os.environ.get("CC", "gcc"),
                    os.path.join(here, "garbage.S"), kernel], check=True)
    return kernel


def engine_of(seed):
    return ENGINES[seed // len(garbage.MODES) % len(ENGINES)]


def work(kernel, first, step, end, engine):
    """One worker: seeds first, first + step, ... until the end. Gives (runs, failures)."""
    runs, failures = 0, []
    with tempfile.TemporaryDirectory(prefix="aerostat-soak-") as folder:
        seed = first
        while runs == 0 or time.monotonic() < end:
            mode = seed % len(garbage.MODES)
            used = engine or engine_of(seed)
            failure = garbage.run(kernel, folder, seed, mode, RUN_SECONDS, used)
            runs += 1
            if failure is not None:
                failures.append(seed)
                print(f"soak: seed {seed}, mode {garbage.MODES[mode]}, {used}: {failure}", flush=True)
            seed += step
    return runs, failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()) * 1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--engine", choices=ENGINES)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    print(f"soak: garbage for {options.seconds} s from seed {options.seed} on", flush=True)
    with tempfile.TemporaryDirectory(prefix="aerostat-soak-") as folder:
        kernel = build_kernel(folder)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(
                lambda job: work(kernel, options.seed + job, options.jobs, end,
                                 options.engine),
                range(options.jobs)))
    failures = [seed for _, failed in results for seed in failed]
    print(f"soak: {sum(runs for runs, _ in results)} runs, {len(failures)} failed {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
