"""Tests of what the figures of the policy make of their samples: bench/policy/readings.py."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import readings  # noqa: E402

MIB = readings.MIB


def vm_of(**changed):
    names = ("charged", "compressed_size", "shared", "shared_saved", "zero", "balloon", "compressed",
             "swapped", "disk_backed")
    return {**dict.fromkeys(names, 0), **changed}


class Memory(unittest.TestCase):
    def test_a_vm_has_its_part_of_what_is_shared(self):
        vm = vm_of(charged=50 * MIB, compressed_size=3 * MIB, compressed=9 * MIB, shared=20 * MIB,
                   shared_saved=15 * MIB)
        self.assertEqual(readings.allocation(vm), 58)

    def test_all_vms_are_summed_up(self):
        status = {"vms": [vm_of(charged=MIB, balloon=2 * MIB, zero=MIB),
                          vm_of(charged=MIB, swapped=4 * MIB)]}
        found = readings.totals(status)
        self.assertEqual((found["allocated"], found["balloon"], found["swapped"], found["zero"]),
                         (2, 2, 4, 1))

    def test_states(self):
        parts = readings.state_parts(["high", "soft", "high", "low"])
        self.assertEqual(parts, {"high": 0.5, "soft": 0.25, "hard": 0, "low": 0.25})


class Arrival(unittest.TestCase):
    def test_up_and_down(self):
        up = [(0, 0), (1, 50), (2, 89), (3, 90), (4, 100)]
        self.assertEqual(readings.arrival(up, 0, 0, 100), 3)
        self.assertEqual(readings.arrival(up, 4, 0, 100), 0)
        down = [(0, 100), (5, 20), (9, 10)]
        self.assertEqual(readings.arrival(down, 0, 100, 0), 9)

    def test_never(self):
        self.assertIsNone(readings.arrival([(0, 100), (9, 60)], 0, 100, 50))
        self.assertIsNone(readings.arrival([], 0, 100, 50))


class Steps(unittest.TestCase):
    def test_rows(self):
        steps = [(0, 10), (10, 50), (20, 0)]
        points = [(at, truth, {"used": used, "slow": used / 2}) for at, truth, used in (
            (0, 10, 0), (2, 10, 10), (6, 10, 12), (8, 10, 12),
            (10, 50, 12), (14, 50, 40), (16, 50, 50), (18, 50, 52),
            (20, 0, 52), (30, 0, 40))]
        first, second, last = readings.step_rows(points, steps, 2)
        self.assertEqual((first["truth"], first["used"], first["slow"]), (10, 12, 6))
        self.assertEqual(first["periods"], 1)
        self.assertEqual(second["periods"], 3)
        self.assertEqual((last["used"], last["periods"]), (40, None))


if __name__ == "__main__":
    unittest.main()
