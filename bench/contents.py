"""What is in guests' memory at a moment, read from the host: how many pages, how many different ones.

QEMU's: the mapping that is as large as the guest's memory, by /proc/PID/pagemap and /proc/PID/mem.
Aerostat's: the memfds of the VMs' memory and of the groups' frames, by /proc/PID/fd. That needs the
same user, or root where the host lets nobody else. While the guests run, a page may be counted as it was
a moment before or after another.
"""

import contextlib
import errno
import hashlib
import os
import struct

PAGE = 4096
ZERO = bytes(PAGE)
PIECE = 512  # pages read at once
PRESENT = 1 << 63
FRAME_NUMBER = (1 << 55) - 1


class Tally:
    """Pages by content, and the host's page frames that they are in, where these are known."""

    def __init__(self):
        self.pages = self.zero = 0
        self.contents = set()
        self.frames, self.zero_frames = set(), set()

    def add(self, page, frame=None):
        if page == ZERO:
            self.zero += 1
            if frame is not None:
                self.zero_frames.add(frame)
            return
        self.pages += 1
        self.contents.add(hashlib.blake2b(page, digest_size=16).digest())
        if frame is not None:
            self.frames.add(frame)

    @property
    def distinct(self):
        return len(self.contents)


def mapping_of(pid, size):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as stream:
        for line in stream:
            first, last = (int(word, 16) for word in line.split()[0].split("-"))
            if last - first == size:
                return first
    raise RuntimeError(f"process {pid} has no mapping of just {size} bytes")


def add_anonymous(tally, pid, size):
    """A process's private memory: QEMU's guest."""
    base = mapping_of(pid, size)
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap, \
            open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for first in range(0, size // PAGE, PIECE):
            count = min(PIECE, size // PAGE - first)
            entries = struct.unpack(f"{count}Q", os.pread(pagemap.fileno(), 8 * count,
                                                          (base // PAGE + first) * 8))
            if not any(entry & PRESENT for entry in entries):
                continue
            data = os.pread(memory.fileno(), count * PAGE, base + first * PAGE)
            for index, entry in enumerate(entries):
                if entry & PRESENT:
                    tally.add(data[index * PAGE:(index + 1) * PAGE], entry & FRAME_NUMBER)


def memfds(pids, name):
    """Paths of the memfds of that name that these processes have, each file once."""
    paths = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        for number in os.listdir(folder):
            path = os.path.join(folder, number)
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(path).split(" ")[0] == f"/memfd:{name}":
                    info = os.stat(path)
                    paths.setdefault((info.st_dev, info.st_ino), path)
    return list(paths.values())


def add_memfd(tally, path):
    """Pages of a file that take memory."""
    with open(path, "rb", buffering=0) as stream:
        number, at = stream.fileno(), 0
        while True:
            try:
                at = os.lseek(number, at, os.SEEK_DATA)
                end = os.lseek(number, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            while at < end:
                data = os.pread(number, min(PIECE * PAGE, end - at), at)
                if not data:
                    return
                for first in range(0, len(data), PAGE):
                    tally.add(data[first:first + PAGE])
                at += len(data)


def of_memfds(pids, *names):
    """What is in all memfds of those names that these processes have."""
    tally = Tally()
    for name in names:
        for path in memfds(pids, name):
            add_memfd(tally, path)
    return tally
