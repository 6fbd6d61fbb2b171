#!/usr/bin/env python3
"""Debian guests in one group, under aerostatd: their pages are shared, and nothing is lost by it,
with VMs killed at random and the manager killed and started anew every few seconds.

CHECKER_SECONDS=n has the checker run for n seconds of the guests' time, for `make soak`.
"""

import os
import random
import re
import time

import fake_vm
import harness
from harness import Vm

MIB = 1 << 20
SECONDS = int(os.environ.get("CHECKER_SECONDS", "20"))
SEED = int(os.environ.get("CHECKER_SEED", "1"))
MEMORY = 128  # MiB of a guest
CODE_CACHE = "16M"  # they are admitted with it
STEADY = 3    # guests that live until their checker has passed
LIMIT = harness.BOOT_SECONDS + 20 * SECONDS


class Sharing(fake_vm.TestCase):
    # Less than the guests want, so that there is a reason to look for equal pages.
    arguments = ("--memory", "320M")

    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.greatest = {"shared": 0, "saved": 0}
        self.initramfs = harness.output_of(
            "make-initramfs", os.path.join(self.folder, "initramfs.cpio"),
            f"{harness.CHECKER}=bin/checker")

    def start(self, name, seed, seconds):
        # Guests with one seed fill their memory with the same pages, by and by.
        arguments = harness.boot_arguments(
            f"checker --seconds {seconds} --size 48 --seed {seed}", memory=f"{MEMORY}M",
            append="nowatchdog")
        arguments[arguments.index("--initrd") + 1] = self.initramfs
        vm = Vm([*arguments, "--name", name, "--group", "g", "--swap-dir", self.folder,
                 "--code-cache", CODE_CACHE])
        self.addCleanup(vm.__exit__)
        return vm

    def look(self):
        """Keeps the greatest that was shared and saved."""
        status = self.status()
        saved = sum(vm["shared_saved"] for vm in status["vms"])
        self.greatest["shared"] = max(self.greatest["shared"], status["host"]["shared"])
        self.greatest["saved"] = max(self.greatest["saved"], saved)
        self.assertLessEqual(saved, status["host"]["shared"])

    def wait_a_little(self, vms):
        """Some seconds, or until no guest is left."""
        until = time.monotonic() + self.random.uniform(1.5, 4)
        while time.monotonic() < until and any(vm.process.poll() is None for vm in vms):
            self.look()
            time.sleep(0.2)

    def check_passed(self, vm):
        self.assertEqual(vm.wait(LIMIT), harness.STATUS_OK, vm.report())
        self.assertRegex(vm.console, r"(?m)^checker: ok, \d+ pages verified in \d+ rounds$",
                         vm.report())
        self.assertRegex(vm.console, r"(?m)^aerostat-guest: exit 0$", vm.report())
        self.assertNotRegex(vm.console, "BUG:|Oops|Bad page|Bad swap", vm.report())

    def test_under_chaos(self):
        steady = [self.start(f"vm{i}", SEED + i // 2, SECONDS) for i in range(STEADY)]
        victim = self.start("victim", SEED, 1000)
        deadline = time.monotonic() + LIMIT
        turn = 0
        while any(vm.process.poll() is None for vm in steady):
            self.assertLess(time.monotonic(), deadline, [vm.report() for vm in steady])
            self.wait_a_little(steady)
            turn += 1
            self.kill_manager()
            if turn % 3 == 0:
                victim.process.kill()
                victim.wait()
                victim = self.start("victim", SEED, 1000)
            self.start_manager()
        for vm in steady:
            self.check_passed(vm)
        self.assertIsNone(victim.process.poll(), victim.report())
        victim.process.kill()
        victim.wait()
        print(f"{turn} managers; at most {self.greatest['shared'] // MIB} MiB shared, "
              f"{self.greatest['saved'] // MIB} MiB saved", flush=True)
        self.assertGreater(self.greatest["shared"], 8 * MIB)
        self.assertGreater(self.greatest["saved"], 4 * MIB)
        self.assertNotIn("cut off", self.log())
        self.wait_empty()

    def test_idle_guests(self):
        """Three that do nothing: most of what they have is the same."""
        vms = []
        for i in range(STEADY):
            arguments = harness.boot_arguments("echo ready; sleep 1000", memory=f"{MEMORY}M")
            vm = Vm([*arguments, "--name", f"vm{i}", "--group", "g", "--code-cache", CODE_CACHE])
            self.addCleanup(vm.__exit__)
            vms.append(vm)
        for vm in vms:
            vm.expect(r"(?m)^ready$")
        self.assertTrue(self.ask(request="memory", size=240 * MIB)["ok"])

        def is_shared():
            host = self.host()
            return host["shared"] > 30 * MIB and host["pool"] < host["shared"] * 2 // 3
        self.wait_for(is_shared, "the guests share their pages")
        host = self.host()
        self.assertLess(host["metadata"], 0.005 * STEADY * MEMORY * MIB)
        for vm in vms:
            vm.process.kill()
            vm.wait()
        self.wait_empty()


def own_memory(pid):
    """What a VM's process has for itself beside RAM and frames, each page once: translated code is
    mapped twice. Bytes."""
    total, counts = 0, False
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as stream:
        for line in stream:
            if match := re.match(r"[0-9a-f]+-[0-9a-f]+ .{4} \S+ \S+ (\d+) +(\S*)", line):
                inode, name = match.groups()
                counts = inode == "0" or (name.startswith("/memfd:aerostat-") and
                                          not name.endswith(("-ram", "-pool")))
            elif counts and line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
    return total


class FromTheStart(fake_vm.TestCase):
    arguments = ("--memory", "8G")  # so much that there is hardly a reason to look for equal pages

    def boot(self, name):
        arguments = harness.boot_arguments("echo ready; sleep 1000", memory=f"{MEMORY}M")
        vm = Vm([*arguments, "--name", name, "--group", "g", "--code-cache", CODE_CACHE])
        self.addCleanup(vm.__exit__)
        vm.expect(r"(?m)^ready$")
        return vm

    def test_kernel(self):
        """The second guest that boots the same kernel shares it before all of its memory has been
        looked at. What is not changed by a boot are some 17 MiB of it."""
        self.boot("first")
        self.wait_for(lambda: self.host()["hints"] * fake_vm.PAGE > 20 * MIB,
                      "the first guest's kernel is known")
        self.boot("second")

        def shared():
            row = self.rows_of_manager()["second"]
            return row if row["shared"] > 12 * MIB else None
        row = self.wait_for(shared, "the second guest shares it")
        self.assertLess(row["pages_scanned"], (row["resident"] + row["shared"]) // fake_vm.PAGE)

    def test_next_manager(self):
        """It charges a VM from the first moment on for what its process has."""
        self.boot("vm")
        pid = self.rows_of_manager()["vm"]["pid"]
        self.kill_manager()
        self.start_manager()

        def managed():
            row = self.rows_of_manager()["vm"]
            return row if row["managed"] else None
        row = self.wait_for(managed, "the VM is adopted")
        own = own_memory(pid)
        self.assertGreater(own, 8 * MIB)
        self.assertLess(abs(row["overhead"] - own), 2 * MIB, (row, own))


if __name__ == "__main__":
    harness.main()
