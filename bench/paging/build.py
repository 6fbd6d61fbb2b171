"""A build: Debian's gcc compiles sources of Aerostat's, several files at a time."""

import os

import contest
import image

MEMORY = 160   # MiB
RESIDENT = 64  # MiB, half of what it uses when it may use all
AT_A_TIME = 4
SECONDS = 900
PACKAGES = ("gcc-12", "cpp-12", "libgcc-12-dev", "libc6", "libc6-dev", "linux-libc-dev",
            "binutils-x86-64-linux-gnu", "libbinutils", "libctf-nobfd0", "libctf0", "libjansson4",
            "libstdc++6", "libgcc-s1", "libgmp10", "libisl23", "libmpc3", "libmpfr6", "libzstd1",
            "zlib1g")
# Some thousand lines, that need no headers of other packages.
SOURCES = ("disk_pages", "origins", "page_leave", "page_state", "pager", "pmap", "reclaim", "sample")
RATE = "lines_per_second"
COLUMNS = (
    (RATE, "lines/s", "{:.1f}"),
    ("seconds", "seconds", "{:.1f}"),
)


def path_of(name):
    return os.path.join("src", "mem", f"{name}.c")


# One warm-up, so that what the first start of gcc takes from the disk is not measured.
_COMPILE = ("chroot /mnt /usr/bin/x86_64-linux-gnu-gcc-12 -fdiagnostics-plain-output -std=gnu17"
            " -D_GNU_SOURCE -O2 -I/src -B/usr/bin/x86_64-linux-gnu- -c")
COMMANDS = image.enter(
    f"export PATH=/bin:/usr/bin && {_COMPILE} /src/mem/pmap.c -o /tmp/warm.o && echo 'build: begin'"
    f" && echo {' '.join(SOURCES)} | tr ' ' '\\n' | xargs -P {AT_A_TIME} -I @"
    f" {_COMPILE} /src/mem/@.c -o /tmp/@.o"
    f" && [ $(ls /mnt/tmp/*.o | wc -l) = {len(SOURCES) + 1} ] && echo 'build: end'"
    " || echo 'build: failed'")


def prepare(folder):
    """(the initramfs, the image of a disk)"""
    return (contest.make_initramfs(os.path.join(folder, "build.cpio"), {}, ["virtio_pci"]),
            image.make(folder, "build", PACKAGES, [(os.path.join(contest.ROOT, "src"), "src")]))


def expect(guest, word):
    """The moment at which the build says so."""
    moment, match = guest.expect(r"^build: (\w+)", SECONDS)
    if match[1] != word:
        raise RuntimeError(f"{guest.contestant.name}: the build failed:\n" +
                           "\n".join(guest.said[-20:]))
    return moment


def measure(guest):
    begin, end = expect(guest, "begin"), expect(guest, "end")
    lines = 0
    for name in SOURCES:
        with open(os.path.join(contest.ROOT, path_of(name)), encoding="utf-8") as stream:
            lines += len(stream.readlines())
    return {RATE: lines / (end - begin), "seconds": end - begin}
