"""Debian's Redis with a data set twice as large as what may be resident, worked as a cache is.

Nothing is kept on disk. guests/redis-load.c is the client, over a Unix socket in the same guest: a
tenth of the keys get nine in ten requests.
"""

import os

import contest
import image

MEMORY = 256    # MiB
RESIDENT = 60   # MiB
DATA = 120      # MiB, what Redis says that its memory holds
KEY_BYTES = 1106  # what a key with its value takes there
WARM_SECONDS = 8
SECONDS = 15
FILL_SECONDS = 300
PROGRAM = os.path.join(contest.BUILD, "guests", "redis-load")
PACKAGES = ("redis-server", "redis-tools", "libc6", "libatomic1", "libjemalloc2", "liblzf1",
            "libssl3", "libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblz4-1",
            "liblzma5", "libzstd1", "libgcc-s1", "libstdc++6")
RATE = "requests_per_second"
COLUMNS = (
    (RATE, "requests/s", "{:.0f}"),
    ("p99_ms", "p99 of 16 requests, ms", "{:.1f}"),
    ("data_mib", "data, MiB", "{:.0f}"),
)

def commands(data, load):
    """The server, and in the end its client, for so many MiB of data and those seconds (see its own
    description), which can be followed by more of the shell's."""
    return image.enter(
        "chroot /mnt /usr/bin/redis-server --unixsocket /tmp/redis --port 0 --save '' --appendonly no"
        " --daemonize yes --logfile /tmp/log"
        f" && redis-load /mnt/tmp/redis {(data << 20) // KEY_BYTES} {load}")


COMMANDS = commands(DATA, f"{WARM_SECONDS} {SECONDS}")


def prepare(folder):
    """(the initramfs, the image of a disk)"""
    return (contest.make_initramfs(os.path.join(folder, "redis.cpio"),
                                   {"bin/redis-load": PROGRAM}, ["virtio_pci"]),
            image.make(folder, "redis", PACKAGES))


def measure(guest):
    _, used = guest.expect(r"^redis: (?:used bytes=(\d+)|.*failed)", FILL_SECONDS)
    _, match = guest.expect(r"^redis: (?:load requests=(\d+) ns=(\d+) p99_ns=(\d+)|.*failed)",
                            FILL_SECONDS)
    if match.group(1) is None or used.group(1) is None:
        raise RuntimeError(f"{guest.contestant.name}: {match.group(0)}")
    return {
        RATE: int(match.group(1)) / (int(match.group(2)) / 1e9),
        "p99_ms": int(match.group(3)) / 1e6,
        "data_mib": int(used.group(1)) / (1 << 20),
    }
