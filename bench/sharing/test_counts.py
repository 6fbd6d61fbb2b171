"""Tests of what bench/sharing/run makes of the manager's counters: bench/sharing/counts.py."""

import dataclasses
import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import counts  # noqa: E402

MIB = 1 << 20
PAGES = MIB // counts.PAGE


def vm_of(**changed):
    names = ("zero", "balloon", "compressed", "swapped", "disk_backed", "shared", "pages_shared",
             "cow_breaks", "pages_scanned")
    return {"max": 100 * MIB, **dict.fromkeys(names, 0), **changed}


def sample(**changed):
    """Of a guest that uses 60 MiB and has been scanned as a whole."""
    status = {"host": {"frames": 10 * PAGES}, "vms": [
        vm_of(zero=40 * MIB, shared=30 * MIB, pages_shared=9000, cow_breaks=1000,
              pages_scanned=60 * PAGES)]}
    return dataclasses.replace(counts.sample_of(status), **changed)


class Samples(unittest.TestCase):
    def test_all_vms_are_summed_up(self):
        status = {"host": {"frames": 5 * PAGES}, "vms": [
            vm_of(zero=10 * MIB, shared=20 * MIB, pages_shared=70, cow_breaks=20),
            vm_of(balloon=30 * MIB, shared=25 * MIB, compressed=1, swapped=2, disk_backed=4)]}
        found = counts.sample_of(status)
        self.assertEqual(found.in_use, 160 * MIB)
        self.assertEqual(found.reclaimed, 40 * MIB)
        self.assertEqual((found.away, found.net_shared), (7, 50))

    def test_parts_are_medians_in_percent(self):
        parts = counts.parts([sample(), sample(shared=0, frames=0), sample(shared=45 * MIB)])
        self.assertEqual(parts["shared"], 50)
        self.assertAlmostEqual(parts["reclaimed"], 100 / 3)
        self.assertEqual(parts["shared_of_configured"], 30)
        self.assertEqual(parts["reclaimed_of_configured"], 20)
        self.assertEqual(parts["zero_of_configured"], 40)

    def test_nothing_in_use_is_no_fault(self):
        self.assertEqual(counts.parts([sample(zero=100 * MIB, shared=0, frames=0)])["shared"], 0)


class Settled(unittest.TestCase):
    def settled(self, *points):
        return counts.is_settled(points)

    def test_what_has_not_been_watched_for_long_enough_is_not(self):
        self.assertFalse(self.settled((0, sample())))
        self.assertFalse(self.settled((0, sample()), (counts.SETTLED_SECONDS - 1, sample())))

    def test_what_stands_still_is(self):
        self.assertTrue(self.settled((0, sample()), (counts.SETTLED_SECONDS, sample())))

    def test_what_grows_is_not(self):
        self.assertFalse(self.settled((0, sample(net_shared=7000)),
                                      (counts.SETTLED_SECONDS, sample(net_shared=8000))))

    def test_only_the_last_seconds_count(self):
        self.assertTrue(self.settled((0, sample(net_shared=1)), (3, sample()),
                                     (3 + counts.SETTLED_SECONDS, sample())))

    def test_what_was_not_looked_at_as_a_whole_is_not(self):
        slow = sample(scanned=59 * PAGES)
        self.assertFalse(self.settled((0, slow), (counts.SETTLED_SECONDS, slow)))


if __name__ == "__main__":
    unittest.main()
