#!/usr/bin/env python3
"""Paging when the host cannot do its part: no room, a full disk, a file that forgets; and a limit
that is set while the VM runs. test_memory.py has what must hold when all goes well."""

import json
import os
import subprocess
import time
import unittest

import harness
from harness import AEROSTAT, Vm
from test_disk_full import can_mount

MIB = 1 << 20
RESIDENT = 40 * MIB
# 40 MiB of noise in memory, beside a guest that takes some 30.
MAKE = "head -c 41943040 /dev/urandom > /tmp/x && sha1sum /tmp/x > /tmp/sum"
VERIFY = "sha1sum -c /tmp/sum"
COMMANDS = f"{MAKE} && {VERIFY} && {VERIFY}"


def find_swap_file(pid, swap_dir):
    """Path under /proc of the process's swap file, which has no name."""
    folder = f"/proc/{pid}/fd"
    for number in os.listdir(folder):
        target = os.readlink(os.path.join(folder, number))
        if target.startswith(swap_dir) and target.endswith(" (deleted)"):
            return os.path.join(folder, number)
    raise AssertionError("there is no swap file")


class Paging(harness.TestCase):
    def check_short(self, errors, *extra, command=None):
        """The VM cannot be held to its limit and says so in one line; its guest notices nothing."""
        stats = self.path("stats.json")
        arguments = ["--resident", f"{RESIDENT // MIB}M", "--stats", stats, *extra,
                     *harness.boot_arguments(COMMANDS)]
        with Vm(arguments, command=command and [*command, AEROSTAT, "run", *arguments]) as vm:
            status = vm.wait()
            self.assertEqual(status, harness.STATUS_OK, vm.report())
            self.assertRegex(vm.errors, rf"\Aaerostat: warning: [^\n]*{errors}[^\n]*\n\Z")
            self.assertEqual(vm.console.count("/tmp/x: OK"), 2, vm.report())
        with open(stats, encoding="utf-8") as stream:
            counters = json.load(stream)
        self.assertGreater(counters["reclaim_given_up"], 0, counters)
        self.assertGreater(counters["reclaim_refused"], 0, counters)
        self.assertLessEqual(counters["overhead"], 0.006 * counters["max"], counters)
        return counters

    def test_swap_file_is_full(self):
        counters = self.check_short("the swap file is full", "--swap-dir", self.folder,
                                    "--swap-size", "8M")
        self.assertGreater(counters["swapped"], 4 * MIB, counters)
        self.assertLessEqual(counters["swapped"], 8 * MIB, counters)

    def test_no_swap_file(self):
        counters = self.check_short("there is no swap file", "--swap-size", "0")
        self.assertEqual(counters["swapped"], 0, counters)

    @unittest.skipUnless(can_mount(), "no user or mount namespaces here")
    def test_disk_is_full(self):
        full = self.path("full")
        os.mkdir(full)
        script = 'mount -t tmpfs -o size=8M none "$1" && shift && exec "$@"'
        self.check_short("the disk of the swap file is full", "--swap-dir", full,
                         command=["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh",
                                  full])

    def test_swap_file_forgets(self):
        """Wrong bytes never reach the guest: the VM ends, and says why."""
        commands = f"{MAKE}; echo made; while {VERIFY}; do :; done; echo wrong"
        with Vm(["--resident", f"{RESIDENT // MIB}M", "--swap-dir", self.folder,
                 *harness.boot_arguments(commands)]) as vm:
            vm.expect("^made$")
            path = find_swap_file(vm.pid, self.folder)
            with open(path, "r+b", buffering=0) as stream:
                for offset in range(0, 128 * MIB, MIB):
                    os.pwrite(stream.fileno(), b"\xa5" * MIB, offset)
            self.assertEqual(vm.wait(harness.EXIT_SECONDS), harness.STATUS_FAILURE, vm.report())
            self.assertRegex(vm.errors, r"\Aaerostat: error: guest memory is lost: "
                                        r"the swap file has lost a page[^\n]*\n\Z", vm.report())
            self.assertNotIn("wrong", vm.console)
            self.assertNotIn("FAILED", vm.console)

    def test_reboot(self):
        """The next machine finds an empty swap file and the same limit."""
        stats = self.path("stats.json")
        arguments = harness.boot_arguments("")
        arguments[-1] = arguments[-1].replace(' run=""', "")
        with Vm(["--resident", f"{RESIDENT // MIB}M", "--swap-dir", self.folder, "--stats", stats,
                 *arguments], stdin=subprocess.PIPE) as vm:
            for _ in range(2):
                vm.expect(r"powers the machine off")
                vm.forget()
                vm.send(f"{COMMANDS} && echo verified\n")
                vm.expect(r"(?m)^verified$")
                vm.send("reboot -f\n")
            vm.expect(r"powers the machine off")
            vm.send("exit\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())
        with open(stats, encoding="utf-8") as stream:
            counters = json.load(stream)
        self.assertEqual((counters["resets"], counters["target"]), (2, RESIDENT), counters)

    def ask(self, *arguments):
        return subprocess.run([AEROSTAT, *arguments], check=True, text=True, env=self.environment,
                              stdout=subprocess.PIPE).stdout

    def test_limit_of_a_running_vm(self):
        """aerostat resident: down, and up again."""
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder}
        with Vm(["--name", "limited", "--swap-dir", self.folder,
                 *harness.boot_arguments(f"{MAKE}; echo made; read line; {VERIFY}")],
                stdin=subprocess.PIPE, env=self.environment) as vm:
            vm.expect("^made$")

            def resident():
                return json.loads(self.ask("stats", "--json", "limited"))["resident"]

            self.assertGreater(resident(), RESIDENT)
            self.ask("resident", "limited", f"{RESIDENT // MIB}M")
            deadline = time.monotonic() + harness.EXIT_SECONDS
            while resident() > RESIDENT:
                self.assertLess(time.monotonic(), deadline, vm.report())
            self.ask("resident", "limited", "128M")
            vm.send("\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())
            self.assertIn("/tmp/x: OK", vm.console)

    def test_translations_of_an_idle_guest(self):
        """While memory is asked for, they go; and are made again when there is something to do."""
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder}
        with Vm(["--name", "idle", "--resident", "100M", *harness.boot_arguments(
                "echo made; read line; sha1sum /bin/busybox && gzip -c /bin/busybox > /tmp/x")],
                stdin=subprocess.PIPE, env=self.environment) as vm:
            vm.expect("^made$")

            def stats():
                return json.loads(self.ask("stats", "--json", "idle"))

            before = stats()["code_cache"]
            deadline = time.monotonic() + harness.EXIT_SECONDS
            while stats()["code_cache_trims"] == 0:
                self.assertLess(time.monotonic(), deadline, vm.report())
                time.sleep(0.2)
            self.assertLess(stats()["code_cache"], before / 4)
            vm.send("\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())
            self.assertRegex(vm.console, r"(?m)^[0-9a-f]{40}  /bin/busybox$")

    def test_folders_that_do_not_serve(self):
        boot = harness.boot_arguments("true")
        for folder in ("/nonexistent", "/proc", self.make_file("file")):
            with self.subTest(folder=folder):
                self.check_refused(["--swap-dir", folder, *boot], "swap file", folder)
        # Who asks for nothing gets a VM without a swap file.
        environment = {**os.environ, "TMPDIR": "/nonexistent"}
        status, _, errors = self.run_vm(boot, env=environment)
        self.assertEqual((status, errors), (harness.STATUS_OK, ""))


if __name__ == "__main__":
    harness.main()
