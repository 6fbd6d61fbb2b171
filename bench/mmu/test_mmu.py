"""Tests of what bench/mmu makes of texts and figures: a guest's lines, counters."""

import importlib.machinery
import importlib.util
import os
import sys
import threading
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "paging"), os.path.dirname(HERE),
                os.path.join(os.path.dirname(os.path.dirname(HERE)), "tests", "integration")]

import harness  # noqa: E402
import kernels  # noqa: E402
import works  # noqa: E402

loader = importlib.machinery.SourceFileLoader("run", os.path.join(HERE, "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
loader.exec_module(run)

class Lines(unittest.TestCase):
    def test_a_rate(self):
        self.assertEqual(works.read_line("mmu: segv units=500 ns=250000000"), (2000.0, None))

    def test_a_heap(self):
        self.assertEqual(works.read_line("mmu: heap units=10 ns=1000000000 large=97"), (10.0, 97))

    def test_a_failure_is_no_rate(self):
        self.assertIsNone(works.read_line("mmu: segv failed"))
        self.assertIsNone(works.read_line("mmu: segv units=1 ns=2 and more"))

    def test_a_heap_in_the_wrong_pages_is_an_error(self):
        class Guest:
            contestant = type("", (), {"name": "it"})

            def __init__(self, percent):
                self.percent = percent

            def answer(self):
                pass

            def expect(self, *_):
                return 0, [f"mmu: heap units=1 ns=1 large={self.percent}"]

            def share(self):
                return 0.5

        work = works.Programs("heap", 768, {"row": "heap 1 64 large"})
        alone = threading.Barrier(1)
        self.assertEqual(work.measure(Guest(100), alone), {"row": 2e9})
        with self.assertRaisesRegex(RuntimeError, "12 %"):
            work.measure(Guest(12), alone)


class Lives(unittest.TestCase):
    def test_one_that_fails_does_not_keep_the_others_waiting(self):
        class Guest:
            contestant = process = None

            def __init__(self, fails):
                self.fails = fails

        class Work:
            def measure(self, guest, together):
                if guest.fails:
                    raise RuntimeError("it failed")
                together.wait()

        together = threading.Barrier(2)
        lives = [run.Life(Work(), Guest(fails), together) for fails in (False, True)]
        for life in lives:
            life.start()
        for life in lives:
            life.join()
        self.assertIsInstance(lives[0].error, threading.BrokenBarrierError)
        self.assertRegex(str(lives[1].error), "it failed")


class Shares(unittest.TestCase):
    def test_the_part_of_a_cpu_between_the_last_two_lines(self):
        class Guest:
            process = type("", (), {"pid": 1})
            contestant = "it"

            def expect(self, pattern, _):
                return 0, pattern

        moments, seconds = iter([0, 10, 20]), iter([100, 101, 109])
        guest = works.Metered(Guest(), lambda: next(moments), lambda pid: next(seconds))
        self.assertEqual([guest.expect(line, 1)[1] for line in "abc"], list("abc"))
        self.assertEqual((guest.share(), guest.contestant), (0.8, "it"))

    def test_cpu_time_only_grows(self):
        before = works.cpu_seconds(os.getpid())
        while works.cpu_seconds(os.getpid()) == before:
            pass
        self.assertGreater(works.cpu_seconds(os.getpid()), before)


class Kernels(unittest.TestCase):
    def test_cycles(self):
        console = "nano: syscall 25\r\nnano: pte-map 2\nok 1 nano\ndone: 1 checks, 0 failed\n"
        self.assertEqual(kernels.read_nano(console), {"syscall": 25, "pte-map": 2})

    def test_a_kernel_that_failed_or_did_not_end(self):
        for end in ("done: 1 checks, 1 failed\n", ""):
            with self.assertRaises(RuntimeError):
                kernels.read_nano("nano: syscall 25\n" + end)

    def test_references_are_the_difference(self):
        before = {"tlb_misses": 100, "walk_references": 7}
        after = {"tlb_misses": 100 + kernels.WALKS, "walk_references": 7 + 24 * kernels.WALKS}
        self.assertEqual(kernels.references_of(before, after), 24)

    def test_other_misses_than_the_walks_are_an_error(self):
        after = {"tlb_misses": kernels.WALKS + 1, "walk_references": 4}
        with self.assertRaises(RuntimeError):
            kernels.references_of({"tlb_misses": 0, "walk_references": 0}, after)


class Figures(unittest.TestCase):
    RATES = {"shadow": {"a": [10, 20], "b": [4]}, "nested": {"a": [20, 20], "b": [2]},
             "auto": {"a": [18, 18], "b": [4]}}

    def test_rounds_are_compared_with_themselves(self):
        self.assertEqual(run.parts_of([20, 20], [10, 20]), [2, 1])

    def test_auto_is_held_to_the_better_one(self):
        rates = dict(self.RATES)
        self.assertEqual(run.judge_auto(rates, ["a", "b"]), {"a": 0.9, "b": 1.0})
        del rates["auto"]
        self.assertEqual(run.judge_auto(rates, ["a"]), {})

    def test_corners_are_the_guests_pages_in_the_vmms(self):
        self.assertEqual(run.by_corner({"nested, VMM 2M": {"heap 256M 4K": [1]},
                                        "nested, VMM 4K": {"heap 256M 4K": [2]},
                                        "shadow, VMM 2M": {"heap 256M 4K": [3]}}),
                         {"nested": {"4K in 2M": [1], "4K in 4K": [2]}, "shadow": {"4K in 2M": [3]}})
        self.assertEqual(run.by_corner({"nested": {"heap 256M 2M": [1]}}), {"nested": {"2M": [1]}})

    def test_a_panel_has_a_bar_for_each_way(self):
        panel, = run.panels_of({"micro": {"rates": {"shadow": {"a": [10]}, "nested": {"a": [15]}}}})
        self.assertEqual((panel.groups, panel.series),
                         (["a"], {"shadow": [1], "nested": [1.5]}))


if __name__ == "__main__":
    harness.main()
