"""Tests of how the limit of QEMU's cgroup is moved: bench/paging/host.py."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import host  # noqa: E402

MIB = 1 << 20


class NextLimit(unittest.TestCase):
    def test_without_pressure_there_is_none(self):
        self.assertIsNone(host.next_limit(None, 200 * MIB, 100 * MIB, 128 * MIB))

    def test_too_much_ram_brings_the_usage_down_by_as_much(self):
        self.assertEqual(host.next_limit(None, 230 * MIB, 138 * MIB, 128 * MIB), 220 * MIB)

    def test_a_limit_that_keeps_too_much_out_is_raised(self):
        self.assertEqual(host.next_limit(150 * MIB, 149 * MIB, 118 * MIB, 128 * MIB), 160 * MIB)

    def test_a_limit_that_keeps_nothing_out_stays(self):
        self.assertEqual(host.next_limit(150 * MIB, 120 * MIB, 90 * MIB, 128 * MIB), 150 * MIB)

    def test_it_goes_down_by_steps(self):
        self.assertEqual(host.next_limit(None, 400 * MIB, 300 * MIB, 128 * MIB),
                         400 * MIB - host.STEP)

    def test_ram_settles_where_it_is_to_be(self):
        """RAM and the VMM's own share what the limit leaves, as 3 to 1."""
        limit = None
        for _ in range(50):
            usage = min(400 * MIB, limit or 400 * MIB)
            limit = host.next_limit(limit, usage, usage * 3 // 4, 128 * MIB)
        self.assertAlmostEqual(limit * 3 / 4 / MIB, 128, delta=1)


if __name__ == "__main__":
    unittest.main()
