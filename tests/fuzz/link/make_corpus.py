#!/usr/bin/env python3
"""Writes the seeds of fuzz_link: conversations of a VM with the manager, right ones and wrong ones.
Usage: make_corpus.py FOLDER"""

import ctypes
import pathlib
import struct
import sys

HELLO, HOLDS, READY, OFFER, DROP, REPORT = range(1, 7)
KEY = 0x1122334455667788
_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
_xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def message(kind, body=b"", count=1, flags=0):
    data = struct.pack("<II", kind, count) + body
    return struct.pack("<HB", len(data), flags) + data


def hello(flags=1, pool_key=0, span=64, group=b"g"):
    return message(HELLO, struct.pack("<II65s65s2xIQQQQQ", 1, 1, b"fuzz", group, 0, 0, 64 * 4096,
                                      span, 1 << 20, pool_key), flags=flags)


def refs(kind, *pairs):
    return message(kind, b"".join(struct.pack("<II", *pair) for pair in pairs), len(pairs))


def offers(*pages):
    """(PPN, content) each"""
    body = b"".join(struct.pack("<QII", _xxhash.XXH3_64bits_withSeed(bytes([content]) * 4096, 4096,
                                                                      KEY), ppn, 0)
                    for ppn, content in pages)
    return message(OFFER, body, len(pages))


ready = message(READY, count=0)
report = message(REPORT, bytes(176))
joined = hello() + ready
seeds = {
    "join": joined + report,
    "share": joined + offers((1, 1), (17, 1), (33, 1)) + refs(DROP, (1, 2), (33, 2)),
    "share_with_other": joined + offers((7, 7), (23, 7)) + refs(DROP, (7, 1)) + offers((7, 7)),
    "hints": joined + offers(*[(ppn, ppn % 16) for ppn in range(64)]) + report,
    "stale": joined + offers((1, 9), (2, 9), (9, 9), (1, 1)),
    "twice": joined + offers((7, 7)) + refs(DROP, (7, 1), (7, 1)),
    "restart": hello(flags=6, pool_key=KEY) + refs(HOLDS, (3, 1), (4, 1)) + ready + report
               + refs(DROP, (3, 1)),
    "held_twice": hello(flags=6, pool_key=KEY) + refs(HOLDS, (3, 1), (3, 1)),
    "wrong_pool": hello(flags=2, pool_key=KEY) + refs(HOLDS, (3, 1)) + ready + report,
    "other_group": hello(group=b"h") + ready + offers((7, 7), (23, 7)),
    "alone": hello(group=b"") + ready + offers((7, 7), (23, 7)) + report,
    "foreign": joined + offers((64, 1)),
    "out_of_order": ready + joined,
    "half": joined + struct.pack("<HB", 4, 0) + bytes(4),
}
folder = pathlib.Path(sys.argv[1])
for name, data in seeds.items():
    (folder / name).write_bytes(data)
