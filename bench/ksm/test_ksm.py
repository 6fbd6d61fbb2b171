"""Tests of what bench/ksm/run reads of guests' memory, and of what it makes of counters."""

import ctypes
import mmap
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import contents  # noqa: E402
import verdict  # noqa: E402

PAGE = contents.PAGE


def page_of(byte):
    return bytes([byte]) * PAGE


class Contents(unittest.TestCase):
    def test_pages_are_told_by_what_is_in_them(self):
        tally = contents.Tally()
        for page, frame in ((page_of(1), 10), (page_of(2), 11), (page_of(1), 10), (page_of(0), 12)):
            tally.add(page, frame)
        self.assertEqual((tally.pages, tally.distinct, tally.zero), (3, 2, 1))
        self.assertEqual((tally.frames, tally.zero_frames), ({10, 11}, {12}))

    def test_holes_of_a_file_are_not_counted(self):
        number = os.memfd_create("aerostat-test")
        try:
            os.ftruncate(number, 1000 * PAGE)
            for index, byte in ((3, 1), (4, 1), (900, 2), (999, 0)):
                os.pwrite(number, page_of(byte), index * PAGE)
            paths = contents.memfds(os.getpid(), "aerostat-test")
            self.assertEqual(len(paths), 1)
            tally = contents.Tally()
            contents.add_memfd(tally, paths[0])
            self.assertEqual((tally.pages, tally.distinct, tally.zero), (3, 2, 1))
        finally:
            os.close(number)

    def test_a_process_is_read_as_far_as_it_has_touched_its_memory(self):
        size = 1237 * PAGE  # of no other mapping
        # Apart from its neighbours, or the kernel makes one mapping of two.
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            try:
                found = contents.mapping_of(os.getpid(), size)
            except RuntimeError:
                self.skipTest("the kernel has put it beside another mapping")
            self.assertEqual(found, base)
            memory[7 * PAGE:9 * PAGE] = page_of(5) + page_of(6)
            memory[1000 * PAGE:1001 * PAGE] = page_of(5)
            tally = contents.Tally()
            contents.add_anonymous(tally, os.getpid(), size)
            self.assertEqual((tally.pages, tally.distinct), (3, 2))


def figures(**changed):
    return {"minutes": 1, "pages": 5120, "distinct": 2560, "saved": 2560, "scanned": 1000,
            "unshared_scanned": changed.get("scanned", 1000), "cpu_seconds": 2, "taken": 0, "rounds_of_work": 0, **changed}


class Verdict(unittest.TestCase):
    def test_rates_are_of_intervals(self):
        runs = [figures(), figures(scanned=5000, cpu_seconds=4)]
        self.assertEqual(verdict.rates(runs), [500, 2000])

    def test_most_of_it_is_found_when_it_is(self):
        history = [{"seconds": second, "sharing": sharing, "cpu_seconds": second / 10}
                   for second, sharing in ((1, 0), (2, 91 * 256), (3, 100 * 256), (4, 99 * 256))]
        self.assertIn("(100 MiB) after 2 s and 0.20 s", verdict.soon("qemu", history))
        self.assertIn("nothing", verdict.soon("qemu", history[:1]))

    def test_what_is_saved_is_a_part_of_what_could_be(self):
        self.assertEqual(verdict.saved_part(figures(saved=1280)), 0.5)

    def test_cost_is_of_a_mib(self):
        self.assertEqual(verdict.cost(figures()), 200)

    def test_limits_hold_and_do_not(self):
        ours = figures(cpu_seconds=1, scanned=2000)
        holds = {limit["what"]: limit["holds"]
                 for limit in verdict.limits({"aerostat": [ours],
                                              "qemu": [figures(cpu_seconds=4, scanned=3999)]})}
        self.assertTrue(all(holds.values()), holds)
        misses = verdict.limits({"aerostat": [figures(saved=2500)], "qemu": [figures()]})
        self.assertFalse(any(limit["holds"] for limit in misses), misses)

    def test_one_alone_is_not_judged(self):
        self.assertEqual(verdict.limits({"aerostat": [figures()]}), [])


if __name__ == "__main__":
    unittest.main()
