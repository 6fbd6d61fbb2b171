#!/usr/bin/env python3
"""The balloon, with Debian's own driver: memory that the guest gives up, and has back."""

import json
import os
import re
import subprocess
import time

import harness
from shell_guest import SECONDS, ShellGuest, arguments_of

MIB = 1 << 20


class Guest(ShellGuest):
    """A VM with a shell on its console, and a name by which it is controlled."""

    def __init__(self, folder, memory, *extra, append=""):
        self._environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        super().__init__([*arguments_of(memory, append), "--name", "guest", *extra],
                         env=self._environment)

    def command(self, *arguments):
        """What `aerostat balloon guest SIZE` or the like prints."""
        return subprocess.run([harness.AEROSTAT, *arguments], check=True, text=True,
                              stdout=subprocess.PIPE, timeout=SECONDS,
                              env=self._environment).stdout

    def set_target(self, size):
        self.command("balloon", "guest", str(size))

    def stats(self):
        return json.loads(self.command("stats", "--json", "guest"))

    def inflate(self, size):
        """Sets the target, and waits until the balloon has that size."""
        self.set_target(size)
        return self.wait_until(lambda stats: stats["balloon_state"] == "steady" and
                               stats["balloon"] == size)

    def wait_until(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition(stats := self.stats()):
            if time.monotonic() > deadline:
                stats.pop("devices"), stats.pop("faults")
                raise AssertionError(f"not in {SECONDS} s: {stats}\n{self.report()}")
            time.sleep(0.05)
        return stats

    def host_memory(self):
        """Bytes of the file that is the guest's memory: what it really takes."""
        folder = f"/proc/{self.pid}/fd"
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if "/memfd:aerostat-ram" in os.readlink(path):
                return os.stat(path).st_blocks * 512
        raise AssertionError("no file that is guest memory")

    def meminfo(self, name):
        return int(re.search(rf"^{name}: +(\d+) kB", self.run("cat /proc/meminfo"),
                             re.MULTILINE).group(1)) << 10


def touch(mib):
    """A command that fills so much memory of its own, then frees it."""
    return f"dd if=/dev/zero of=/dev/null bs={mib}M count=1 2>/dev/null"


class Balloon(harness.TestCase):
    def finish(self, guest):
        self.assertEqual((guest.power_off(), guest.errors), (harness.STATUS_OK, ""),
                         guest.report())

    def test_inflate_and_deflate(self):
        """256 MiB squeezed into 88 MiB, which is about what Debian can do without, and back: the
        host's memory follows, the guest's files are what they were, and its own view of its memory
        is as it should be."""
        with Guest(self.folder, "256M") as guest:
            guest.wait_for_shell()
            guest.run("dd if=/dev/urandom of=/tmp/kept bs=1M count=4 2>/dev/null"
                      "; sha256sum /tmp/kept >/tmp/sum")
            # Free memory in small pieces too, which the guest does not report as free.
            guest.run("mount -o remount,size=90% /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=140"
                      " 2>/dev/null; rm /tmp/x")
            total, free = guest.meminfo("MemTotal"), guest.meminfo("MemFree")
            self.assertGreater(free, 120 * MIB)

            stats = guest.inflate(168 * MIB)
            self.assertEqual(stats["balloon_target"], 168 * MIB)
            self.assertLessEqual(stats["resident"], 88 * MIB)
            self.assertLessEqual(guest.host_memory(), 88 * MIB)
            self.assertEqual(guest.meminfo("MemTotal"), total)
            self.assertLess(guest.meminfo("MemFree"), free - 140 * MIB)
            guest.run("sha256sum -c -s /tmp/sum && ls -lR / >/dev/null")

            # What the driver tells, a second later at most, is what the guest says of itself. It
            # is asked each time: its kernel may still be reclaiming, short of memory as it is.
            told = guest.wait_until(lambda stats: abs(stats["guest"].get("free", 0) -
                                                      guest.meminfo("MemFree")) < 4 * MIB)["guest"]
            self.assertEqual(told["total"], total)
            self.assertAlmostEqual(told["available"], guest.meminfo("MemAvailable"),
                                   delta=8 * MIB)
            self.assertGreater(told["minor_faults"], 100)
            self.assertLess(told["age_seconds"], SECONDS)

            stats = guest.inflate(0)
            self.assertEqual(stats["balloon_given"], stats["balloon_taken"])
            self.assertGreater(guest.meminfo("MemFree"), 120 * MIB)
            guest.run("dd if=/dev/urandom of=/tmp/y bs=1M count=120 2>/dev/null")
            self.assertGreater(guest.host_memory(), 124 * MIB)
            guest.run("sha256sum -c -s /tmp/sum")
            self.assertEqual(guest.stats()["balloon_popped"], 0)
            self.finish(guest)

    def test_free_pages_are_reported(self):
        """Memory of a program that has ended goes back to the host without anybody asking; also
        from a kernel that expects free pages to stay zero."""
        for append in "", "init_on_free=1":
            with self.subTest(append), Guest(self.folder, "256M", append=append) as guest:
                guest.wait_for_shell()
                guest.run(touch(100))
                stats = guest.wait_until(lambda stats: stats["free_reported"] >= 80 * MIB and
                                         guest.host_memory() < 100 * MIB)
                self.assertEqual(stats["balloon"], 0)
                # And can be used again.
                guest.run(touch(100))
                self.finish(guest)

    def test_deflate_on_out_of_memory(self):
        """A program that needs what is in the balloon gets it; nobody is killed."""
        with Guest(self.folder, "192M", "--balloon", "100M") as guest:
            guest.wait_for_shell()
            guest.wait_until(lambda stats: stats["balloon"] == 100 * MIB)
            guest.run(touch(64))
            stats = guest.stats()
            self.assertLess(stats["balloon"], 100 * MIB)
            self.assertEqual(stats["balloon_target"], 100 * MIB)
            self.assertEqual(guest.run("dmesg | grep -c Killed; true").splitlines()[-1], "0")
            # The driver is content, and we know better: it is asked again.
            guest.wait_until(lambda stats: stats["balloon"] == 100 * MIB)
            self.finish(guest)

    def test_reboot_and_reload(self):
        """A new driver begins with an empty balloon, whatever the old one had; the target stays."""
        with Guest(self.folder, "192M") as guest:
            guest.wait_for_shell()
            guest.inflate(64 * MIB)
            guest.forget()
            guest.send("reboot -f\n")
            guest.wait_for_shell()
            stats = guest.wait_until(lambda stats: stats["balloon"] == 64 * MIB)
            self.assertEqual(stats["resets"], 1)
            self.assertEqual(stats["balloon_taken"], 64 * MIB)
            self.assertEqual(stats["balloon_popped"], 0)

            guest.run("rmmod virtio_balloon")
            stats = guest.stats()
            self.assertEqual((stats["balloon"], stats["balloon_state"]), (0, "absent"))
            self.assertEqual(stats["guest"], {})
            guest.run("insmod /modules/*virtio_balloon.ko")
            guest.wait_until(lambda stats: stats["balloon"] == 64 * MIB)
            guest.run(touch(32))
            self.finish(guest)

    def test_more_than_there_is(self):
        """A target that the guest cannot reach: it lives, and that is seen from outside."""
        with Guest(self.folder, "128M") as guest:
            guest.wait_for_shell()
            guest.set_target(127 * MIB)
            stats = guest.wait_until(lambda stats: stats["balloon"] > 50 * MIB)
            self.assertNotEqual(stats["balloon_state"], "steady")
            guest.run("uname -r; ls -l /bin | wc -l")
            self.assertLess(guest.stats()["balloon"], 127 * MIB)
            guest.inflate(0)
            guest.run(touch(40))
            self.finish(guest)


if __name__ == "__main__":
    harness.main()
