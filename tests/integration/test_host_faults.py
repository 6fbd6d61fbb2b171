#!/usr/bin/env python3
"""A host that has no memory for a VM, or that kills it. test_paging.py has disks and swap files."""

import json
import os
import signal
import subprocess
import time
import unittest

import harness
from harness import AEROSTAT, Vm

MIB = 1 << 20
# 40 MiB of noise in memory, beside a guest that takes some 30.
MAKE = "head -c 41943040 /dev/urandom > /tmp/x && sha1sum /tmp/x > /tmp/sum"
VERIFY = "sha1sum -c /tmp/sum"
SMALL_HOST = os.environ.get("AEROSTAT_SMALL_HOST", "")
CGROUPS = "/sys/fs/cgroup"


def write(path, text):
    with open(path, "w", encoding="ascii") as stream:
        stream.write(text)


def make_cgroup(limit):
    """A memory cgroup of our own: its path, or None where there is none to make."""
    is_v1 = os.path.isdir(f"{CGROUPS}/memory")
    path = f"{CGROUPS}{'/memory' if is_v1 else ''}/aerostat-test-{os.getpid()}"
    try:
        os.mkdir(path)
    except OSError:
        return None
    try:
        write(f"{path}/{'memory.limit_in_bytes' if is_v1 else 'memory.max'}", str(limit))
        return path
    except OSError:
        os.rmdir(path)
        return None


class HostFaults(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder}

    def ask(self, *arguments):
        return subprocess.run([AEROSTAT, *arguments], check=True, text=True, env=self.environment,
                              stdout=subprocess.PIPE).stdout

    def stats(self):
        return json.loads(self.ask("stats", "--json", "it"))

    def wait_for(self, vm, is_so):
        deadline = time.monotonic() + harness.BOOT_SECONDS
        while not is_so(self.stats()):
            self.assertLess(time.monotonic(), deadline, vm.report())

    def small_host(self, mib):
        """The environment of a VM for whose RAM there is so much, and the file that says so."""
        path = self.path("host")
        write(path, str(mib).ljust(64))
        return {**self.environment, "LD_PRELOAD": SMALL_HOST, "SMALL_HOST": path}, path

    @unittest.skipUnless(SMALL_HOST, "no library to stand in for a small host")
    def test_no_memory_and_nowhere_to_put_pages(self):
        """The VM is paused, says why, and goes on when there is room."""
        environment, limit = self.small_host(44)
        with Vm(["--name", "it", "--swap-size", "0",
                 *harness.boot_arguments(f"{MAKE} && {VERIFY}")], env=environment) as vm:
            vm.expect(".")  # it has its name
            self.wait_for(vm, lambda stats: stats["state"] == "paused")
            self.assertRegex(vm.errors, r"aerostat: error: the host has no memory for the guest: "
                                        r"[^\n]*the VM is paused: [^\n]*aerostat resume it\n\Z")
            self.assertLess(self.stats()["target"], 44 * MIB)
            with open(limit, "r+", encoding="ascii") as stream:  # the VM's process has it mapped
                stream.write("0".ljust(64))
            self.ask("resume", "it")
            self.assertEqual(vm.wait(), harness.STATUS_OK, vm.report())
            self.assertIn("/tmp/x: OK", vm.console)
            self.assertEqual(vm.errors.count("error"), 1, vm.errors)

    @unittest.skipUnless(SMALL_HOST, "no library to stand in for a small host")
    def test_no_memory_and_a_swap_file(self):
        """The VM lives within what the host has, and its guest notices nothing."""
        environment, _ = self.small_host(50)
        stats = self.path("stats.json")
        with Vm(["--name", "it", "--swap-dir", self.folder, "--stats", stats,
                 *harness.boot_arguments(f"{MAKE} && {VERIFY} && {VERIFY}")],
                env=environment) as vm:
            self.assertEqual(vm.wait(), harness.STATUS_OK, vm.report())
            self.assertEqual(vm.console.count("/tmp/x: OK"), 2, vm.report())
            self.assertRegex(vm.errors, r"\Aaerostat: warning: the host refuses memory[^\n]*\n\Z")
        with open(stats, encoding="utf-8") as stream:
            counters = json.load(stream)
        self.assertGreater(counters["swapped"], 0, counters)
        self.assertLess(counters["target"], 60 * MIB, counters)  # with the compression cache

    def check_nothing_left(self):
        """No name, no file in the swap folder; and the name is free for another VM."""
        self.assertEqual(json.loads(self.ask("ps", "--json")), [])
        self.assertEqual(os.listdir(self.path("swap")), [])

    def test_killed_at_any_moment(self):
        os.mkdir(self.path("swap"))
        for moment in (0, MIB, 8 * MIB, 30 * MIB):
            with self.subTest(swapped=moment), \
                 Vm(["--name", "it", "--resident", "40M", "--swap-dir", self.path("swap"),
                     *harness.boot_arguments(f"{MAKE}; while {VERIFY}; do :; done")],
                    env=self.environment) as vm:
                vm.expect(".")  # it has its name
                self.wait_for(vm, lambda stats: stats["swapped"] >= moment)
                vm.signal(signal.SIGKILL)
                self.assertEqual(vm.wait(harness.EXIT_SECONDS), -signal.SIGKILL, vm.report())
                self.assertEqual(vm.errors, "")
                self.check_nothing_left()

    def has_processes(self, cgroup):
        with open(f"{cgroup}/cgroup.procs", encoding="ascii") as stream:
            return stream.read() != ""

    def test_killed_for_its_cgroup(self):
        """The kernel's out-of-memory killer: no trace is left of a VM in the background."""
        cgroup = make_cgroup(144 * MIB)  # enough to begin a boot with, not for what is made then
        if cgroup is None:
            self.skipTest("no memory cgroup to make here")
        self.addCleanup(os.rmdir, cgroup)
        os.mkdir(self.path("swap"))
        script = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
        started = subprocess.run(
            ["sh", "-c", script, "sh", cgroup, AEROSTAT, "run", "--detach", "--name", "it",
             "--swap-dir", self.path("swap"),
             *harness.boot_arguments("head -c 104857600 /dev/urandom > /tmp/x; read line",
                                     memory="256M")],
            env=self.environment, text=True, stdout=subprocess.PIPE, check=True)
        self.assertEqual(started.stdout, "it\n")
        deadline = time.monotonic() + harness.BOOT_SECONDS
        while json.loads(self.ask("ps", "--json")):
            self.assertLess(time.monotonic(), deadline)
        while self.has_processes(cgroup):
            self.assertLess(time.monotonic(), deadline)
        counts = "memory.oom_control" if os.path.isdir(f"{CGROUPS}/memory") else "memory.events"
        with open(f"{cgroup}/{counts}", encoding="ascii") as stream:
            self.assertRegex(stream.read(), r"(?m)^oom_kill [1-9]")
        self.check_nothing_left()


if __name__ == "__main__":
    harness.main()
