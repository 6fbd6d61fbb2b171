#!/usr/bin/env python3
"""Tests of what bench/speed/run makes of its figures: lines, clocks, limits."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import contest  # noqa: E402
import report  # noqa: E402
from readings import Readings  # noqa: E402

OURS = contest.aerostat("interp")
QEMUS = contest.qemus()


def run_of(rows, **values):
    """The Readings of one round: row "a-b" is given as a_b."""
    readings = Readings("it")
    for name, value in values.items():
        readings.take(0, f"bench {name.replace('_', '-')} {value:.3f} ns/unit")
    readings.end(rows)
    return readings


def readings_of(row, native, qemu_max, qemu64, ours):
    """Rounds of one row for everybody."""
    names = (report.NATIVE, QEMUS[0].name, QEMUS[1].name, OURS.name)
    return {name: [run_of([row], **{row.replace("-", "_"): value}) for value in values]
            for name, values in zip(names, (native, qemu_max, qemu64, ours))}


class Lines(unittest.TestCase):
    def test_values_are_read(self):
        readings = run_of(["getpid", "memcpy-4k"], getpid=101.5, memcpy_4k=30)
        self.assertEqual(readings.values, {"getpid": 101.5, "memcpy-4k": 30})
        self.assertEqual(readings.complaints, [])

    def test_wrong_result_is_a_complaint_and_no_value(self):
        readings = Readings("it")
        readings.take(0, "bench qsort wrong")
        readings.end(["qsort"])
        self.assertEqual(readings.values, {})
        self.assertEqual(readings.complaints, ["it: qsort: wrong"])

    def test_missing_row_is_a_complaint(self):
        self.assertEqual(run_of(["getpid", "call"], call=1).complaints, ["it: getpid: missing"])

    def test_row_whose_name_another_complaint_has_is_still_missed(self):
        readings = Readings("it")
        readings.take(0, "bench call-indirect wrong")
        readings.end(["call", "call-indirect"])
        self.assertEqual(readings.complaints, ["it: call-indirect: wrong", "it: call: missing"])


class Clocks(unittest.TestCase):
    def complaints(self, clocks):
        readings = Readings("it")
        for guest, host in clocks:
            readings.take(host, f"clock {guest:.6f}")
        readings.end([])
        return readings.complaints

    def test_same_speed_passes(self):
        self.assertEqual(self.complaints((5 + i, 900 + i) for i in range(20)), [])

    def test_one_late_line_passes(self):
        self.assertEqual(self.complaints((i, i + (0.25 if i == 7 else 0)) for i in range(20)), [])

    def test_slow_clock_is_found(self):
        self.assertEqual(len(self.complaints((i * 0.98, i) for i in range(20))), 1)

    def test_time_lost_in_one_row_is_found(self):
        self.assertEqual(len(self.complaints((i, i + (0.6 if i > 7 else 0)) for i in range(20))), 2)


class Limits(unittest.TestCase):
    def judge(self, row, *figures):
        return report.judge(readings_of(row, *figures), OURS, QEMUS, row)

    def test_times_native(self):
        self.assertEqual(self.judge("getpid", [100], [300], [400], [200]), ("2", True))
        self.assertEqual(self.judge("getpid", [100], [300], [400], [201]), ("2", False))

    def test_part_of_the_faster_tcg(self):
        self.assertEqual(self.judge("qsort", [10], [1], [1], [31]), ("3", False))
        self.assertEqual(self.judge("sigsegv", [10], [160], [80], [40]), ("TCG/2 = 4.00", True))
        self.assertEqual(self.judge("sigsegv", [10], [80], [160], [41]), ("TCG/2 = 4.00", False))

    def test_median_of_ratios_round_by_round(self):
        # The second round was twice as slow for all; in the third something hit ours alone.
        self.assertEqual(self.judge("getpid", [100, 200, 100], [1], [1], [190, 380, 900]),
                         ("2", True))

    def test_without_qemu_its_limits_are_unknown(self):
        readings = readings_of("sigsegv", [10], [], [], [40])
        self.assertEqual(report.judge(readings, OURS, [], "sigsegv"), ("TCG/2", None))

    def test_missing_row_is_unknown(self):
        readings = readings_of("getpid", [10], [10], [10], [])
        self.assertEqual(report.judge(readings, OURS, QEMUS, "getpid"), ("2", None))

    def machine(self, boots, *memory):
        readings = {name: [Readings(name)] for name in (report.NATIVE, QEMUS[0].name,
                                                        QEMUS[1].name, OURS.name)}
        for readings_of_one, pair in zip(list(readings.values())[1:], memory):
            readings_of_one[0].memory = pair
        with contextlib.redirect_stdout(io.StringIO()):
            return report.print_machine(readings, OURS, QEMUS, boots)

    def test_memory_at_the_end(self):
        self.assertEqual(self.machine(None, (99, None), (97, None), (43, 30)),
                         {"memory-at-end": True, "memory-at-end-without-code": False})
        self.assertEqual(self.machine(None, (99, None), (97, None), (45, 34)),
                         {"memory-at-end": False, "memory-at-end-without-code": True})
        self.assertEqual(self.machine(None, (99, None), (97, None)),
                         {"memory-at-end": None, "memory-at-end-without-code": None})

    def test_boot_and_memory_after_it(self):
        def runs(boot, vmm, code):
            return [{"boot_seconds": boot, "vmm_mib": vmm, "code_cache_mib": code}]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as stream:
            json.dump({"results": {QEMUS[0].name: runs(2.0, 99, None),
                                   QEMUS[1].name: runs(1.6, 97, None),
                                   OURS.name: runs(1.7, 12.5, None)}}, stream)
            stream.flush()
            judged = self.machine(stream.name, (99, None), (97, None), (12, None))
        self.assertEqual(judged, {
            "boot": False, "memory-after-boot": True, "memory-after-boot-without-code": False,
            "memory-at-end": True, "memory-at-end-without-code": True})


class Cells(unittest.TestCase):
    def test_spread_is_shown_where_there_is_one(self):
        self.assertEqual(contest.with_spread([2, 1, 9], report.in_times), "2.00 (1.00-9.00)")
        self.assertEqual(contest.with_spread([1.001, 1.002], report.in_times), "1.00")

    def test_units(self):
        self.assertEqual([report.in_seconds(value) for value in (0.35, 1500, 2.5e6, 3e9)],
                         ["0.35 ns", "1.5 us", "2.5 ms", "3 s"])


if __name__ == "__main__":
    contest.harness.main()
