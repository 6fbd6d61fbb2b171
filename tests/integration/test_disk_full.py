#!/usr/bin/env python3
"""The host's disk fills up under a guest's writes: the guest gets an I/O error, the VM lives on."""

import os
import resource
import signal
import subprocess
import unittest

import harness
from harness import AEROSTAT

# A write that does not fit fails; what is there stays readable; once there is room, writes work.
COMMANDS = ("dd if=/dev/urandom of=/tmp/data bs=65536 count=64 2>/dev/null"
            "; dd if=/tmp/data of=/dev/vda bs=65536 conv=fsync 2>/dev/null && echo all written"
            "; echo alive; dd if=/tmp/data of=/dev/vda bs=65536 count=4 conv=fsync 2>/dev/null"
            " && echo small write $(head -c 262144 /tmp/data | sha256sum)"
            "; echo 3 > /proc/sys/vm/drop_caches"
            "; echo read back $(head -c 262144 /dev/vda | sha256sum); dmesg | grep -c I/O")


def can_mount():
    return subprocess.run(["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none",
                           "/mnt"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


class DiskFull(harness.TestCase):
    def check(self, run):
        console, errors, status = run
        self.assertEqual(status, harness.STATUS_OK, console[-3000:] + errors)
        self.assertNotIn("all written", console)
        self.assertIn("\nalive\n", console)
        small = harness.re.search(r"small write ([0-9a-f]{64})", console)
        self.assertTrue(small, console[-3000:])
        self.assertIn(f"read back {small.group(1)}", console)
        self.assertLessEqual(errors.count("\n"), 2, "the guest can flood the log")

    def finish(self, command, **options):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=harness.BOOT_SECONDS, check=False, **options)
        return (done.stdout.replace(b"\r\n", b"\n").decode(errors="replace"),
                done.stderr.decode(errors="replace"), done.returncode)

    @unittest.skipUnless(can_mount(), "no user or mount namespaces here")
    def test_full_file_system(self):
        script = ('mount -t tmpfs -o size=2M none "$1" && truncate -s 8M "$1/disk.img" && '
                  'disk=$1/disk.img && shift && exec "$@" --disk "$disk"')
        self.check(self.finish(["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh",
                                self.folder, AEROSTAT, "run", *harness.boot_arguments(COMMANDS)]))

    def test_file_size_limit(self):
        """As an ordinary user meets it: a limit whose signal must not end the VM either."""
        disk = self.make_file("disk.img")
        # The limit counts for every file that is written: the RAM file needs room, so the disk is
        # full from 192 MiB on.
        os.truncate(disk, 200 << 20)
        limit = 192 << 20

        def set_limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        commands = ("dd if=/dev/urandom of=/dev/vda bs=65536 count=1 seek=3100 conv=fsync"
                    " 2>/dev/null && echo all written; echo alive"
                    "; dd if=/dev/urandom of=/dev/vda bs=65536 count=1 conv=fsync 2>/dev/null"
                    " && echo small write fine")
        console, errors, status = self.finish(
            [AEROSTAT, "run", *harness.boot_arguments(commands), "--disk", disk],
            preexec_fn=set_limit)
        self.assertEqual(status, harness.STATUS_OK, console[-3000:] + errors)
        self.assertNotIn("all written", console)
        self.assertIn("\nalive\n", console)
        self.assertIn("small write fine", console)


if __name__ == "__main__":
    harness.main()
