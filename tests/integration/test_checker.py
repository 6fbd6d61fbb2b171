#!/usr/bin/env python3
"""The checker (guests/checker) on this machine: passes where nothing is wrong, and finds what it is
for when one page is damaged behind its back."""

import subprocess

import harness

# Counters have no pages' content that could be another's.
OBJECTS = ("anonymous", "small", "shared", "fork", "churn", "tmpfs", "disk", "direct", "mapped",
           "counters")
DAMAGE = {
    "flip": "and are no pattern of this checker",
    "zero": r"\d to 40\d\d, and are zero",
    "stale": r"\d to 40\d\d, and are its own of generation 1 .stale.",
    "other": r"\d to 40\d\d, and are those of page \d+, generation \d, of object {0} of worker \d",
    "torn": r"20\d\d to 40\d\d, and are its own of generation 1 .stale.",
}


class Checker(harness.TestCase):
    def check(self, *arguments):
        done = subprocess.run([harness.CHECKER, "--tmp", self.folder, *arguments], text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                              check=False)
        self.assertEqual(done.stderr, "" if done.returncode != 2 else done.stderr)
        return done.returncode, done.stdout, done.stderr

    def test_all_well(self):
        for seed in ("1", "0xffffffffffffffff"):
            status, said, _ = self.check("--rounds", "7", "--size", "12", "--workers", "3",
                                         "--seed", seed, "--disk", self.folder)
            self.assertRegex(said, r"\Achecker: ok, \d{5,} pages verified in 7 rounds\n\Z")
            self.assertEqual(status, 0)

    def test_ends_by_time(self):
        status, said, _ = self.check("--seconds", "1", "--size", "2", "--only", "small,counters")
        self.assertRegex(said, r"\Achecker: ok, \d+ pages verified in \d+ rounds\n\Z")
        self.assertEqual(status, 0)

    def test_damage_is_found(self):
        for name in OBJECTS:
            for damage, words in DAMAGE.items():
                with self.subTest(f"{damage} in {name}"):
                    status, said, _ = self.check(
                        "--rounds", "2", "--size", "4", "--disk", self.folder, "--sabotage",
                        f"{damage}:{name}")
                    self.assertEqual(status, 1, said)
                    place = rf"(?m)^checker: FAILED: {name}\b.*, page \d+ of \d+, worker [01]"
                    self.assertRegex(said, place)
                    if name != "counters":
                        self.assertRegex(said, f"expected generation 2, but .* {words.format(name)}")
                    self.assertNotIn("ok,", said)

    def test_no_room(self):
        """Where it cannot do its work it says so, and does not pass."""
        status, said, _ = self.check("--disk", "/proc", "--only", "disk")
        self.assertEqual((status, said[:16]), (1, "checker: FAILED:"))

    def test_bad_options(self):
        for arguments in (["--rounds", "0"], ["--size", "1x"], ["--seed", "-1"], ["--workers", "33"],
                          ["--only", "disk"], ["--only", "small,nothing"], ["--only", ""], ["extra"],
                          ["--sabotage", "flip"], ["--sabotage", "bend:small"],
                          ["--sabotage", "flip:disk"], ["--unknown"]):
            with self.subTest(str(arguments)):
                status, said, errors = self.check(*arguments)
                self.assertEqual((status, said), (2, ""))
                self.assertRegex(errors, r"\A.*checker: [^\n]+\n\Z")


if __name__ == "__main__":
    harness.main()
