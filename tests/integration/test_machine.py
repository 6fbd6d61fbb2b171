#!/usr/bin/env python3
"""How a VM ends, and its console: with kernels of a few bytes, in both entry modes."""

import json
import os
import subprocess
import time

import harness
import tiny_kernel
from harness import STATUS_FAILURE, STATUS_OK, STATUS_SHUTDOWN, Vm


class Machine(harness.TestCase):
    def tiny(self, code, maker=tiny_kernel.multiboot):
        return ["--kernel", self.make_file("kernel", maker(code)), "--memory", "16M"]

    def test_debug_exit_gives_the_status(self):
        for value in (0, 1, 33, 127):
            for maker in (tiny_kernel.multiboot, tiny_kernel.elf64):
                with self.subTest(value=value, kernel=maker.__name__):
                    arguments = self.tiny(tiny_kernel.debug_exit(value), maker)
                    status, console, errors = self.run_vm([*arguments, "--debug-exit"],
                                                          harness.EXIT_SECONDS)
                    self.assertEqual((status, console, errors), (value << 1 | 1, "", ""))

    def test_debug_exit_port_is_there_only_when_asked_for(self):
        arguments = self.tiny(tiny_kernel.debug_exit(5) + tiny_kernel.RESET)
        self.assertEqual(self.run_vm([*arguments, "--no-reboot"], harness.EXIT_SECONDS),
                         (STATUS_OK, "", ""))

    def test_triple_fault_prints_the_state(self):
        for maker, rip in ((tiny_kernel.multiboot, 0x100011), (tiny_kernel.elf64, 0x100005)):
            with self.subTest(kernel=maker.__name__):
                marked = b"\xb8\x34\x12\xad\xde" + tiny_kernel.TRIPLE_FAULT  # mov eax, 0xdead1234
                status, console, errors = self.run_vm(self.tiny(marked, maker),
                                                      harness.EXIT_SECONDS)
                self.assertEqual((status, console), (STATUS_SHUTDOWN, ""))
                self.assertIn("triple fault", errors)
                self.assertIn("dead1234", errors)
                self.assertIn(f"{rip:x}", errors)

    def test_serial_output_of_all_bytes(self):
        data = bytes(range(256)) * 8
        kernel = self.tiny(tiny_kernel.serial(data) + tiny_kernel.debug_exit(0))
        with Vm([*kernel, "--debug-exit"]) as vm:
            self.assertEqual(vm.wait(harness.EXIT_SECONDS), 1, vm.report())
            self.assertEqual(vm._console, data)

    def test_reset_restarts_and_counts(self):
        """The kernel resets for ever; a signal ends it. Restarts must not pile anything up."""
        stats = self.path("stats.json")
        arguments = self.tiny(tiny_kernel.serial(b"up\n") + tiny_kernel.RESET)
        with Vm([*arguments, "--stats", stats]) as vm:
            vm.expect(r"up\nup\nup\n", harness.EXIT_SECONDS)
            few = len(os.listdir(f"/proc/{vm.pid}/fd"))
            vm.expect(r"(up\n){30}", harness.EXIT_SECONDS)
            # A restart in progress has some descriptors more or less than one in full run.
            self.assertLess(len(os.listdir(f"/proc/{vm.pid}/fd")), few + 25)
            vm.signal(harness.signal.SIGTERM)
            self.assertEqual(vm.wait(harness.EXIT_SECONDS), 128 + 15, vm.report())
        with open(stats, encoding="utf-8") as stream:
            # 30 machines have printed; the 30th may not have got to its reset.
            self.assertGreaterEqual(json.load(stream)["resets"], 29)

    def test_halt_waits_without_using_the_cpu(self):
        with Vm(self.tiny(tiny_kernel.serial(b"halting\n") + tiny_kernel.HALT)) as vm:
            vm.expect("halting", harness.EXIT_SECONDS)

            def ticks():
                with open(f"/proc/{vm.pid}/stat", encoding="ascii") as stream:
                    fields = stream.read().rsplit(")", 1)[1].split()
                return int(fields[11]) + int(fields[12])

            before = ticks()
            time.sleep(1)
            used = (ticks() - before) / os.sysconf("SC_CLK_TCK")
            self.assertLess(used, 0.5, "CPU seconds in one second of HLT")

    def test_closed_standard_output(self):
        """Closed before the start: refused. Its reader gone while running: the VM goes on."""
        arguments = self.tiny(tiny_kernel.debug_exit(0))
        command = 'exec "$@" >&-'
        done = subprocess.run(["sh", "-c", command, "sh", harness.AEROSTAT, "run", *arguments],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              timeout=harness.EXIT_SECONDS, check=False)
        self.assertEqual(done.returncode, harness.STATUS_USAGE, done.stderr)
        self.assertRegex(done.stderr, r"\Aaerostat: [^\n]+\n\Z")

        reader, writer = os.pipe()
        os.close(reader)
        text = tiny_kernel.serial(b"nobody reads this\n" * 100)
        with os.fdopen(writer, "wb") as stdout:
            kernel = self.tiny(text + tiny_kernel.debug_exit(0))
            with Vm([*kernel, "--debug-exit"], stdout=stdout) as vm:
                self.assertEqual(vm.wait(harness.EXIT_SECONDS), 1, vm.report())

    def test_console_that_nobody_empties(self):
        """A full pipe holds the guest's serial port up, but never the end of the VM."""
        reader, writer = os.pipe()
        try:
            endless = tiny_kernel.serial(b"0123456789" * 64)
            loop = endless + b"\xe9" + (-len(endless) - 5).to_bytes(4, "little", signed=True)
            with os.fdopen(writer, "wb") as stdout:
                with Vm(self.tiny(loop), stdout=stdout) as vm:
                    os.read(reader, 1000)
                    time.sleep(0.5)
                    vm.signal(harness.signal.SIGTERM)
                    self.assertEqual(vm.wait(harness.EXIT_SECONDS), 128 + 15, vm.report())
        finally:
            os.close(reader)

    def test_stats_that_cannot_be_written(self):
        arguments = self.tiny(tiny_kernel.debug_exit(0))
        status, _, errors = self.run_vm([*arguments, "--debug-exit", "--stats", "/dev/full"],
                                        harness.EXIT_SECONDS)
        self.assertIn(status, (1, STATUS_FAILURE))
        self.assertRegex(errors, r"\Aaerostat: [^\n]*/dev/full[^\n]*\n\Z")


if __name__ == "__main__":
    harness.main()
