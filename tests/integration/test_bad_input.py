#!/usr/bin/env python3
"""Mistakes and malice in options and files: one clear line, status 2, nothing started."""

import os
import random
import socket
import struct
import subprocess

import harness
import tiny_kernel
from harness import AEROSTAT, STATUS_USAGE, Vm


class Options(harness.TestCase):
    def good(self):
        kernel = self.make_file("kernel", tiny_kernel.multiboot(tiny_kernel.SPIN))
        return ["--kernel", kernel, "--memory", "16M"]

    def check_each(self, table):
        """table: (arguments after good ones, words that the line must have)."""
        good = self.good()
        for arguments, *words in table:
            with self.subTest(arguments=arguments):
                self.check_refused([*good, *arguments], *words)

    def test_no_command_and_unknown_command(self):
        for arguments in ([], ["frobnicate"], ["--frobnicate"]):
            done = subprocess.run([AEROSTAT, *arguments], capture_output=True, text=True,
                                  timeout=harness.EXIT_SECONDS, check=False)
            self.assertEqual((done.returncode, done.stdout), (STATUS_USAGE, ""))
            self.assertTrue(done.stderr)

    def test_help_and_version(self):
        for arguments, word in ((["--help"], "run"), (["run", "--help"], "--kernel"),
                                (["--version"], "aerostat")):
            done = subprocess.run([AEROSTAT, *arguments], capture_output=True, text=True,
                                  timeout=harness.EXIT_SECONDS, check=False)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(word, done.stdout)

    def test_kernel_is_needed(self):
        self.check_refused([], "--kernel")
        self.check_refused(["--memory", "64M"], "--kernel")

    def test_every_option_with_a_value_needs_one(self):
        for option in ("--kernel", "--initrd", "--append", "--memory", "--cpus", "--disk", "--net",
                       "--name", "--engine", "--code-cache", "--mmu", "--console", "--stats",
                       "--resident", "--balloon", "--swap-dir", "--swap-size", "--chaos"):
            with self.subTest(option=option):
                self.check_refused([*self.good(), option], option)

    def test_what_is_not_an_option(self):
        self.check_each([(["--frobnicate"], "--frobnicate"), (["extra"], "extra"),
                         (["-x"], "-x"), (["--debug-exit=yes"], "--debug-exit")])

    def test_memory(self):
        self.check_each([(["--memory", size], size) for size in (
            "0", "1", "4K", "1M", "-5M", "12X", "128M junk", "0x10", "1.5G", "1e9", "M",
            "999999G", "99999999999999999999", "18446744073709551617")])
        self.check_refused([*self.good(), "--memory", ""], "--memory")

    def test_code_cache(self):
        self.check_each([(["--code-cache", size], "--code-cache") for size in (
            "", "0", "1M", "2047K", "513M", "-2M", "much")])
        self.check_refused([*self.good(), "--code-cache", "2M", "--cpus", "16"], "4096K")

    def test_cpus(self):
        self.check_each([(["--cpus", count], "--cpus") for count in (
            "0", "-1", "17", "99999", "18446744073709551617", "two", "1.5", "", "1 ", "0x2")])

    def test_net(self):
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        self.check_each([(["--net", net], "") for net in (
            "", "bridge", "userx", "user,", "user,foo=1", "user,hostfwd", "user,hostfwd=",
            "user,hostfwd=tcp", "user,hostfwd=tcp:80", "user,hostfwd=tcp:80-",
            "user,hostfwd=tcp:-80", "user,hostfwd=sctp:1-2", "user,hostfwd=tcp:1-70000",
            "user,hostfwd=tcp:70000-1", "user,hostfwd=tcp:x-y", "user,hostfwd=tcp:8080-80x",
            "user,hostfwd=tcp:1.2.3-80", f"user,hostfwd=tcp:127.0.0.1:{port}-:80")])

    def test_names(self):
        self.check_each([(["--name", name], "--name") for name in (
            "", "a b", "a/b", "a\nb", "x" * 65, "x" * 300, "\u00e4", ".", "..", ".x", "-x",
            "../x", "/x", "x\x1b[2J")])

    def test_memory_that_is_taken_back(self):
        self.check_each([(["--resident", size], "--resident") for size in (
            "", "0", "4K", "17M", "-1", "much", "1.5M", "99999999999999999999")])
        self.check_each([(["--balloon", size], "--balloon") for size in (
            "", "16M", "17M", "-1", "half", "0x10")])
        self.check_each([(["--swap-size", size], "--swap-size") for size in (
            "", "5000G", "-1", "all")])
        self.check_each([(["--chaos", seed], "--chaos") for seed in (
            "", "-1", "1.5", "seed", "18446744073709551616")])
        self.check_each([(["--swap-dir", ""], "--swap-dir"), (["--detach=1"], "--detach")])

    def test_names_that_are_not_known(self):
        self.check_each([(["--engine", "kvm"], "kvm"),
                         (["--mmu", "none"], "none"), (["--engine", ""], "--engine")])

    def test_files_that_cannot_be_written(self):
        missing = self.path("missing/file")
        self.check_each([(["--stats", missing], missing), (["--console", missing], missing),
                         (["--stats", self.folder], self.folder),
                         (["--console", self.folder], self.folder),
                         (["--stats", ""], "--stats"), (["--console", ""], "--console")])

    def test_command_line_too_long(self):
        for append in ("x" * 5000, "x" * 100000):
            self.check_refused(["--kernel", harness.kernel(), "--memory", "128M",
                                "--append", append])


