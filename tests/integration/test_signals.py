#!/usr/bin/env python3
"""Signals at any moment, and the terminal: it is put back whatever ends the VM."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

import harness
import tiny_kernel
from harness import AEROSTAT, Vm


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{int(entry)}/stat", encoding="utf-8", errors="replace") as stream:
                if int(stream.read().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry))
    return found


def shared_memory():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


class Terminal:
    """A VM on a terminal of its own (a pty), as a user at a keyboard has it."""

    def __init__(self, arguments):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [AEROSTAT, "run", *arguments], stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.output = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in children_of(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def expect(self, pattern, seconds=harness.EXIT_SECONDS):
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.output):
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {pattern!r} in {self.output!r}")
            if select.select([self.master], [], [], min(left, 1))[0]:
                self.output += os.read(self.master, 65536)

    def wait(self):
        # Someone must read what is printed, or the restoring of the terminal waits for it.
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.05)[0]:
                self.output += os.read(self.master, 65536)
        return self.process.wait(1)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO)

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before


class Signals(harness.TestCase):
    def spinning(self):
        code = tiny_kernel.serial(b"spinning\n") + tiny_kernel.SPIN
        return ["--kernel", self.make_file("kernel", tiny_kernel.multiboot(code)),
                "--memory", "16M"]

    def test_each_signal_ends_the_vm(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(signal=number.name), Vm(self.spinning()) as vm:
                vm.expect("spinning", harness.EXIT_SECONDS)
                vm.signal(number)
                self.assertEqual(vm.wait(harness.EXIT_SECONDS), 128 + number, vm.report())
                self.assertLessEqual(vm.errors.count("\n"), 1, vm.report())

    def test_nobody_polls_for_signals(self):
        """A signalfd that is polled wakes its thread for each fault of the window."""
        with Vm(self.spinning()) as vm:
            vm.expect("spinning", harness.EXIT_SECONDS)
            for pid in (vm.pid, *children_of(vm.pid)):
                folder = f"/proc/{pid}/fd"
                files = [os.readlink(os.path.join(folder, fd)) for fd in os.listdir(folder)]
                self.assertIn("anon_inode:[eventpoll]", " ".join(files))
                self.assertNotIn("signalfd", " ".join(files))

    def test_signals_during_a_boot_leave_nothing_behind(self):
        """From the first instruction of the program on: it ends, soon, and leaves no file."""
        folder = self.path("cwd")
        os.mkdir(folder)
        shared = shared_memory()
        # A guest that does not end by itself: whatever moment the delay hits, the end is the same.
        arguments = harness.boot_arguments("sleep 100000")
        for delay in (0, 0.002, 0.01, 0.03, 0.1, 0.3, 1, 3):
            with self.subTest(delay=delay), Vm(arguments, cwd=folder) as vm:
                time.sleep(delay)
                vm.signal(signal.SIGTERM)
                # Before the program takes signals over, one kills it: as good an end.
                self.assertIn(vm.wait(harness.EXIT_SECONDS), (128 + 15, -15), vm.report())
        self.assertEqual(os.listdir(folder), [])
        self.assertEqual(shared_memory() - shared, set())

    def test_terminal_is_restored_after_every_end(self):
        enders = {
            "Ctrl-] q": lambda vm: os.write(vm.master, b"\x1dq"),
            "SIGTERM": lambda vm: vm.process.send_signal(signal.SIGTERM),
            "SIGINT": lambda vm: vm.process.send_signal(signal.SIGINT),
            "SIGHUP": lambda vm: vm.process.send_signal(signal.SIGHUP),
            "SIGKILL of the VM": lambda vm: os.kill(children_of(vm.process.pid)[0],
                                                    signal.SIGKILL),
        }
        for name, end in enders.items():
            with self.subTest(end=name), Terminal(self.spinning()) as vm:
                vm.expect(rb"spinning")
                self.assertIn(b"Ctrl-]", vm.output)
                self.assertTrue(vm.is_raw())
                children = children_of(vm.process.pid)
                end(vm)
                status = vm.wait()
                self.assertTrue(vm.is_restored(), vm.output)
                if name == "Ctrl-] q":
                    self.assertEqual(status, 0)
                else:
                    self.assertNotEqual(status, 0)
                for child in children:
                    self.assertFalse(os.path.exists(f"/proc/{child}"), "the VM is still there")

    def test_terminal_is_restored_after_guest_ends(self):
        for code, expected in ((tiny_kernel.debug_exit(3), 7), (tiny_kernel.TRIPLE_FAULT, 3)):
            kernel = self.make_file("kernel", tiny_kernel.multiboot(code))
            with self.subTest(status=expected), \
                    Terminal(["--kernel", kernel, "--memory", "16M", "--debug-exit"]) as vm:
                self.assertEqual(vm.wait(), expected, vm.output)
                self.assertTrue(vm.is_restored())

    def test_terminal_input_reaches_the_guest(self):
        """An echo in a few bytes: poll the line status register, send back what comes in."""
        # The line sends only while the guest says that it is ready: DTR and RTS first.
        code = (b"\x66\xba\xfc\x03\xb0\x03\xee"  # mov dx, 0x3fc; mov al, 3; out dx, al
                b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7"  # mov dx, 0x3fd; in al, dx; test 1; jz
                b"\x66\xba\xf8\x03\xec\x34\x20\xee"  # mov dx, 0x3f8; in al, dx; xor 0x20; out
                b"\xeb\xed")  # jmp to the poll
        kernel = self.make_file(
            "kernel", tiny_kernel.multiboot(tiny_kernel.serial(b"ready\n") + code))
        with Terminal(["--kernel", kernel, "--memory", "16M"]) as vm:
            vm.expect(rb"ready")
            # Control characters are the guest's, not signals of this side's terminal.
            os.write(vm.master, b"abc\x03")
            vm.expect(rb"ABC#")
            os.write(vm.master, b"\x1d\x1d")
            vm.expect(rb"=")
            self.assertIsNone(vm.process.poll())


if __name__ == "__main__":
    harness.main()
