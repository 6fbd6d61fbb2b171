#!/usr/bin/env python3
"""The checker in guests from which pages are taken at random, for a time; what fails is told with
its seed.

    soak_memory.py [--seconds N] [--seed FIRST] [--only NAME]

Half of the time the translator, a quarter the interpreter, a quarter the translator in a build with
ASan and UBSan (build-asan, which is made if need be). Each guest has its own seed, and lives for
some minutes. A failure is repeated with

    CHECKER_SEED=SEED CHECKER_SECONDS=240 tests/integration/test_memory.py Memory.test_chaos
"""

import argparse
import os
import subprocess
import sys
import time

import harness

LIFE_SECONDS = 240
TEST = os.path.join(harness.ROOT, "tests", "integration", "test_memory.py")
TESTS = ("Memory.test_chaos", "Memory.test_both", "Memory.test_resident", "Memory.test_balloon")


def asan_build():
    folder = os.path.join(harness.ROOT, "build-asan")
    if not os.path.exists(os.path.join(folder, "build.ninja")):
        subprocess.run(["meson", "setup", folder, "-Db_sanitize=address,undefined",
                        "-Db_lundef=false"], cwd=harness.ROOT, check=True,
                       stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "--quiet", "-C", folder, "bin/aerostat", "bin/aerostat-vm"],
                   check=True)
    return os.path.join(folder, "bin", "aerostat")


def environments(only):
    """(name, part of the time, environment), built as they are reached."""
    if only in (None, "translate"):
        yield "translate", 2, {}
    if only in (None, "interp"):
        yield "interp", 1, {"AEROSTAT_ENGINE": "interp"}
    if only in (None, "asan"):
        yield "asan", 1, {"AEROSTAT": asan_build(),
                          "ASAN_OPTIONS": "detect_stack_use_after_return=1",
                          "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=("translate", "interp", "asan"))
    options = parser.parse_args()
    seed, lives, failures = options.seed, 0, []
    print(f"soak: memory for {options.seconds} s from seed {seed} on", flush=True)
    for name, part, environment in environments(options.only):
        end = time.monotonic() + (options.seconds if options.only else options.seconds * part / 4)
        first = seed
        while seed == first or time.monotonic() < end:
            left = max(10, min(LIFE_SECONDS, int(end - time.monotonic())))
            # Chaos every other time, else the targets of real life.
            test = TESTS[0] if lives % 2 == 0 else TESTS[1 + lives // 2 % 3]
            done = subprocess.run([TEST, test], check=False, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT,
                                  env={**os.environ, **environment, "CHECKER_SEED": str(seed),
                                       "CHECKER_SECONDS": str(left)})
            lives += 1
            if done.returncode != 0 or "SKIPPED" in done.stdout:
                failures.append(seed)
                print(f"soak: seed {seed}, {name}, {test}, {left} s:\n{done.stdout}", flush=True)
            seed += 1
    print(f"soak: {lives} guests, {len(failures)} failed {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