class Files(harness.TestCase):
    def check_kernel(self, data, *words, memory="64M", name="kernel"):
        kernel = self.make_file(name, data)
        self.check_refused(["--kernel", kernel, "--memory", memory], kernel, *words)

    def test_kernels_that_are_none(self):
        noise = random.Random(1)
        for data in (b"", b"M", b"MZ", b"\x7fELF", b"text\n" * 1000, bytes(4096), bytes(1 << 20),
                     noise.randbytes(100), noise.randbytes(300000)):
            with self.subTest(size=len(data), start=data[:8]):
                self.check_kernel(data)

    def test_kernel_paths(self):
        missing = self.path("missing")
        self.check_refused(["--kernel", missing], missing)
        self.check_refused(["--kernel", self.folder], self.folder)
        pipe = self.path("pipe")
        os.mkfifo(pipe)
        self.check_refused(["--kernel", pipe], pipe)
        self.check_refused(["--kernel", "/dev/null"], "/dev/null")
        self.check_refused(["--kernel", "/dev/zero"], "/dev/zero")
        if os.geteuid() != 0:
            secret = self.make_file("secret", tiny_kernel.multiboot(tiny_kernel.SPIN))
            os.chmod(secret, 0)
            self.check_refused(["--kernel", secret], secret)

    def test_truncated_bzimage(self):
        with open(harness.kernel(), "rb") as stream:
            whole = stream.read()
        for size in (512, 0x1f1, 0x202, 0x250, 1024, 16384, 20000, len(whole) // 2,
                     len(whole) - 120000):
            with self.subTest(size=size):
                self.check_kernel(whole[:size], memory="128M")

    def test_hostile_bzimage(self):
        """One field of the setup header at a time: sizes and offsets that lead out of the file."""
        with open(harness.kernel(), "rb") as stream:
            whole = bytearray(stream.read())
        patches = [(0x1F1, "<B", 255), (0x202, "<H", 0x100), (0x211, "<B", 0),
                   (0x248, "<I", 0xFFFFFFFF), (0x24C, "<I", 0xFFFFFFFF), (0x24C, "<I", 0),
                   (0x248, "<I", 0x7FFFFFFF), (0x248, "<I", 1)]
        for offset, form, value in patches:
            with self.subTest(offset=hex(offset), value=value):
                patched = whole[:]
                struct.pack_into(form, patched, offset, value)
                self.check_kernel(patched, memory="128M")

    def test_damaged_payload(self):
        """Bytes of the compressed kernel changed: refused, or a guest that fails by itself."""
        with open(harness.kernel(), "rb") as stream:
            whole = bytearray(stream.read())
        noise = random.Random(2)
        setup = (whole[0x1F1] + 1) * 512
        payload = setup + struct.unpack_from("<I", whole, 0x248)[0]
        for position in (payload, payload + 4, payload + 5000, len(whole) // 2):
            damaged = whole[:]
            damaged[position:position + 64] = noise.randbytes(64)
            with self.subTest(position=position):
                kernel = self.make_file("kernel", damaged)
                with Vm(["--kernel", kernel, "--memory", "128M", "--no-reboot"]) as vm:
                    try:
                        status = vm.process.wait(3)
                    except subprocess.TimeoutExpired:
                        vm.signal(harness.signal.SIGTERM)
                        status = vm.wait(harness.EXIT_SECONDS)
                    self.assertIn(status, (0, STATUS_USAGE, harness.STATUS_SHUTDOWN, 128 + 15),
                                  vm.report())

    def test_hostile_elf(self):
        spin = tiny_kernel.SPIN
        big = 0xFFFFF000
        for maker in (tiny_kernel.multiboot, tiny_kernel.elf64):
            huge = big if maker is tiny_kernel.multiboot else 0xFFFFFFFFFFFFF000
            for fields in ({"phoff": huge}, {"phnum": 65535}, {"phentsize": 1},
                           {"offset": huge}, {"filesz": huge}, {"filesz": 1 << 20},
                           {"memsz": huge}, {"memsz": 1}, {"memsz": 1 << 30}, {"paddr": huge},
                           {"paddr": 64 << 20}, {"paddr": (64 << 20) - 1}, {"phnum": 0},
                           {"entry": huge}, {"paddr": 0}, {"filesz": huge, "memsz": huge}):
                with self.subTest(kernel=maker.__name__, **fields):
                    self.check_kernel(maker(spin, **fields))
        # Headers that end inside themselves.
        for maker in (tiny_kernel.multiboot, tiny_kernel.elf64):
            whole = maker(spin)
            for size in (5, 16, 40, 52, 60, 64, 83, len(whole) - 1):
                with self.subTest(kernel=maker.__name__, size=size):
                    self.check_kernel(whole[:size])

    def test_memory_too_small_for_the_kernel(self):
        for memory in ("2M", "8M", "16M", "24M"):
            with self.subTest(memory=memory):
                self.check_refused(["--kernel", harness.kernel(), "--memory", memory], "memory")

    def test_initrd(self):
        kernel = harness.kernel()
        huge = self.make_file("huge")
        os.truncate(huge, 512 << 20)
        absurd = self.make_file("absurd")
        os.truncate(absurd, 1 << 40)
        missing = self.path("missing")
        pipe = self.path("pipe")
        os.mkfifo(pipe)
        for initrd in (huge, absurd, missing, self.folder, pipe):
            with self.subTest(initrd=initrd):
                self.check_refused(["--kernel", kernel, "--memory", "128M", "--initrd", initrd],
                                   initrd)
        tiny = self.make_file("kernel", tiny_kernel.multiboot(tiny_kernel.SPIN))
        self.check_refused(["--kernel", tiny, "--memory", "16M", "--initrd", huge], huge)


class Disks(harness.TestCase):
    def good(self):
        code = tiny_kernel.serial(b"up\n") + tiny_kernel.SPIN
        return ["--kernel", self.make_file("kernel", tiny_kernel.multiboot(code)),
                "--memory", "16M"]

    def test_disk_paths(self):
        pipe = self.path("pipe")
        os.mkfifo(pipe)
        for disk in (self.path("missing"), self.folder, pipe, "/dev/zero", "/dev/tty"):
            for suffix in ("", ",ro"):
                with self.subTest(disk=disk, suffix=suffix):
                    self.check_refused([*self.good(), "--disk", disk + suffix], disk)
        self.check_refused([*self.good(), "--disk", ""], "--disk")
        self.check_refused([*self.good(), "--disk", ",ro"], "--disk")
        if os.geteuid() != 0:
            secret = self.make_file("secret", bytes(4096))
            os.chmod(secret, 0o444)
            self.check_refused([*self.good(), "--disk", secret], secret)
            os.chmod(secret, 0)
            self.check_refused([*self.good(), "--disk", secret + ",ro"], secret)

    def test_too_many_disks(self):
        disks = []
        for number in range(64):
            disks += ["--disk", self.make_file(f"disk{number}", bytes(4096))]
        self.check_refused([*self.good(), *disks], "--disk")

    def test_a_disk_of_another_vm(self):
        """Two writers, or a writer and a reader, are refused; readers share; ends release."""
        disk = self.make_file("disk.img", bytes(1 << 20))
        with Vm([*self.good(), "--disk", disk]) as vm:
            vm.expect("up", harness.EXIT_SECONDS)
            self.check_refused([*self.good(), "--disk", disk], disk)
            self.check_refused([*self.good(), "--disk", disk + ",ro"], disk)
            vm.signal(harness.signal.SIGKILL)
            vm.wait(harness.EXIT_SECONDS)
        with Vm([*self.good(), "--disk", disk + ",ro"]) as first:
            first.expect("up", harness.EXIT_SECONDS)
            with Vm([*self.good(), "--disk", disk + ",ro"]) as second:
                second.expect("up", harness.EXIT_SECONDS)
                self.check_refused([*self.good(), "--disk", disk], disk)
        self.check_refused([*self.good(), "--disk", disk, "--disk", disk], disk)


if __name__ == "__main__":
    harness.main()
