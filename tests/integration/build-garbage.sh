#!/bin/sh
# Assembles and links the garbage kernel: build-garbage.sh CC SOURCE OUTPUT
# It has code of all widths: linked as 64-bit, then put into an ELF32 file for multiboot 1.
set -eu
$1 -m64 -c -Wa,--noexecstack "$2" -o "$3.o"
ld -m elf_x86_64 -static -nostdlib --build-id=none -z max-page-size=4096 -z noexecstack \
    --no-warn-rwx-segments -Ttext 0x102000 --section-start=.multiboot=0x101000 -e _start \
    -o "$3.64" "$3.o"
objcopy -O elf32-i386 "$3.64" "$3"
