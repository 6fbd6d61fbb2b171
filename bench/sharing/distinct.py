"""The least memory that the pages of some VMs could be kept in: how many contents they have, all
zeros not counted. Reads the VMs' RAM and the group's frames from outside, which needs the same user
(or root, where the host lets nobody else); the VMs should stand still meanwhile."""

import hashlib
import os
from dataclasses import dataclass, field

import counts

PAGE = 4096
CHUNK = 256 * PAGE
ZERO = bytes(PAGE)


@dataclass
class Contents:
    """Of files that were added: pages that are not zero, and what is in them."""
    pages: int = 0
    distinct: set = field(default_factory=set)

    def add(self, descriptor):
        """Gives how many pages were added."""
        before, offset, end = self.pages, 0, os.fstat(descriptor).st_size
        while offset < end:
            try:
                offset = os.lseek(descriptor, offset, os.SEEK_DATA)
                hole = os.lseek(descriptor, offset, os.SEEK_HOLE)
            except OSError:  # nothing but holes from here on
                break
            while offset < hole:
                block = os.pread(descriptor, min(CHUNK, hole - offset), offset)
                if not block:
                    break
                self.add_pages(block)
                offset += len(block)
        return self.pages - before

    def add_pages(self, block):
        for at in range(0, len(block), PAGE):
            page = block[at:at + PAGE]
            if page != ZERO:
                self.pages += 1
                self.distinct.add(hashlib.blake2b(page, digest_size=16).digest())


def descriptors_of(pid, name):
    """Open files of a process whose memfd has that name, by what it is: each once."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{number}"
        try:
            if os.readlink(path).startswith(f"/memfd:{name}"):
                about = os.stat(path)
                found[(about.st_dev, about.st_ino)] = path
        except OSError:
            continue
    return found


def contents_of(pids, private, frames):
    """Of the VMs' own pages and the frames that they share, by the names of their memfds."""
    contents, files = Contents(), {}
    for pid in pids:
        for name in (private, frames):
            files.update(descriptors_of(pid, name))
    for path in files.values():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            contents.add(descriptor)
        finally:
            os.close(descriptor)
    return contents


def bound_of(host):
    """Stops a fleet's VMs, and compares what is shared with what could be."""
    for name in host.vms:
        host.aerostat("pause", name)
    status = host.status()
    contents = contents_of([vm["pid"] for vm in status["vms"]], "aerostat-ram", "aerostat-pool")
    sample = counts.sample_of(status)
    # What is in frames is there once, and in the VMs more often.
    in_use = contents.pages - status["host"]["frames"] + sample.shared // PAGE
    return {"pages": in_use, "distinct": len(contents.distinct),
            "kept": contents.pages, "frames": status["host"]["frames"],
            "reclaimed_possible": 100 * (1 - len(contents.distinct) / max(in_use, 1)),
            "reclaimed_then": 100 * (1 - contents.pages / max(in_use, 1))}
