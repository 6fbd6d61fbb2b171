#!/usr/bin/env python3
"""Writes the seeds of the virtqueue fuzzer: one well-formed conversation per device and ring
layout, in the operations of fuzz_virtqueue.c. Usage: make_corpus.py FOLDER"""

import pathlib
import struct
import sys

NEXT, WRITE, INDIRECT, AVAIL = 1, 2, 4, 8
HEADER_GPA, STATUS_GPA, DATA_GPA, TABLE = 0x18000, 0x18100, 0x19000, 2


def setup(without):
    return bytes([0, without])


def descriptor(where, index, gpa, length, flags, following):
    return bytes([1, where, index]) + struct.pack("<I", gpa)[:3] + struct.pack(
        "<HBB", length, flags, following)


def offer(queue, head):
    return bytes([2, queue, head])


def poke(gpa, data):
    return bytes([3]) + struct.pack("<I", gpa)[:3] + bytes([len(data)]) + data


def header(kind, sector):
    return bytes([4, kind]) + struct.pack("<H", sector)


def notify(queue):
    return bytes([7, queue, 8])


def read(offset):
    return bytes([6]) + struct.pack("<H", offset | 2 << 12)


def write(offset, value):
    return bytes([5]) + struct.pack("<HI", offset | 2 << 12, value)


def frame(length):
    return bytes([9]) + struct.pack("<H", length)


WATCH, TARGET = 0x4100, 0x0108  # of a balloon, and some time


def balloon(operand):
    return bytes([9]) + struct.pack("<H", operand)


def chain(queue, buffers, packed, indirect):
    """Descriptors for (gpa, length, flags) buffers, made available."""
    ring = queue if queue < 2 else 9 + queue - 2  # as fuzz_virtqueue.c names them
    where = TABLE if indirect else ring
    out = b""
    for i, (gpa, length, flags) in enumerate(buffers):
        last = i == len(buffers) - 1
        flags |= 0 if last or (packed and indirect) else NEXT
        if packed and not indirect:
            flags |= AVAIL
        out += descriptor(where, i, gpa, length, flags, 0 if packed else i + 1)
    if indirect:
        out += descriptor(ring, 0, 0, 16 * len(buffers), INDIRECT | (AVAIL if packed else 0), 0)
    return out if packed else out + offer(queue, 0)


def disk_request(kind, sector, data, packed, indirect):
    buffers = [(HEADER_GPA, 16, 0)] + data + [(STATUS_GPA, 1, WRITE)]
    return header(kind, sector) + chain(0, buffers, packed, indirect) + notify(0)


def seeds():
    zero_range = struct.pack("<QII", 8, 8, 0)
    for mode in range(8):
        packed, indirect = not mode & 1, not mode & 4
        begin = setup(mode | 5 << 4)
        for name, device in (("disk", 0), ("readonly", 1)):
            requests = {
                "read": (0, 1, [(DATA_GPA, 4096, WRITE)]),
                "write": (1, 1, [(DATA_GPA, 512, 0), (DATA_GPA + 600, 512, 0)]),
                "flush": (4, 0, []),
                "identify": (8, 0, [(DATA_GPA, 20, WRITE)]),
                "discard": (11, 0, [(DATA_GPA, 16, 0)]),
                "zeroes": (13, 0, [(DATA_GPA, 16, 0)]),
            }
            for what, (kind, sector, data) in requests.items():
                if device == 1 and what not in ("read", "write"):
                    continue
                yield f"{name}-{what}-{mode}", bytes([device]) + begin + poke(
                    DATA_GPA, zero_range) + disk_request(kind, sector, data, packed, indirect)
        receive = chain(0, [(DATA_GPA, 2048, WRITE)], packed, indirect) + notify(0)
        transmit = chain(1, [(DATA_GPA, 12, 0), (DATA_GPA + 12, 300, 0)], packed, indirect)
        yield f"console-{mode}", bytes([2]) + begin + receive + transmit + notify(1)
        pages = poke(DATA_GPA, struct.pack("<5I", 0x1b, 0x1a, 0x1d, 0x1b, 0x7fffffff))
        taken = chain(0, [(DATA_GPA, 20, 0)], packed, indirect) + notify(0)
        given = chain(1, [(DATA_GPA, 16, 0)], packed, indirect) + notify(1)
        entries = b"".join(struct.pack("<HQ", tag, 1000 + tag) for tag in (4, 5, 15, 99))
        told = poke(DATA_GPA, entries) + chain(2, [(DATA_GPA, 40, 0)], packed, False) + notify(2)
        free = chain(3, [(0x1c000, 0x3000, WRITE)], packed, False) + notify(3)
        yield f"balloon-{mode}", bytes([4]) + begin + balloon(TARGET) + pages + taken + given
        yield f"balloon-stats-{mode}", bytes([4]) + begin + told + balloon(WATCH) * 3
        yield f"balloon-report-{mode}", bytes([4]) + begin + pages + free + taken
        yield f"net-{mode}", bytes([3]) + begin + receive + transmit + notify(1) + frame(200)
    yield "registers", bytes([0]) + b"".join(read(i) for i in range(0, 0x140, 4))
    yield "reset", bytes([3]) + setup(0x51) + frame(100) + write(0x70, 0) + setup(0x50) + frame(9)


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, data in seeds():
        (folder / name).write_bytes(data)


main()
