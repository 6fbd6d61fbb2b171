"""Garbage for the garbage kernel: seeded random programs, and running one in a VM.

Plain random bytes mostly fault at once and try few instructions. So the bytes are a mixture: noise,
random instructions of the widths x86 has (prefixes, one to three opcode bytes, VEX, ModRM), system
instructions, and constants that lead to tables, devices and borders.
"""

import os
import random
import struct
import subprocess
import time

import harness

MODES = ("real", "prot16", "prot32", "paging32", "pae", "long", "compat32", "compat16",
         "long-user", "prot-user")

PREFIXES = (0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, *range(0x40, 0x50))

SYSTEM = [bytes.fromhex(text) for text in """
    0f01d0 0f01d1 0f01f8 0f01f9 0f01ca 0f01cb 0f01ef 0f01c1 0f01d9 0f00d8 0f00d0 0f00c8 0f00c0
    0f0110 0f0118 0f0100 0f0108 0f0130 0f0138 0f20c0 0f22c0 0f20d8 0f22d8 0f20e0 0f22e0 0f20d0
    0f22d0 440f20c0 440f22c0 0f21f8 0f23f8 0f23c0 0f30 0f32 0f31 0f33 0f05 0f07 0f34 0f35 0fa2
    0f08 0f09 0f06 0f0b 0faa cf 48cf 66cf cb ca0800 f4 fa fb 9c 9d cc cd80 ce f1 0fae00 0fae08
    0fae20 0fae28 0fae30 0fae38 0fc700 0fc728 0fc720 660fc730 0fc7f0 0fc7f8 660f3880 660f3882
    8ed0 8ed8 8ee0 8ee8 0fb200 0fa9 0fa1 1f 07 17 61 60 c8100000 c9 d7 63c0 6c 6d 6e 6f e4f0 e664
    ec ed ee ef a4 a5 aa ab ac ad ae af a6 a7 f3a4 f3aa f3ab f2ae f36e f36f f36c 8c00 8e00 0f0200
    0f0300 0f0020 0f0028 f30fc7f8 0f18 0f1f00 90 f390 0f77 dbe3 9b d9e8 dfe0 d930 dd30 db28 df38
    0f10 66ea 66eb 0fc801 f00fb108 f0480fc708""".split()]

# Devices, tables, borders of pages, segments and the address space.
CONSTANTS = (0, 1, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x1FFFF, 0x90000,
             0xFFFFF, 0x100000, 0x102000, 0x3F8, 0xCF9, 0x600, 0x70, 0x7FFFFFFF, 0x80000000,
             0xC0000080, 0xC0000081, 0xC0000100, 0x1B, 0x174, 0x277, 0x6E0, 0x800, 0x80B, 0x830,
             0xD0000000, 0xD0000030, 0xD0000050, 0xD0000070, 0xD0000080, 0xD0001000, 0xD0002100,
             0xFEC00000, 0xFEC00010, 0xFEE00000, 0xFEE00020, 0xFEE000B0, 0xFEE00300, 0xFEE00380,
             0xFFFFF000, 0xFFFFFFFC, 0xFFFFFFFF, 0x4B564D00, 0x4B564D01)


def _instruction(source):
    code = b""
    while source.random() < 0.35:
        code += bytes([source.choice(PREFIXES)])
    kind = source.random()
    if kind < 0.45:
        code += bytes([source.randrange(256)])
    elif kind < 0.75:
        code += bytes([0x0F, source.randrange(256)])
    elif kind < 0.85:
        code += bytes([0x0F, source.choice((0x38, 0x3A)), source.randrange(256)])
    elif kind < 0.93:
        code += bytes([0xC5, source.randrange(256), source.randrange(256)])
    else:
        code += bytes([0xC4, source.randrange(1, 4) | 0xE0, source.randrange(256),
                       source.randrange(256)])
    return code + source.randbytes(source.randrange(1, 7))


def _constant(source):
    """mov register, constant; or a store to, or a load from, a constant address."""
    number = struct.pack("<I", source.choice(CONSTANTS) + source.choice((0, 0, 0, 4, 8, -1))
                         & 0xFFFFFFFF)
    kind = source.randrange(4)
    if kind < 2:
        return bytes([0xB8 + source.randrange(8)]) + number
    register = source.randrange(8) << 3
    if kind == 2:
        return bytes([source.choice((0x88, 0x89, 0x8A, 0x8B, 0x87, 0x01)), register | 5]) + number
    return bytes([0xC7, 0x04, 0x25]) + number + source.randbytes(4)


def program(seed, mode, size=65536):
    """The bytes of one garbage module. mode: index into MODES."""
    source = random.Random(seed)
    # Some inputs are all noise: that is what the name promises.
    noise_share = source.choice((0.05, 0.2, 1.0))
    chunks = []
    length = 0
    while length < size:
        draw = source.random()
        if draw < noise_share:
            chunk = source.randbytes(source.randrange(1, 64))
        elif draw < noise_share + (1 - noise_share) * 0.2:
            chunk = source.choice(SYSTEM)
        elif draw < noise_share + (1 - noise_share) * 0.4:
            chunk = _constant(source)
        else:
            chunk = _instruction(source)
        chunks.append(chunk)
        length += len(chunk)
    body = b"".join(chunks)[:size]
    return struct.pack("<II", mode, source.getrandbits(32)) + body


def run(kernel, folder, seed, mode, seconds, engine):
    """Runs one input for at most some seconds, with every kind of device there. Gives None, or what
    went wrong."""
    module = os.path.join(folder, "garbage.bin")
    disk = os.path.join(folder, "disk.img")
    with open(module, "wb") as stream:
        stream.write(program(seed, mode))
    if not os.path.exists(disk):
        with open(disk, "wb") as stream:
            stream.truncate(1 << 20)
    arguments = ["--engine", engine, "--kernel", kernel, "--initrd", module, "--memory", "16M", "--disk", disk,
                 "--net", "user", "--debug-exit", "--no-reboot", "--cpus", str(1 + seed % 2)]
    with harness.Vm(arguments, stdout=subprocess.DEVNULL) as vm:
        try:
            status = vm.process.wait(seconds)
        except subprocess.TimeoutExpired:
            vm.signal(harness.signal.SIGTERM)
            started = time.monotonic()
            try:
                status = vm.process.wait(harness.EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                return f"does not end by SIGTERM\n{vm.errors}"
            if time.monotonic() - started > 20:
                return "took more than 20 s to end by SIGTERM"
            if status != 128 + harness.signal.SIGTERM and status % 2 == 0 and status != 0:
                return f"status {status} after SIGTERM\n{vm.errors}"
        errors = vm.errors
        # 0: reset or power-off; odd: debug exit; 3 is a triple fault as well.
        allowed = status == 0 or status % 2 == 1 or status == 128 + harness.signal.SIGTERM
        if status < 0 or not allowed:
            return f"status {status}\n{errors[-3000:]}"
        if "Sanitizer" in errors or "runtime error" in errors or len(errors) > 8192:
            return f"status {status}, and said\n{errors[-6000:]}"
    return None
