"""Several guests at once that are alike, under Aerostat and under QEMU: bench/ksm and bench/overcommit.

    with QemuCrowd(8, 192, ["work busy"] * 8) as guests:
        guests.wait_for(r"^work: ready", 300)
        print(guests.count(r"^work: round"), guests.pids)

All have the demo's disk, read-only, so that nothing depends on how overlays are kept, and
bench/crowd-guest, which works on it. Their consoles are files. All guests are gone at the end.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import contest

sys.path.insert(0, os.path.join(contest.ROOT, "demo"))

import parts  # noqa: E402

AEROSTATD = os.path.join(os.path.dirname(contest.harness.AEROSTAT), "aerostatd")
STEP_SECONDS = 0.5
COMMAND_SECONDS = 60
COMPLAINTS = r"work: FAILED.*|Out of memory.*|Kernel panic.*"


class Crowd:
    """`commands`: what each guest is to do, words for the shell."""

    def __init__(self, memory_mib, commands):
        self.memory_mib = memory_mib
        self.commands = commands
        self.pids = []
        self.folder = tempfile.mkdtemp(prefix="aerostat-crowd-")  # short, for sockets

    def console(self, index):
        return os.path.join(self.folder, f"vm{index}.console")

    def said(self, index):
        try:
            with open(self.console(index), encoding="utf-8", errors="replace") as stream:
                return stream.read().replace("\r", "")
        except FileNotFoundError:
            return ""

    def count(self, pattern):
        """How often each guest has said so; an error where one has failed."""
        counts = []
        for index in range(len(self.commands)):
            said = self.said(index)
            if failure := re.search(COMPLAINTS, said):
                raise RuntimeError(f"{self.name}: guest {index}: {failure.group(0).strip()}")
            counts.append(len(re.findall(rf"(?m){pattern}", said)))
        return counts

    def wait_for(self, pattern, seconds):
        end = time.monotonic() + seconds
        while min(self.count(pattern)) == 0:
            self.look_after()
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: {seconds} s passed, and not every guest has said"
                                   f" {pattern!r}: {self.count(pattern)}")
            time.sleep(STEP_SECONDS)

    def look_after(self):
        """An error if a guest has ended."""
        for index, pid in enumerate(self.pids):
            if not os.path.exists(f"/proc/{pid}"):
                raise RuntimeError(f"{self.name}: guest {index} has ended; its last words:\n" +
                                   self.said(index)[-1000:])

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        raise NotImplementedError

    def end(self):
        raise NotImplementedError

    def __exit__(self, *_):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.end()
        finally:
            signal.signal(signal.SIGINT, before)
            shutil.rmtree(self.folder, ignore_errors=True)


class QemuCrowd(Crowd):
    """`wrap`: makes another command of one, as Cgroup.wrap does. Freed pages are reported, as they
    are to Aerostat. The code buffer is bounded, or eight of them would be most of the memory."""
    name = "QEMU TCG"
    TB_MIB = 32

    def __init__(self, memory_mib, commands, made, wrap=lambda command: command):
        super().__init__(memory_mib, commands)
        self.made, self.wrap, self.processes = made, wrap, []

    def command(self, index):
        kernel, initrd, disk = self.made
        append = contest.harness.FAST_BOOT.replace("pci=off ", "")
        # Not a microvm, see contest.py: so its devices are on PCI.
        words = contest.qemu("max").command(kernel, initrd,
                                            f'{append} run="{self.commands[index]}"')
        words[words.index("-accel") + 1] = f"tcg,tb-size={self.TB_MIB}"
        words[words.index("-m") + 1] = str(self.memory_mib)
        words[words.index("-M") + 1] = "pc,mem-merge=on"
        words[words.index("-serial") + 1] = f"file:{self.console(index)}"
        return words + ["-drive", f"if=none,id=disk,format=raw,readonly=on,file={disk}",
                        "-device", "virtio-blk-pci,drive=disk",
                        "-device", "virtio-balloon-pci,free-page-reporting=on"]

    def start(self):
        for index in range(len(self.commands)):
            self.processes.append(subprocess.Popen(self.wrap(self.command(index)),
                                                   stdin=subprocess.DEVNULL,
                                                   stdout=subprocess.DEVNULL))
        self.pids = [process.pid for process in self.processes]

    def look_after(self):
        for index, process in enumerate(self.processes):
            if process.poll() is not None:
                raise RuntimeError(f"{self.name}: guest {index} ended with {process.returncode}")

    def end(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


class AerostatCrowd(Crowd):
    """All are of one group. The manager starts when it is told to, and adopts them."""
    name = "Aerostat"

    def __init__(self, memory_mib, commands, made, options=(), each=None):
        """Options of `aerostat run`, of all, and of each."""
        super().__init__(memory_mib, commands)
        self.made, self.options, self.manager = made, list(options), None
        self.each = each or [[]] * len(commands)
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder}

    def aerostat(self, *arguments, check=True, quiet=False):
        return subprocess.run([contest.harness.AEROSTAT, *arguments], check=check, text=True,
                              env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, errors="replace",
                              stderr=subprocess.DEVNULL if quiet else None,
                              timeout=COMMAND_SECONDS).stdout

    def start(self):
        kernel, initrd, disk = self.made
        disks = ["--disk", f"{disk},ro"] if disk else []
        for index, command in enumerate(self.commands):
            self.aerostat("run", "--detach", "--name", f"vm{index}", "--group", "crowd",
                          "--kernel", kernel, "--initrd", initrd, *disks, *self.options, *self.each[index],
                          "--memory", f"{self.memory_mib}M", "--console", self.console(index),
                          "--swap-dir", self.folder, "--append",
                          f'{contest.harness.FAST_BOOT} run="{command}"')
        self.pids = [vm["pid"] for vm in json.loads(self.aerostat("ps", "--json"))]

    def manage(self, memory):
        """Starts the manager, which has so many bytes; it has found all VMs at the end."""
        with open(os.path.join(self.folder, "manager.out"), "wb") as stream:
            self.manager = subprocess.Popen([AEROSTATD, "--memory", f"{memory >> 10}K"],
                                            env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=stream, stderr=stream)
        end = time.monotonic() + COMMAND_SECONDS
        while True:
            said = self.aerostat("stats", "--json", check=False, quiet=True)
            if said.strip():
                managed = [vm for vm in json.loads(said)["vms"] if vm["managed"]]
                if len(managed) == len(self.commands):
                    return
            if self.manager.poll() is not None or time.monotonic() > end:
                with open(stream.name, encoding="utf-8", errors="replace") as log:
                    raise RuntimeError(f"the manager has not taken all VMs: {log.read()[-1000:]}")
            time.sleep(0.1)

    def status(self):
        return json.loads(self.aerostat("stats", "--json"))

    def end(self):
        for index in range(len(self.commands)):
            self.aerostat("stop", "--force", f"vm{index}", check=False)
        if self.manager is not None:
            self.manager.terminate()
            self.manager.wait()


def make():
    """(kernel, initramfs, disk) of all guests."""
    subprocess.run(["ninja", "--quiet", "-C", contest.BUILD,
                    *(f"guests/{name}" for name in parts.PROGRAMS)],
                   check=True, stdout=subprocess.DEVNULL)
    kernel, _, disk = parts.make()
    script = os.path.join(contest.ROOT, "bench", "crowd-guest")
    initrd = contest.make_initramfs(os.path.join(contest.BUILD, "crowd.cpio"),
                                    {"bin/work": script}, ["virtio_pci"])
    with open(disk, "rb") as stream:  # into the host's page cache, which is nobody's memory then
        while stream.read(1 << 20):
            pass
    return kernel, initrd, disk


def cpu_seconds(pid):
    """What all threads of a process, or a thread of the kernel's, have used."""
    total, folder = 0, f"/proc/{pid}/task"
    for task in os.listdir(folder):
        with open(f"{folder}/{task}/schedstat", encoding="ascii") as stream:
            total += int(stream.read().split()[0])
    return total / 1e9
