#!/usr/bin/env python3
"""guests/make-initramfs makes an archive again when it must, and only then."""

import os
import shutil
import subprocess

import harness

FIRST, SECOND, THIRD = b"first-5c0f71", b"second-8e2a64", b"third-b97d13"


class Initramfs(harness.TestCase):
    def make(self, *arguments):
        path = harness.output_of("make-initramfs", self.path("initramfs.cpio"), *arguments)
        with open(path, "rb") as stream:
            return stream.read(), os.stat(path).st_ino

    def test_of_other_things(self):
        """As benchmarks have it, that use one file for guests of two kinds."""
        one, two = self.make_file("one", FIRST), self.make_file("two", SECOND)
        data, inode = self.make(f"{one}=bin/one")
        self.assertTrue(FIRST in data)
        self.assertTrue(self.make(f"{one}=bin/one") == (data, inode))
        data, _ = self.make(f"{one}=bin/one", f"{two}=bin/two")
        self.assertTrue(FIRST in data)
        self.assertTrue(SECOND in data)
        data, _ = self.make()
        self.assertFalse(FIRST in data)

    def test_busybox_is_found(self):
        """Wherever Debian's package has it: what is there is not fetched again."""
        real = os.path.dirname(os.path.dirname(harness.kernel()))
        place = next(place for place in ("bin", "usr/bin")
                     if os.path.exists(f"{real}/busybox/{place}/busybox"))
        for other in ("bin", "usr/bin"):
            cache = self.path(other.replace("/", "-"))
            os.makedirs(f"{cache}/busybox/{other}")
            os.symlink(f"{real}/kernel", f"{cache}/kernel")
            shutil.copy(f"{real}/busybox/{place}/busybox", f"{cache}/busybox/{other}/busybox")
            made = subprocess.run([os.path.join(harness.ROOT, "guests", "make-initramfs")],
                                  env={**os.environ, "AEROSTAT_CACHE": cache}, text=True,
                                  check=True, capture_output=True)
            self.assertEqual((made.stdout, made.stderr), (f"{cache}/initramfs.cpio\n", ""))

    def test_of_what_is_newer(self):
        one = self.make_file("one", FIRST)
        self.make(f"{one}=bin/one")
        self.make_file("one", THIRD)
        later = os.stat(self.path("initramfs.cpio")).st_mtime + 10
        os.utime(one, (later, later))
        data, _ = self.make(f"{one}=bin/one")
        self.assertTrue(THIRD in data)


if __name__ == "__main__":
    harness.main()
