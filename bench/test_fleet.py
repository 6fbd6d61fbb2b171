"""Tests of fleet.py where no VM is needed: what guests print, rates, and what a VM is started with."""

import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import fleet  # noqa: E402


class Consoles(unittest.TestCase):
    def setUp(self):
        descriptor, self.path = tempfile.mkstemp()
        os.close(descriptor)
        self.console = fleet.Console(self.path)

    def tearDown(self):
        if os.path.exists(self.path):
            os.unlink(self.path)

    def write(self, text):
        with open(self.path, "ab") as stream:
            stream.write(text)

    def test_lines_come_whole_and_once(self):
        self.write(b"demo: round 1\r\ndemo: ro")
        self.console.read(1)
        self.assertEqual(self.console.lines, [(1, "demo: round 1")])
        self.console.read(2)
        self.write(b"und 2\r\n\xff\r\n")
        self.console.read(3)
        self.assertEqual(self.console.lines,
                         [(1, "demo: round 1"), (3, "demo: round 2"), (3, "\ufffd")])

    def test_no_file_yet(self):
        os.unlink(self.path)
        self.console.read(1)
        self.assertEqual(self.console.lines, [])

    def test_complaints(self):
        for line in ("demo: FAILED x", "demo: end perl 1", "[ 1.0] Out of memory: Killed process"):
            self.assertTrue(fleet.FAILURE.search(line), line)
        for line in ("demo: round 3 files", "demo: start perl", "demo: power button"):
            self.assertFalse(fleet.FAILURE.search(line), line)


class Rates(unittest.TestCase):
    def test_from_the_first_to_the_last(self):
        self.assertEqual(fleet.rate([0, 10, 12, 14, 16, 30], 5, 20), 0.5)

    def test_too_few(self):
        self.assertIsNone(fleet.rate([0, 10, 12, 30], 5, 20))
        self.assertIsNone(fleet.rate([], 5, 20))


class Arguments(unittest.TestCase):
    MADE = ("kernel", "initrd", "image")

    def arguments(self, **more):
        return fleet.Vm("web", 128, "work", **more).arguments(self.MADE, "/folder")

    def test_the_demos_parts(self):
        words = self.arguments(group="g", shares=5, min=64, options=("--sample-period", "3"))
        for name, value in (("--kernel", "kernel"), ("--initrd", "initrd"), ("--memory", "128M"),
                            ("--disk", "image,overlay"), ("--group", "g"), ("--shares", "5"),
                            ("--min", "64M"), ("--sample-period", "3"),
                            ("--console", "/folder/web.console")):
            self.assertEqual(words[words.index(name) + 1], value)
        self.assertIn('run="work"', words[words.index("--append") + 1])

    def test_swap_is_the_next_disk(self):
        for disk, device in (("", "/dev/vdb"), ("-", "/dev/vda")):
            words = self.arguments(swap=64, disk=disk)
            self.assertEqual(words[len(words) - 1 - words[::-1].index("--disk") + 1],
                             "/folder/web.swap")
            self.assertIn(f'run="mkswap {device} >/dev/null && swapon {device} && work"',
                          words[words.index("--append") + 1])

    def test_others(self):
        words = self.arguments(disk="-", initrd="own", kernel="other")
        self.assertNotIn("--disk", words)
        self.assertNotIn("--group", words)
        self.assertEqual(words[words.index("--initrd") + 1], "own")
        self.assertEqual(words[words.index("--kernel") + 1], "other")


if __name__ == "__main__":
    unittest.main()
