"""Multiboot kernels of a few bytes, made here: guests that need no compiler and no seconds.

They start in 32-bit protected mode without paging at 1 MiB, with no interrupt table, so that any
exception is a triple fault.
"""

import struct

ENTRY = 0x100000
MULTIBOOT_MAGIC = 0x1BADB002

SPIN = b"\xeb\xfe"  # jmp $
HALT = b"\xf4\xeb\xfd"  # hlt; jmp to it
TRIPLE_FAULT = b"\x0f\x0b"  # ud2
RESET = b"\x66\xba\xf9\x0c\xb0\x06\xee" + SPIN  # mov dx, 0xcf9; mov al, 6; out dx, al


def debug_exit(value):
    return b"\xb8" + struct.pack("<I", value) + b"\xe7\xf4"  # mov eax, value; out 0xf4, eax


def serial(text):
    """Code that prints on the first serial port; the UART takes bytes as fast as they come."""
    code = b"\x66\xba\xf8\x03"  # mov dx, 0x3f8
    for byte in text:
        code += bytes([0xB0, byte, 0xEE])  # mov al, byte; out dx, al
    return code


def multiboot(code, *, flags=0, magic=MULTIBOOT_MAGIC, checksum=None, **fields):
    """A 32-bit ELF with a multiboot header. Named fields replace those of the ELF and program
    headers, for hostile files: phoff, phnum, phentsize, entry, offset, paddr, filesz, memsz."""
    if checksum is None:
        checksum = -(magic + flags) & 0xFFFFFFFF
    body = struct.pack("<III", magic, flags, checksum) + code
    headers = 52 + 32
    values = {"phoff": 52, "phnum": 1, "phentsize": 32, "entry": ENTRY + 12, "offset": headers,
              "paddr": ENTRY, "filesz": len(body), "memsz": len(body), **fields}
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    elf = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, values["entry"], values["phoff"], 0, 0,
                              52, values["phentsize"], values["phnum"], 0, 0, 0)
    program = struct.pack("<IIIIIIII", 1, values["offset"], values["paddr"], values["paddr"],
                          values["filesz"], values["memsz"], 7, 4096)
    return elf + program + body


def elf64(code, **fields):
    """A 64-bit ELF (a vmlinux by its looks) with one segment at 1 MiB; fields as above."""
    headers = 64 + 56
    values = {"phoff": 64, "phnum": 1, "phentsize": 56, "entry": ENTRY, "offset": headers,
              "paddr": ENTRY, "filesz": len(code), "memsz": len(code), **fields}
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, values["entry"], values["phoff"], 0, 0,
                              64, values["phentsize"], values["phnum"], 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 7, values["offset"], values["paddr"], values["paddr"],
                          values["filesz"], values["memsz"], 4096)
    return elf + program + code
