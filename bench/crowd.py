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
import subprocess
import tempfile
import time

import contest
import fleet

STEP_SECONDS = 0.5
COMPLAINTS = r"work: FAILED.*|Out of memory.*|Kernel panic.*"


class Crowd:
    """`commands`: what each guest is to do, words for the shell."""

    def __init__(self, memory_mib, commands, folder):
        self.memory_mib = memory_mib
        self.commands = commands
        self.pids = []
        self.folder = folder

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
        with fleet.signals_ignored():
            self.end()
            shutil.rmtree(self.folder, ignore_errors=True)


class QemuCrowd(Crowd):
    """`wrap`: makes another command of one, as Cgroup.wrap does. Freed pages are reported, as they
    are to Aerostat. The code buffer is bounded, or eight of them would be most of the memory."""
    name = "QEMU TCG"
    TB_MIB = 32

    def __init__(self, memory_mib, commands, made, wrap=lambda command: command):
        super().__init__(memory_mib, commands, tempfile.mkdtemp(prefix="aerostat-crowd-"))
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

    def __init__(self, memory_mib, commands, made, code_cache=64, options=None):
        """code_cache: MiB. options: of `aerostat run`, for each guest."""
        self.host = fleet.Fleet(None, made=made)
        super().__init__(memory_mib, commands, self.host.folder)
        self.code_cache, self.options = code_cache, options or [[]] * len(commands)

    def start(self):
        disk = self.host.made[2]
        disks = ["--disk", f"{disk},ro"] if disk else []
        self.host.start([fleet.Vm(f"vm{index}", self.memory_mib, command, group="crowd", disk="-",
                                  code_cache=self.code_cache, options=(*disks, *options))
                         for index, (command, options) in
                         enumerate(zip(self.commands, self.options))])
        pids = {vm["name"]: vm["pid"] for vm in json.loads(self.host.aerostat("ps", "--json"))}
        self.pids = [pids[name] for name in self.host.vms]

    def manage(self, memory_mib):
        """Starts the manager, which has so much; it has found all VMs at the end."""
        self.host.memory = memory_mib
        self.host.manager()

    @property
    def manager(self):
        """Its PID; None before there is one."""
        return self.host.process and self.host.process.pid

    def end(self):
        self.host.__exit__()


def make(disk=None, programs=()):
    """(kernel, initramfs, disk) of all guests. The disk is the demo's, if there is no other;
    programs are pairs: path in the initramfs, path here."""
    fleet.build()
    kernel, _, demo_disk = fleet.parts.make()
    disk = disk or demo_disk
    script = os.path.join(contest.ROOT, "bench", "crowd-guest")
    initrd = contest.make_initramfs(os.path.join(contest.BUILD, "crowd.cpio"),
                                    {"bin/work": script, **dict(programs)}, ["virtio_pci"])
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
