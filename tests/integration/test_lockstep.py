#!/usr/bin/env python3
"""Debian boots in lock-step: each block that the translator generates whole is run by the interpreter
too, and no difference may be found."""

import re

import harness

# A boot that does some work compares far more.
BLOCKS = 10_000_000


class LockStep(harness.TestCase):
    def test_boot(self):
        status, output, errors = self.run_vm(
            ["--engine", "translate-lockstep",
             *harness.boot_arguments("seq 1 300 | sha256sum; ls -lR /proc/self | gzip | wc -c")])
        found = re.search(r"lock-step: (\d+) blocks compared, (\d+) differ", errors)
        self.assertEqual(status, harness.STATUS_OK, output[-3000:] + errors)
        self.assertTrue(found, errors)
        print(found.group(0), flush=True)
        self.assertGreater(int(found.group(1)), BLOCKS)
        self.assertEqual(int(found.group(2)), 0, errors)


if __name__ == "__main__":
    harness.main()
