#!/usr/bin/env python3
"""The test kernels of tests/guest in VMs: each prints its cases and ends through the debug-exit port.

    test_guests.py KERNEL...

`ok N name`, `FAIL N name: why` and `skip N name: why` lines become results of this test.
"""

import os
import re
import sys

import harness

LINE = re.compile(r"^(ok|FAIL|skip) \d+ (.*)$", re.MULTILINE)


def name_of(kernel):
    return re.sub(r"\W", "_", os.path.splitext(os.path.basename(kernel))[0])


class Guests(harness.TestCase):
    def check_kernel(self, kernel):
        name = name_of(kernel)
        cpus = "3" if name.startswith("smp") else "1"
        status, console, errors = self.run_vm(
            ["--kernel", kernel, "--memory", "64M", "--debug-exit", "--no-reboot",
             "--cpus", cpus],
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


def add_test(kernel):
    setattr(Guests, f"test_{name_of(kernel)}", lambda self: self.check_kernel(kernel))


if __name__ == "__main__":
    for path in sys.argv[1:]:
        add_test(path)
    del sys.argv[1:]
    harness.main()
