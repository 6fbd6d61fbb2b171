#!/usr/bin/env python3
"""The test kernels of tests/guest in VMs: each prints its cases and ends through the debug-exit port.

    test_guests.py KERNEL...

`ok N name`, `FAIL N name: why` and `skip N name: why` lines become results of this test.
"""

import os
import re
import subprocess
import sys

import harness

LINE = re.compile(r"^(ok|FAIL|skip) \d+ (.*)$", re.MULTILINE)
DIGEST = re.compile(r"^# digest (\w+)$", re.MULTILINE)

# One in so many combinations of entry bits is tried: 32-bit code is always interpreted.
THIN = {"mmu64": 1 if harness.ENGINE is None else 8, "mmu32": 4}
THIN_ALIKE = 32


def name_of(kernel):
    return re.sub(r"\W", "_", os.path.splitext(os.path.basename(kernel))[0])


class Guests(harness.TestCase):
    def check_kernel(self, kernel):
        name = name_of(kernel)
        cpus = "3" if name.startswith("smp") else "1"
        thin = ["--append", f"thin={THIN[name]}"] if name in THIN else []
        status, console, errors = self.run_vm(
            ["--kernel", kernel, "--memory", "64M", "--debug-exit", "--no-reboot",
             "--cpus", cpus, *thin],
            seconds=120)
        cases = LINE.findall(console)
        for result, case in cases:
            word = {"ok": "      OK", "FAIL": " FAILED ", "skip": " SKIPPED"}[result]
            print(f"[ {word} ] {name}.{re.sub(r'[^!-~]+', '_', case)}")
        failed = [case for result, case in cases if result == "FAIL"]
        report = f"status {status}\n{console[-4000:]}\n{errors[-4000:]}"
        self.assertEqual(failed, [], report)
        self.assertEqual((status, errors), (1, ""), report)
        self.assertTrue(cases, f"no results\n{report}")

    def check_alike(self, kernel):
        """Whatever translates addresses, the guest's view is the same to the last accessed bit."""
        digests = {}
        for choice in choices():
            status, console, errors = self.run_vm(
                ["--kernel", kernel, "--memory", "64M", "--debug-exit", "--no-reboot", *choice,
                 "--append", f"thin={THIN_ALIKE}"], seconds=120)
            self.assertEqual((status, errors), (1, ""), f"{choice}: {console[-4000:]}")
            digests[" ".join(choice)] = DIGEST.search(console)[1]
        self.assertEqual(len(set(digests.values())), 1, digests)


def choices():
    """Options for all engines with all MMUs that this build has."""
    usage = subprocess.run([harness.AEROSTAT, "run", "--help"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    engines = [["--engine", "translate"], ["--engine", "interp"]]
    described = re.search(r"--mmu MMU (.*?)\n  --", usage, re.DOTALL)
    names = re.findall(r"\b(?:nested|shadow|auto)\b", described[1]) if described else []
    mmus = [["--mmu", name] for name in dict.fromkeys(names)] or [[]]
    if "--walk-caches " in usage:
        mmus.append(["--walk-caches", "off"])
    return [engine + mmu for engine in engines for mmu in mmus]


def add_test(kernel):
    name = name_of(kernel)
    setattr(Guests, f"test_{name}", lambda self: self.check_kernel(kernel))
    if name in THIN and harness.ENGINE is None and harness.MMU is None:
        setattr(Guests, f"test_{name}_alike", lambda self: self.check_alike(kernel))


if __name__ == "__main__":
    for path in sys.argv[1:]:
        add_test(path)
    del sys.argv[1:]
    harness.main()
