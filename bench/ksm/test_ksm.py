"""Tests of what bench/ksm/run makes of counters."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import verdict  # noqa: E402

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
        ours = figures(cpu_seconds=1)
        holds = {limit["what"]: limit["holds"]
                 for limit in verdict.limits({"aerostat": [ours],
                                              "qemu": [figures(cpu_seconds=4)]})}
        self.assertTrue(all(holds.values()), holds)
        misses = verdict.limits({"aerostat": [figures(saved=2500)], "qemu": [figures()]})
        self.assertFalse(any(limit["holds"] for limit in misses), misses)

    def test_rates_at_full_speed(self):
        rates = {"aerostat": {"unshared": 2000, "all": 3999}, "qemu": {"unshared": 1000, "all": 2000}}
        self.assertEqual([limit["holds"] for limit in verdict.rate_limits(rates)], [True, False])

    def test_one_alone_is_not_judged(self):
        self.assertEqual(verdict.limits({"aerostat": [figures()]}), [])
        self.assertEqual(verdict.rate_limits({"aerostat": {"unshared": 1, "all": 1}}), [])


if __name__ == "__main__":
    unittest.main()
