#!/usr/bin/env python3
"""Debian under control: what a guest sees of a pause, and its power button."""

import os
import re
import subprocess
import time

import control
import harness
from harness import Vm

# Each second of pause is more than all that may go wrong with the rest.
PAUSE_SECONDS = 3


class Boot(control.TestCase):
    def shell(self, *extra, append=""):
        """Arguments for a VM with a shell on its console."""
        return ["--kernel", harness.kernel(), "--initrd", harness.initramfs(), "--memory", "128M",
                "--append", f"{harness.FAST_BOOT} {append}", *extra]

    def ask(self, vm, command, pattern):
        """Types a command; gives what its output matches, and when it was asked and answered."""
        self.asked = getattr(self, "asked", 0) + 1
        before = time.monotonic()
        vm.send(f"{command}; echo done-$(({self.asked}+1000))\n")
        vm.expect(rf"done-{self.asked + 1000}$")
        after = time.monotonic()
        match = re.search(pattern, vm.console, re.MULTILINE)
        self.assertTrue(match, vm.report())
        vm.forget()
        return match.group(1), before, after

    def check_pause(self, vm, name, clock):
        clock_command, pattern = clock
        first, before, _ = self.ask(vm, clock_command, pattern)
        self.command("pause", name)
        begin = time.monotonic()
        time.sleep(PAUSE_SECONDS)
        paused = time.monotonic() - begin
        self.command("resume", name)
        second, _, after = self.ask(vm, clock_command, pattern)
        passed = float(second) - float(first)
        self.assertGreaterEqual(passed, 0)
        # The clock shows hundredths.
        self.assertLessEqual(passed, after - before - paused + 0.02)

    def test_clocks_stand_still_in_a_pause(self):
        uptime = ("cat /proc/uptime", r"^(\d+\.\d+) \d+\.\d+$")
        for cpus, source in (("1", "kvm-clock"), ("2", "tsc")):
            with self.subTest(cpus=cpus, source=source), \
                    Vm(self.shell("--cpus", cpus, "--name", "web"),
                       stdin=subprocess.PIPE) as vm:
                vm.expect("Type commands")
                vm.forget()
                sources = "/sys/devices/system/clocksource/clocksource0"
                used, _, _ = self.ask(
                    vm, f"echo {source} >{sources}/current_clocksource; "
                    f"cat {sources}/current_clocksource", r"^([a-z-]+)$")
                self.assertEqual(used, source, vm.report())
                # With a timer running through it, which must come, once, and not too early.
                vm.send("(sleep 1; echo awake) &\n")
                self.check_pause(vm, "web", uptime)
                vm.expect(r"awake$")
                self.check_pause(vm, "web", uptime)
                complaints, _, _ = self.ask(
                    vm, "echo complaints $(dmesg | grep -c -i -E "
                    "'lockup|stall|unstable|clocksource.*skew|hung')", r"^complaints (\d+)$")
                self.assertEqual(complaints, "0")
                before = self.stats("web")["interrupts"]
                self.ask(vm, "sleep 0.1; echo slept", r"^(slept)$")
                # No storm of what was missed: a timer of 250 Hz has 750 ticks in the pause.
                self.assertLess(self.stats("web")["interrupts"] - before, 20000)
                vm.send("exit\n")
                self.assertEqual((vm.wait(), vm.errors), (0, ""), vm.report())

    def test_pause_at_any_moment_of_a_boot(self):
        """Stopped and let go all the time, a boot comes out the same."""
        name = self.detach(harness.boot_arguments("true") + ["--cpus", "2"])
        pauses = 0
        with self.connect(name) as connection, self.connect(name) as reader:
            self.assertTrue(reader.ask(request="console")["ok"])
            try:
                while pauses < 500:
                    replies = [connection.ask(request=request) for request in ("pause", "resume")]
                    if not all(reply["ok"] for reply in replies):
                        # It powers off: nothing else is a reason to refuse.
                        self.assertEqual({reply.get("code", "busy") for reply in replies}, {"busy"})
                        break
                    pauses += 1
            except (BrokenPipeError, ConnectionResetError, ValueError):
                pass  # it has powered off, and hung up
            reader.socket.settimeout(harness.BOOT_SECONDS)
            output = reader.received
            while chunk := reader.socket.recv(65536):
                output += chunk
        self.assertGreater(pauses, 10)
        self.assertRegex(output.decode(errors="replace"), r"aerostat-guest: exit 0")

    def test_power_button(self):
        """A guest that listens shuts itself down; aerostat stop waits for that."""
        script = self.make_file("script", b"#!/bin/sh\necho button\nsync\npoweroff -f\n")
        initramfs = self.path("initramfs.cpio")
        subprocess.run([os.path.join(harness.GUESTS, "make-initramfs"), initramfs, "+button",
                        "+evdev", f"{script}=etc/acpi/PWRF/00000080"], check=True,
                       stdout=subprocess.DEVNULL)
        arguments = harness.boot_arguments(
            "acpid -d & until ls -l /proc/[0-9]*/fd | grep -q event0; do sleep 0.1; done; "
            "echo listens; sleep 100000")
        arguments[arguments.index("--initrd") + 1] = initramfs
        with Vm([*arguments, "--name", "web"]) as vm:
            vm.expect("listens")
            self.command("stop", "web", seconds=harness.BOOT_SECONDS)
            self.assertEqual((vm.wait(), vm.errors), (0, ""), vm.report())
            self.assertRegex(vm.console, "button", vm.report())
            self.assertRegex(vm.console, "Power down", vm.report())

    def test_a_guest_that_does_not_listen(self):
        """Its kernel takes the event, nobody acts on it: stop gives up, force does not."""
        with Vm(self.shell("--name", "web"), stdin=subprocess.PIPE) as vm:
            vm.expect("Type commands")
            self.check_fails("stop", "--wait", "1", "web", status=1, words=["--force"])
            self.assertEqual(self.rows()["web"]["state"], "running")
            self.command("stop", "--force", "web")
            self.assertEqual((vm.wait(), vm.errors), (0, ""), vm.report())


if __name__ == "__main__":
    harness.main()
