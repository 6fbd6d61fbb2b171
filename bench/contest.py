"""What bench/run and bench/speed/run share: who takes part, booting them, their memory, tables.

A contestant is a way to run one Debian guest of MEMORY_MIB with one CPU. Contestants take turns, so
that what else the machine does hits all alike.

    with Guest(qemu("max"), kernel, initrd, "echo hello; read line") as guest:
        guest.expect(r"^hello$", 10)
        print(guest.boot_seconds, guest.memory())
        guest.finish()
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build")
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))

import harness  # noqa: E402

MEMORY_MIB = 128
BOOT_SECONDS = 120  # a boot that takes longer hangs
EXIT_SECONDS = 60
QEMU = "qemu-system-x86_64"


class Contestant:
    def __init__(self, name, command):
        self.name = name
        self.command = command  # of (kernel, initrd, append)


def aerostat(engine):
    def command(kernel, initrd, append):
        return [harness.AEROSTAT, "run", "--kernel", kernel, "--initrd", initrd,
                "--engine", engine, "--memory", f"{MEMORY_MIB}M", "--append", append]
    return Contestant(f"Aerostat {engine}", command)


def qemu(cpu):
    def command(kernel, initrd, append):
        return [QEMU, "-accel", "tcg", "-cpu", cpu, "-m", str(MEMORY_MIB),
                # Not microvm: as of QEMU 7.2 its firmware hangs now and then on a busy host.
                "-M", "pc", "-nodefaults", "-no-user-config", "-display", "none",
                "-serial", "stdio", "-no-reboot",
                "-kernel", kernel, "-initrd", initrd, "-append", append]
    return Contestant(f"QEMU TCG {cpu}", command)


def qemus():
    """Both, since each is the faster one at something."""
    return [qemu("max"), qemu("qemu64")]


def engines():
    """The names of the engines that this build has, the default one first."""
    usage = subprocess.run([harness.AEROSTAT, "run", "--help"], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    described = re.search(r"--engine ENGINE (.*?)\n  --", usage, re.DOTALL)
    text = described.group(1) if described else ""
    names = [name for name in ("translate", "interp") if re.search(rf"\b{name}\b", text)]
    names.sort(key=lambda name: f"{name} (default)" not in text)
    if not names:
        raise RuntimeError("`aerostat run --help` names no engine")
    return names


def memory_mib(pid):
    """MiB (of the VMM with its code cache, of the code cache, of guest RAM).

    Proportional set sizes by mapping: ours by their names; QEMU's RAM is the one mapping of just
    that size. The code cache is None where there is no mapping with its name, as in QEMU.
    """
    sizes = {"vmm": 0, "code": None, "ram": 0}
    kind = "vmm"
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as stream:
        for line in stream:
            if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
                size = int(match.group(2), 16) - int(match.group(1), 16)
                if "/memfd:aerostat-ram" in line or \
                        ("/memfd" not in line and size == MEMORY_MIB << 20):
                    kind = "ram"
                else:
                    kind = "code" if "/memfd:aerostat-code" in line else "vmm"
            elif line.startswith("Pss:"):
                sizes[kind] = (sizes[kind] or 0) + int(line.split()[1]) / 1024
    return sizes["vmm"] + (sizes["code"] or 0), sizes["code"], sizes["ram"]


class Guest:
    """A guest that has booted and runs shell commands (no double quotes in them).

    The commands end with `read line`, and finish() sends that line: until then the guest is there
    to be looked at.
    """

    def __init__(self, contestant, kernel, initrd, commands):
        assert '"' not in commands
        self.contestant = contestant
        self._command = contestant.command(kernel, initrd, f'{harness.FAST_BOOT} run="{commands}"')
        self.said = []

    def __enter__(self):
        started = time.monotonic()
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        try:
            booted, _ = self.expect(r"^aerostat-guest: init", BOOT_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        self.boot_seconds = booted - started
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def expect(self, pattern, seconds):
        """Waits for a line of the console; gives the moment it came, and the match."""
        late = threading.Event()

        def end():
            late.set()
            self.process.kill()

        watchdog = threading.Timer(seconds, end)
        watchdog.start()
        try:
            for line in self.process.stdout:
                text = line.decode(errors="replace").rstrip("\r\n")
                self.said.append(text)
                if match := re.search(pattern, text):
                    return time.monotonic(), match
        finally:
            watchdog.cancel()
        what = f"{seconds} s passed" if late.is_set() else "the guest ended"
        words = "\n".join(self.said[-20:])
        raise RuntimeError(f"{self.contestant.name}: {what} without {pattern!r}; its last words:\n"
                           f"{words}")

    def memory(self):
        return memory_mib(self.process.pid)

    def answer(self):
        """Ends `read line`."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self):
        """Ends the last `read line`, and sees the guest off."""
        self.answer()
        self.expect(r"^aerostat-guest: exit 0", EXIT_SECONDS)
        status = self.process.wait(EXIT_SECONDS)
        if status != 0:
            raise RuntimeError(f"{self.contestant.name} ended with status {status}")


