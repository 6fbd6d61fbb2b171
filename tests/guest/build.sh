#!/bin/sh
# Builds one test kernel: build.sh CC BITS OUTPUT NAME SOURCE...
# It is freestanding and linked at a fixed address; a 64-bit one is put into an ELF32 file, because
# multiboot 1 knows no other.
set -eu
cc=$1 bits=$2 output=$3 name=$4
shift 4
here=$(dirname "$0")
work="$output.d"
mkdir -p "$work"
objects=
for source in "$@"; do
    object="$work/$(basename "$source").o"
    $cc "-m$bits" -std=gnu17 -O2 -g0 -ffreestanding -nostdlib -nostdinc \
        -isystem "$($cc -print-file-name=include)" \
        -fno-pic -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables -mno-red-zone \
        -mgeneral-regs-only -fcf-protection=none -fno-strict-aliasing -fno-builtin \
        -fno-tree-loop-distribute-patterns \
        -Wall -Wextra -Wa,--noexecstack -I "$here" -c "$source" -o "$object"
    objects="$objects $object"
done
emulation=elf_i386
[ "$bits" = 64 ] && emulation=elf_x86_64
# shellcheck disable=SC2086 # a list of objects
ld -m "$emulation" -static -nostdlib --build-id=none -z max-page-size=4096 -z noexecstack \
    --no-warn-rwx-segments -T "$here/guest.ld" -o "$work/$name" $objects
objcopy -O elf32-i386 "$work/$name" "$output"
