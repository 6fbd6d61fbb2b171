#!/usr/bin/env python3
"""Nothing that a guest keeps in memory may be lost, whatever is taken from it: the checker
(guests/checker) runs in guests of 256 MiB, with files on ext4 and the guest's own swap on disks.

CHECKER_SECONDS=n runs it for n seconds of the guest's time in each test, for `make soak`.
"""

import hashlib
import json
import os
import random
import re
import subprocess

import harness
from harness import Vm

MIB = 1 << 20
MEMORY = 256 * MIB
SMALL = 64 * MIB
SECONDS = int(os.environ.get("CHECKER_SECONDS", "0"))
ROUNDS = 4 if harness.ENGINE == "interp" else 12
SEED = int(os.environ.get("CHECKER_SEED", "1"))
LIMIT = harness.BOOT_SECONDS + 20 * SECONDS
NEW_KERNEL = harness.kernel_version() >= (6, 12)  # as Debian 13 has it


def make_initramfs(folder):
    """The tests' initramfs with the checker."""
    return harness.output_of("make-initramfs", os.path.join(folder, "initramfs.cpio"),
                             f"{harness.CHECKER}=bin/checker")


def inflated(mib):
    """A command that has the balloon filled with so much, and waits until it was.

    The driver is loaded anew: a guest that has its swap on gives more up. The kernel's own reserve
    would have it stop a few MiB short of 192 in 256. At its limits it takes a MiB back for each that
    it gives, so what it has given since is waited for, not what it holds.
    """
    given = "$(sed -n 's/balloon_inflate //p' /proc/vmstat)"
    return ("rmmod virtio_balloon && echo 1024 >/proc/sys/vm/min_free_kbytes"
            f" && before={given} && insmod /modules/*virtio_balloon.ko"
            f" && until [ $(({given} - before)) -ge {mib * 256} ]; do usleep 100000; done")


