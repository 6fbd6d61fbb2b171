#!/usr/bin/env python3
"""The checker in guests all of whose pages are shared as fast as it goes, and written again, by a
manager that overwrites a frame as soon as it is dropped (fake_manager.py)."""

import os

import control
import harness
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


if __name__ == "__main__":
    harness.main()