def take_turns(contestants, rounds):
    """Each contestant once a round, saying so on stderr."""
    for turn in range(rounds):
        for contestant in contestants:
            print(f"bench: round {turn + 1} of {rounds}: {contestant.name}", file=sys.stderr,
                  flush=True)
            yield contestant


def build(*targets):
    """What the benchmark runs, of the build folder."""
    subprocess.run(["ninja", "--quiet", "-C", BUILD, *targets], check=True,
                   stdout=subprocess.DEVNULL)


def argument_parser(text):
    """Of a benchmark's own description: its first paragraph, the second, which is the usage, and the
    rest, which follows the options."""
    first, _, rest = text.split("\n\n", maxsplit=2)
    return argparse.ArgumentParser(description=first, epilog=rest,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def run_main(name, main):
    """What a benchmark's last line does: one line for what goes wrong, and what it has made goes
    whatever ends it."""
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, lambda *_: sys.exit(f"{name}: ended by a signal"))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{name}: {error}")


def build_static(output, sources):
    """Builds a static program for guests, not optimised for the CPU of this machine."""
    subprocess.run([os.environ.get("CC", "gcc"), "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall",
                    "-static", "-o", output, *sources], check=True)


def make_initramfs(output, files, modules=()):
    """The tests' initramfs with more in it: files {path in the guest: path here}, and modules."""
    pairs = [f"{path}={name}" for name, path in files.items()]
    pairs += [f"+{module}" for module in modules]
    return subprocess.run([os.path.join(ROOT, "guests", "make-initramfs"), output, *pairs],
                          check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def fetch_package(package):
    """A Debian package, unpacked in the cache; gives its folder."""
    cache = os.environ.get("AEROSTAT_CACHE", os.path.join(ROOT, ".cache"))
    folder = os.path.join(cache, "packages", package)
    if not os.path.isdir(folder):
        subprocess.run([os.path.join(ROOT, "guests", "fetch-package"), package, folder],
                       check=True, stdout=subprocess.DEVNULL)
    return folder


def make_ext4(image, root, size):
    """A new image of a file system, with what that folder has; the folder goes."""
    subprocess.run([harness.find_tool("mke2fs"), "-q", "-t", "ext4", "-E", "lazy_itable_init=0",
                    "-d", root, image, size], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def host_description():
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        model = re.search(r"model name\s*: (.*)", stream.read())
    return {"cpu": model.group(1) if model else "unknown", "cpus": os.cpu_count(),
            "kernel": platform.release(), "load": os.getloadavg()[0],
            "guest_kernel": harness.kernel_release(), "guest_memory_mib": MEMORY_MIB}


def qemu_version():
    line = subprocess.run([QEMU, "--version"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.splitlines()[0]
    return line.split("version ")[1]


def with_spread(values, form):
    """"median (least-most)", the median alone where the others look the same, "-" for no value."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    low, middle, high = (form(value)
                         for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}-{high})"


def print_table(rows):
    """Rows of cells, the first row the titles."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def write_json(path, figures, quiet=False):
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(figures, stream, indent=2)
        stream.write("\n")
    if not quiet:
        print(f"All figures are in {os.path.relpath(path)}.")