class Memory(harness.TestCase):
    def make_disk(self):
        disk = self.make_file("disk.img")
        os.truncate(disk, 64 * MIB)
        subprocess.run([harness.find_tool("mke2fs"), "-q", "-t", "ext4", disk], check=True)
        return disk

    def check(self, *extra, size=96, memory=MEMORY, swap=192 * MIB, before="true",
              rounds=ROUNDS, cpus=2, during=None):
        """Runs the checker over `size` MiB in a guest, to its end; gives the VMM's statistics.

        during: called when the VM runs.
        """
        disk, swap_disk = self.make_disk(), self.make_file("swap.img")
        os.truncate(swap_disk, swap)
        stats = self.path("stats.json")
        much = f"--seconds {SECONDS}" if SECONDS else f"--rounds {rounds}"
        arguments = harness.boot_arguments(
            "mount -t ext4 /dev/vda /mnt && mkswap /dev/vdb >/dev/null && swapon /dev/vdb"
            f" && {before} && checker {much} --size {size} --seed {SEED} --disk /mnt --drop-caches"
            " && umount /mnt && grep -E 'balloon|pswpin|pswpout|oom_kill' /proc/vmstat"
            # On its way to power-off Linux stops its disks, and may want to swap after that.
            " && swapoff /dev/vdb",
            # A CPU that a busy host lets wait for 20 s is no error of the guest's.
            memory=f"{memory // MIB}M", append="nowatchdog")
        arguments[arguments.index("--initrd") + 1] = make_initramfs(self.folder)
        with Vm([*arguments, "--cpus", str(cpus), "--disk", disk, "--disk", swap_disk, "--stats",
                 stats, *extra]) as vm:
            if during is not None:
                during()
            status = vm.wait(LIMIT)
            self.assertEqual((status, vm.errors), (harness.STATUS_OK, ""), vm.report())
            self.assertRegex(vm.console, r"(?m)^checker: ok, \d{4,} pages verified in \d+ rounds$",
                             vm.report())
            self.assertRegex(vm.console, r"(?m)^aerostat-guest: exit 0$", vm.report())
            # What the kernel itself keeps in memory is checked by the kernel.
            self.assertNotRegex(vm.console, "BUG:|Oops|Bad page|Bad swap|EXT4-fs error|I/O error",
                                vm.report())
            self.console = vm.console
        done = subprocess.run([harness.find_tool("e2fsck"), "-fn", disk], check=False, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)
        with open(stats, encoding="utf-8") as stream:
            counters = json.load(stream)
        # Page map, checksums, pages that disks have: whatever the guest did with all of its memory.
        overhead = counters["overhead"] - counters["shadow_memory"]
        if NEW_KERNEL:  # in small guests it has the nested table's upper levels show, five pages
            overhead -= 5 * 4096
        self.assertLessEqual(overhead, 0.006 * counters["max"], counters)
        self.assertLessEqual(counters["shadow_memory"], 0.04 * counters["max"], counters)
        return counters

    def guest_counter(self, name):
        return int(re.search(rf"(?m)^{name} (\d+)$", self.console).group(1))

    def test_plain(self):
        self.check()
        self.assertEqual(self.guest_counter("oom_kill"), 0)

    def test_one_cpu(self):
        self.check(cpus=1, rounds=ROUNDS // 2)

    def test_guest_swaps(self):
        """A guest that is short of memory by its own doing."""
        self.check(memory=96 * MIB, rounds=max(1, ROUNDS // 4))
        self.assertGreater(self.guest_counter("pswpin"), 1000)
        self.assertGreater(self.guest_counter("pswpout"), 1000)

    def check_paging(self, stats, least):
        """That pages were taken from the guest and brought back, and how many are left to it."""
        back = stats["faults_swap_in"] + stats["faults_compressed"]
        self.assertGreater(back, least, stats)
        # The target is a goal that the reclaim thread follows, from behind.
        self.assertLess(stats["resident"], SMALL + 16 * MIB, stats)

    def test_resident(self):
        """Paging alone: no driver in the guest knows."""
        stats = self.check("--resident", "64M", "--swap-dir", self.folder,
                           rounds=ROUNDS // 2, before="rmmod virtio_balloon")
        self.check_paging(stats, 1000)

    def check_balloon(self, stats, mib):
        """That the guest gave so much up. At its end its driver has given all back."""
        self.assertGreaterEqual(stats["balloon_taken"], mib * MIB, stats)
        held = self.guest_counter("balloon_inflate") - self.guest_counter("balloon_deflate")
        self.assertGreater(held * 4096, mib * MIB // 2, self.console)

    def test_balloon(self):
        """The guest gives memory up, and pages out to its own swap. With 192 of 256 MiB gone its
        kernel is at its limits: it takes some back now and then rather than kill a process."""
        stats = self.check("--balloon", "192M", size=24, rounds=max(2, ROUNDS // 4),
                           before=inflated(192))
        self.check_balloon(stats, 192)
        self.assertGreater(self.guest_counter("pswpout"), 1000)

    def test_both(self):
        """Half of it by the balloon, the rest by paging."""
        stats = self.check("--balloon", "128M", "--resident", "64M", "--swap-dir", self.folder,
                           size=64, rounds=ROUNDS // 2, before=inflated(128))
        self.check_balloon(stats, 128)
        self.check_paging(stats, 1000)

    def test_double_paging(self):
        """A guest that is short of memory itself, and pages out what was taken from it already."""
        stats = self.check("--resident", "48M", "--swap-dir", self.folder, size=112,
                           memory=96 * MIB, rounds=ROUNDS // 3)
        self.assertGreater(self.guest_counter("pswpout"), 1000)
        # A newer Linux looks whether a page is all zero before it writes it out, and has it
        # brought back by that.
        if not NEW_KERNEL:
            self.assertGreater(stats["double_paging_avoided"], 100, stats)

    def test_disk_pages(self):
        """The guest's page cache goes without being stored, and its files are read right."""
        image = self.make_file("data.img", random.Random(SEED).randbytes(80 * MIB))
        with open(image, "rb") as stream:
            digest = hashlib.md5(stream.read()).hexdigest()
        stats = self.path("stats.json")
        # Kept open, it stays in the page cache.
        commands = "exec 3</dev/vda; for i in 1 2 3; do md5sum /dev/vda; done"
        with Vm([*harness.boot_arguments(commands, memory="192M"), "--resident", "48M", "--disk",
                 f"{image},ro", "--swap-dir", self.folder, "--stats", stats]) as vm:
            status = vm.wait(LIMIT)
            self.assertEqual((status, vm.errors), (harness.STATUS_OK, ""), vm.report())
            self.assertEqual(re.findall(r"(?m)^([0-9a-f]{32})  /dev/vda", vm.console),
                             [digest] * 3, vm.report())
        with open(stats, encoding="utf-8") as stream:
            stats = json.load(stream)
        self.assertGreater(stats["reclaim_disk_backed"] * 4096, 60 * MIB, stats)
        self.assertGreater(stats["faults_disk"], 1000, stats)
        # What is stored is the rest of the guest, of which a newer kernel has more.
        self.assertLess(stats["swap_written"], (60 if NEW_KERNEL else 40) * MIB, stats)

    def test_chaos(self):
        """Pages taken and brought back at random as fast as it goes, on the way the balloon too."""
        stats = self.check("--chaos", str(SEED), "--swap-dir", self.folder, rounds=ROUNDS // 2)
        for counter in ("faults_swap_in", "faults_compressed", "faults_zero"):
            self.assertGreater(stats[counter], 1000, f"{counter} in {stats}")
        for counter in ("chaos_taken", "chaos_brought", "chaos_sampled", "chaos_checks"):
            self.assertGreater(stats[counter], 0, f"{counter} in {stats}")
        self.assertGreater(stats["balloon_taken"], 0, stats)


if __name__ == "__main__":
    harness.main()
