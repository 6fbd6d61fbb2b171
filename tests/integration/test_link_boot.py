#!/usr/bin/env python3
"""The checker in guests all of whose pages are shared as fast as it goes, and written again, by a
manager that overwrites a frame as soon as it is dropped (fake_manager.py); and what a guest is asked
for the manager's sake."""

import os

import control
import harness
import test_balloon
import test_memory
from fake_manager import FakeManager

ROUNDS = test_memory.ROUNDS


class Shared(control.TestCase):
    make_disk = test_memory.Memory.make_disk
    check = test_memory.Memory.check

    def check_shared(self, *extra, eager=False, target=None, **options):
        """Gives the statistics and what the manager has seen."""
        links = []
        manager = FakeManager(self.runtime, eager=eager)
        self.addCleanup(manager.close)

        def adopt():
            self.wait_for(lambda: os.path.exists(os.path.join(self.runtime, "v.sock")), "the VM")
            link = manager.adopt("v")
            link.target(scan_pages=1000000, scan_ppm=300000, **(target or {}))
            links.append(link)

        stats = self.check("--name", "v", "--swap-dir", self.folder, *extra, during=adopt,
                           **options)
        self.assertEqual(links[0].breaches, [])
        self.assertGreater(stats["pages_shared"], 3000, stats)
        self.assertGreater(stats["cow_breaks"], 1000, stats)

    def test_alike(self):
        self.check_shared(rounds=ROUNDS // 2)

    def test_all(self):
        """Each page to a frame of its own: nearly all of memory is shared, and then written."""
        self.check_shared(eager=True, rounds=ROUNDS // 3, size=64)

    def test_chaos(self):
        self.check_shared("--chaos", str(test_memory.SEED), eager=True, rounds=ROUNDS // 4, size=48)

    def test_paging(self):
        """What reclaim has chosen is shared before it goes."""
        self.check_shared(target={"resident": 64 << 20}, rounds=ROUNDS // 3)


class Spare(control.TestCase):
    def test_told_while_it_waits(self):
        """What the guest could do without is told while it waits for pages, and at no other time."""
        with test_balloon.Guest(self.folder, "128M", "--swap-dir", self.folder) as guest:
            guest.wait_for_shell()
            manager = FakeManager(self.runtime)
            self.addCleanup(manager.close)
            link = manager.adopt("guest")
            link.target()
            guest.run("mount -o remount,size=90% /tmp"
                      " && dd if=/dev/urandom of=/tmp/x bs=1M count=50 2>/dev/null")
            self.wait_for(lambda: link.reports and link.reports[-1]["spare"] == 0,
                          "what the driver has said when it started is no news")
            link.target(resident=40 << 20)
            for _ in range(100):
                guest.run("md5sum /tmp/x")
                if told := link.reports[-1]["spare"]:
                    break
            self.assertAlmostEqual(told, guest.meminfo("MemAvailable"), delta=8 << 20)
            link.target()
            self.wait_for(lambda: link.reports[-1]["spare"] == 0, "it is not asked any more")
            self.assertEqual(link.breaches, [])
            self.assertEqual(guest.power_off(), harness.STATUS_OK)


if __name__ == "__main__":
    harness.main()
