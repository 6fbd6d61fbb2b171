"""VMs under a manager of their own, watched over time: what the benchmarks of many VMs share.

    with fleet.Fleet(1024, tax=0) as host:              # host memory, MiB
        host.start([fleet.Vm("web", 256, "demo-start database", group="g")])
        history = host.watch(30, until=lambda status: host.rounds("web") > 2)
        host.manager(tax=0.75)                          # the next one; VMs run on

All is in a runtime folder of its own, so no other manager or VM is touched, and is gone at the end,
however it comes (SIGKILL excepted). What the guests print goes to files, and is read from there.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

import contest

sys.path.insert(0, os.path.join(contest.ROOT, "demo"))

import parts  # noqa: E402

MIB = 1 << 20
COMMAND_SECONDS = 60
START_SECONDS = 60
STEP_SECONDS = 0.5
AEROSTATD = os.path.join(os.path.dirname(contest.harness.AEROSTAT), "aerostatd")
ROUND = re.compile(r"^demo: round ")
FAILURE = re.compile(r"demo: (?:FAILED|end).*|Out of memory|Kernel panic|I/O error|EXT4-fs error")


@dataclass
class Vm:
    """Runs shell commands (no double quotes in them) in what parts.make has made."""
    name: str
    memory: int  # MiB
    commands: str
    group: str = ""
    min: int = 0  # MiB
    shares: int = 0  # 0: by memory
    swap: int = 0  # MiB of the guest's own, on a disk
    disk: str = ""  # an image; each VM has an overlay of its own. "": the demo's, "-": none
    kernel: str = ""  # "": Debian's
    initrd: str = ""  # "": the demo's
    code_cache: int = 8  # MiB
    options: tuple = ()
    append: str = contest.harness.FAST_BOOT

    def arguments(self, made, folder):
        kernel, initrd, image = made
        commands = self.commands
        if self.swap:
            device = "/dev/vda" if self.disk == "-" else "/dev/vdb"
            commands = f"mkswap {device} >/dev/null && swapon {device} && {commands}"
        words = ["--name", self.name, "--kernel", self.kernel or kernel,
                 "--initrd", self.initrd or initrd, "--memory", f"{self.memory}M",
                 "--code-cache", f"{self.code_cache}M", "--min", f"{self.min}M", "--swap-dir", folder,
                 "--console", os.path.join(folder, self.name + ".console"),
                 "--append", f'{self.append} run="{commands}"']
        if self.disk != "-":
            words += ["--disk", f"{self.disk or image},overlay"]
        if self.swap:
            words += ["--disk", self.swap_path(folder)]
        if self.group:
            words += ["--group", self.group]
        if self.shares:
            words += ["--shares", str(self.shares)]
        return [*words, *self.options]

    def swap_path(self, folder):
        return os.path.join(folder, self.name + ".swap")


@dataclass
class Console:
    """What a guest has printed: [(seconds, line)], the moment being that of the look."""
    path: str
    lines: list = field(default_factory=list)
    offset: int = 0
    rest: bytes = b""

    def read(self, now):
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as stream:
            stream.seek(self.offset)
            new = stream.read()
            self.offset += len(new)
            *whole, self.rest = (self.rest + new).split(b"\n")
            self.lines += [(now, line.decode(errors="replace").rstrip("\r")) for line in whole]


class Fleet:
    """A manager with that much host memory (MiB), and VMs. With None there is no manager before
    manager() is called, and `memory` is to be set then. `made`: (kernel, initramfs, disk) instead of
    the demo's."""

    def __init__(self, memory, made=None, **settings):
        self.made = made or parts.make()
        self.memory = memory
        self.settings = settings  # of aerostatd: tax=0.5, scan_always=True
        # The path is short, for sockets.
        self.folder = tempfile.mkdtemp(prefix="aerostat-bench-")
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": self.folder}
        self.process = None
        self.vms = {}
        self.consoles = {}
        self.began = time.monotonic()

    def __enter__(self):
        try:
            if self.memory is not None:
                self.manager()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with signals_ignored():
            # A VM that was just being started may come up after the first of them.
            for _ in range(5):
                with contextlib.suppress(subprocess.TimeoutExpired, OSError, ValueError):
                    names = [vm["name"] for vm in
                             json.loads(self.aerostat("ps", "--json", check=False) or "[]")]
                    if not names:
                        break
                    for name in names:
                        self.aerostat("stop", "--force", name, check=False)
                time.sleep(STEP_SECONDS)
            if self.process is not None:
                end_process(self.process)
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- commands

    def aerostat(self, *arguments, check=True):
        return subprocess.run([contest.harness.AEROSTAT, *arguments], check=check, text=True,
                              env=self.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, errors="replace",
                              stderr=None if check else subprocess.DEVNULL,
                              timeout=COMMAND_SECONDS).stdout

    def manager(self, **settings):
        """Starts one, instead of the one that runs; VMs run on and are adopted."""
        self.settings.update(settings)
        words = [AEROSTATD, "--memory", f"{self.memory}M", "--swap-dir", self.folder]
        for name, value in self.settings.items():
            words += ["--" + name.replace("_", "-"), *([] if value is True else [str(value)])]
        if self.process is not None:
            end_process(self.process)
        log = os.path.join(self.folder, "manager.out")
        with open(log, "ab") as stream:
            self.process = subprocess.Popen(words, env=self.environment, stdout=stream,
                                            stderr=stream, stdin=subprocess.DEVNULL)

        def answers():
            if self.process.poll() is not None:
                with open(log, encoding="utf-8", errors="replace") as stream:
                    raise RuntimeError(f"the manager has ended: {stream.read().strip()}")
            with contextlib.suppress(subprocess.CalledProcessError, ValueError):
                return self.managed(json.loads(self.aerostat("stats", "--json", check=False))) >= \
                    len(self.vms)
            return False

        wait_for(answers, START_SECONDS, "the manager does not answer for all VMs")

    @staticmethod
    def managed(status):
        return sum(vm["managed"] for vm in status["vms"])

    def start(self, vms):
        """All at once; returns when each runs its first instruction."""
        waiting = []
        for vm in vms:
            if vm.swap:
                with open(vm.swap_path(self.folder), "wb") as stream:
                    stream.truncate(vm.swap << 20)
            words = [contest.harness.AEROSTAT, "run", "--detach",
                     *vm.arguments(self.made, self.folder)]
            waiting.append((vm, subprocess.Popen(words, env=self.environment,
                                                 stdin=subprocess.DEVNULL,
                                                 stdout=subprocess.DEVNULL)))
            self.vms[vm.name] = vm
            self.consoles[vm.name] = Console(os.path.join(self.folder, vm.name + ".console"))
        for vm, process in waiting:
            if process.wait(START_SECONDS) != 0:
                raise RuntimeError(f"{vm.name} was not started")
        if self.process is not None:
            wait_for(lambda: self.managed(self.status()) == len(self.vms), START_SECONDS,
                     "the manager does not have all VMs")

    def set_memory(self, bytes_):
        self.memory = int(bytes_ / MIB)
        self.aerostat("memory", f"{int(bytes_) >> 10}K")

    # ---- looking

    def status(self):
        """What the manager says, with `seconds` since the start. A VM that is gone is an error."""
        status = json.loads(self.aerostat("stats", "--json"))
        status["seconds"] = time.monotonic() - self.began
        return status

    def stats(self, name):
        return json.loads(self.aerostat("stats", "--json", name))

    def check(self, status):
        self.listen()
        missing = set(self.vms) - {vm["name"] for vm in status["vms"]}
        if missing:
            raise RuntimeError(f"{', '.join(sorted(missing))}: no longer there{self.last_words()}")

    def listen(self):
        """Reads what the guests have printed; an error where one complains."""
        now = time.monotonic() - self.began
        for name, console in self.consoles.items():
            seen = len(console.lines)
            console.read(now)
            for _, line in console.lines[seen:]:
                if failure := FAILURE.search(line):
                    raise RuntimeError(f"{name}: {failure.group(0).strip()}")

    def listen_for(self, seconds, step):
        """Only that, every `step` seconds: hardly any work beside the VMs'."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.listen()
            time.sleep(step)

    def said(self, name, pattern):
        """[(seconds, match)] of all its lines so far."""
        return [(seconds, match) for seconds, line in self.consoles[name].lines
                if (match := re.search(pattern, line))]

    def last_words(self, count=5):
        """For an error: what each guest printed last."""
        return "".join(f"\n{name}: {line}" for name, console in self.consoles.items()
                       for _, line in console.lines[-count:])

    def rounds(self, name):
        return sum(1 for _, line in self.consoles[name].lines if ROUND.match(line))

    def watch(self, seconds, until=None, each=None, step=STEP_SECONDS):
        """Samples the manager's status every `step` seconds; gives all samples. Ends early when
        until(status). each(status) is called with each sample, and may add to it."""
        history, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            status = self.status()
            self.check(status)
            if each is not None:
                each(status)
            history.append(status)
            if until is not None and until(status):
                break
            time.sleep(min(step, max(left, 0)))
        return history

    def wait_rounds(self, seconds, rounds=1):
        """Until each VM has finished so many rounds of its work."""
        def done(_=None):
            return all(self.rounds(name) >= rounds for name in self.vms)

        self.watch(seconds, until=done)
        if not done():
            late = [name for name in self.vms if self.rounds(name) < rounds]
            raise RuntimeError(f"{', '.join(late)}: no round of work in {seconds} s{self.last_words()}")


def build(*targets):
    """Those, and what the demo's VMs run."""
    contest.build(*targets, *(f"guests/{name}" for name in parts.PROGRAMS))


def of(status, name):
    return next(vm for vm in status["vms"] if vm["name"] == name)


def total(status, *keys):
    return sum(vm[key] for vm in status["vms"] for key in keys)


def between(moments, since, until):
    return [moment for moment in moments if since <= moment < until]


def rate(moments, since, until):
    """Events a second: from the first to the last of them in that time; None for less than three."""
    inside = between(moments, since, until)
    return (len(inside) - 1) / (inside[-1] - inside[0]) if len(inside) > 2 else None


@contextlib.contextmanager
def signals_ignored():
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(kind, signal.SIG_IGN) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before):
            signal.signal(kind, handler)


def end_process(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(condition, seconds, complaint):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(complaint)
        time.sleep(0.1)
