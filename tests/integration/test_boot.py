#!/usr/bin/env python3
"""Debian's unmodified kernel in a VM: commands, disk, statistics, memory of the VMM, SMP, reboot."""

import json
import os
import re

import harness
import shell_guest
from harness import Vm


def smaps_kilobytes(pid):
    """Memory of a process in KiB, as Pss, by mapping: {"ram": guest RAM, "code": translated code
    and its tables, "vmm": all else}."""
    sizes = {"ram": 0, "code": 0, "vmm": 0}
    kind = "vmm"
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as stream:
        for line in stream:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                kind = ("ram" if "/memfd:aerostat-ram" in line else
                        "code" if "/memfd:aerostat-code" in line else "vmm")
            elif line.startswith("Pss:"):
                sizes[kind] += int(line.split()[1])
    return sizes


class Boot(harness.TestCase):
    def test_commands_disk_and_power_off(self):
        """One boot that does what most people do: look around, use a disk, power off."""
        data = os.urandom(2 << 20)
        image = self.make_file("disk.img", data + bytes(6 << 20))
        read_only = self.make_file("read-only.img", data)
        stats = self.path("stats.json")
        console = self.check_boot(
            "uname -r; nproc; grep MemTotal /proc/meminfo; cat /proc/version"
            "; echo sum $(head -c 2097152 /dev/vda | sha256sum)"
            "; echo ro $(cat /sys/block/vda/ro /sys/block/vdb/ro)"
            "; echo ro-sum $(sha256sum < /dev/vdb)"
            "; dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync 2>&1 || echo write refused"
            "; mkdir -p /mnt; dd if=/dev/urandom of=/tmp/data bs=65536 count=32 2>/dev/null"
            "; dd if=/tmp/data of=/dev/vda bs=65536 seek=64 conv=fsync 2>/dev/null"
            "; echo written $(sha256sum < /tmp/data)"
            "; dd if=/dev/hwrng of=/tmp/random bs=64 count=1 2>/dev/null; wc -c < /tmp/random"
            "; cat /sys/class/misc/hw_random/rng_current"
            "; cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
            extra=["--disk", image, "--disk", read_only + ",ro", "--stats", stats])

        self.assertIn(f"\n{harness.kernel_release()}\n1\n", console)
        memory = int(re.search(r"MemTotal: +(\d+) kB", console).group(1))
        self.assertTrue(80 << 10 < memory < 128 << 10, memory)
        ours = harness.hashlib.sha256(data).hexdigest()
        self.assertIn(f"sum {ours}", console)
        self.assertIn("ro 0 1", console)
        self.assertIn(f"ro-sum {ours}", console)
        self.assertIn("write refused", console)
        self.assertIn("virtio_rng", console)
        self.assertIn("\n64\n", console)

        # What the guest wrote is in the image, where it wrote it, and nothing else has changed.
        with open(image, "rb") as stream:
            now = stream.read()
        self.assertEqual(now[:2 << 20], data)
        self.assertEqual(now[2 << 20:4 << 20], bytes(2 << 20))
        written = harness.hashlib.sha256(now[4 << 20:6 << 20]).hexdigest()
        self.assertIn(f"written {written}", console)
        self.assertEqual(now[6 << 20:], bytes(2 << 20))
        self.assertEqual(harness.sha256_of(read_only), ours)
        self.check_stats(stats)

    def check_stats(self, path):
        with open(path, encoding="utf-8") as stream:
            stats = json.load(stream)
        numbers = dict(flatten(stats))
        text = json.dumps(stats, indent=1)
        for words in (("instructions",), ("wall",), ("cpu",), ("tlb", "miss"), ("walk",),
                      ("fault",)):
            found = [key for key in numbers if all(word in key.lower() for word in words)]
            self.assertTrue(found, f"no counter about {words} in\n{text}")
            self.assertTrue(any(numbers[key] > 0 for key in found), f"{found} are 0 in\n{text}")

    def test_smp(self):
        """Two CPUs come up, both work, and the memory they share is right."""
        console = self.check_boot(
            "nproc; cat /sys/devices/system/cpu/online"
            "; for cpu in 0 1; do taskset $((cpu + 1)) sh -c "
            "'i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; echo cpu done $i' & done; wait"
            "; grep -E '^ *(CPU|LOC|RES|CAL)' /proc/interrupts", extra=["--cpus", "2"])
        self.assertIn("\n2\n0-1\n", console)
        self.assertEqual(console.count("cpu done 20000"), 2, console)
        ticks = re.search(r"LOC: +(\d+) +(\d+)", console)
        self.assertTrue(ticks and all(int(count) > 0 for count in ticks.groups()), console)

    def test_little_code_cache(self):
        """The least code cache that there is, shared by two CPUs: works, and stays within it."""
        path = self.path("stats.json")
        console = self.check_boot(
            "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); done; echo counted $i; cat /proc/*/stat"
            " | wc -l", extra=["--engine", "translate", "--code-cache", "2M", "--cpus", "2",
                               "--stats", path])
        self.assertIn("counted 2000", console)
        with open(path, encoding="utf-8") as stream:
            stats = json.load(stream)
        self.assertGreater(stats["evictions"], 10000)
        self.assertLessEqual(stats["code_cache"], stats["code_cache_max"])
        self.assertLessEqual(stats["code_cache_max"], 2 << 20)

    def test_reboot_and_interactive_shell(self):
        """No run=: a shell that obeys the console; reboot makes a fresh machine, then exit."""
        arguments = harness.boot_arguments("")
        arguments[-1] = arguments[-1].replace(' run=""', "")
        with Vm(arguments, stdin=harness.subprocess.PIPE) as vm:
            vm.expect(r"powers the machine off")
            vm.send("echo marker > /tmp/marker; echo answer $((6 * 7))\n")
            vm.expect(r"^answer 42$")
            vm.send("reboot -f\n")
            vm.expect(r"(?s)powers the machine off.*powers the machine off")
            vm.send("[ -e /tmp/marker ] || echo fresh $((6 * 9))\n")
            vm.expect(r"^fresh 54$")
            vm.send("exit\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())

    def test_overlays(self):
        """Two guests change one image's disk, each for itself, over a reset, and with little host
        memory, so that pages come back from image and changes. The image stays as it is."""
        data = os.urandom(48 << 20)
        image = self.make_file("disk.img", data)
        options = ["--disk", image + ",overlay", "--resident", "40M", "--swap-dir", self.folder]
        arguments = [*shell_guest.arguments_of("128M"), *options]
        expected = bytearray(data)
        expected[4 << 20:12 << 20] = bytes(8 << 20)
        ours = harness.hashlib.sha256(expected).hexdigest()
        with shell_guest.ShellGuest(arguments) as first, \
                shell_guest.ShellGuest(arguments) as second:
            first.wait_for_shell()
            second.wait_for_shell()
            first.run("dd if=/dev/zero of=/dev/vda bs=1M seek=4 count=8 conv=notrunc,fsync")
            for _ in range(2):
                self.assertIn(ours, first.run("sha256sum </dev/vda"))
            self.assertIn(harness.sha256_of(image), second.run("sha256sum </dev/vda"))
            first.forget()
            first.send("reboot -f\n")
            first.wait_for_shell()
            self.assertIn(ours, first.run("sha256sum </dev/vda"))
            self.assertEqual(first.power_off(), harness.STATUS_OK, first.report())
            self.assertEqual(second.power_off(), harness.STATUS_OK, second.report())
            self.assertEqual((first.errors, second.errors), ("", ""))
        with open(image, "rb") as stream:
            self.assertEqual(stream.read(), data)
        self.assertEqual(os.listdir(self.folder), ["disk.img"])

    def test_no_reboot_and_memory_of_the_vmm(self):
        """Under --no-reboot a reset is the end. While it runs: what does the VMM itself take?"""
        with Vm([*harness.boot_arguments("echo up; read line; reboot -f"), "--no-reboot"],
                stdin=harness.subprocess.PIPE) as vm:
            vm.expect(r"^up$")
            sizes = smaps_kilobytes(vm.pid)
            vm.send("\n")
            self.assertEqual((vm.wait(), vm.errors), (harness.STATUS_OK, ""), vm.report())
        self.assertGreater(sizes["ram"], 8 << 10, "guest RAM is not told apart in smaps")
        self.assertLess(sizes["vmm"], 12 << 10,
                        "KiB that the VMM takes beside guest RAM and translated code")
        self.assertLessEqual(sizes["code"], 32 << 10, "KiB of translated code and its tables")

    def test_command_status_and_console_file(self):
        """A command's failure is reported by init; the console can be a file."""
        console = self.path("console")
        status, output, errors = self.run_vm(
            [*harness.boot_arguments("sh -c 'exit 7'"), "--console", console])
        self.assertEqual((status, output, errors), (harness.STATUS_OK, "", ""))
        with open(console, encoding="utf-8", errors="replace") as stream:
            self.assertRegex(stream.read(), r"(?m)^aerostat-guest: exit 7\r?$")


def flatten(value, prefix=""):
    """(path, number) of each number in nested JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from flatten(inner, f"{prefix}{index}.")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix.rstrip("."), value


if __name__ == "__main__":
    harness.main()
