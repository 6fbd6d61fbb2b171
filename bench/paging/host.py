"""What QEMU needs of the host to have less memory than its guest: swap, and a memory cgroup.

    with host.open_cgroup("/var/tmp") as cgroup:      # root's: made, and removed at the end
        guest = Guest(contestant whose command is cgroup.wrap(command))
        with cgroup.keep(guest.process.pid, 128 MiB of guest RAM):
            ...

The limit is on what the guest's RAM takes, as with Aerostat's --resident, which leaves alone what the
VMM takes for itself. A cgroup knows no such difference, so its limit is moved several times a second
until that much of the RAM is in memory. What the guest's disk has in the host's page cache was read
by somebody else, so it is not the cgroup's.
"""

import contextlib
import os
import subprocess
import threading

from contest import harness

SWAP_MIB = 1024
PERIOD_SECONDS = 0.2
CLOSE = 4 << 20  # bytes of the limit: so close to it, the limit is what keeps RAM out
STEP = 16 << 20  # that the limit goes down by at once
ROOTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")  # of version 1, of version 2


class Cgroup:
    """A memory cgroup of either version, which is there."""

    def __init__(self, folder):
        self.folder = folder
        # Not memory.max: over it a process is killed if the kernel is not quick enough.
        self.limit, self.usage = "memory.high", "memory.current"
        if not os.path.exists(os.path.join(folder, self.limit)):
            self.limit, self.usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        if not os.access(os.path.join(folder, self.limit), os.W_OK):
            raise RuntimeError(f"{folder} is no memory cgroup, or not ours to set")
        with contextlib.suppress(OSError):  # version 1's way not to be killed
            self.write("memory.oom_control", "1")
        if not swap_is_on():
            raise RuntimeError("this machine has no swap: as root, --host-swap DIR makes some")

    def wrap(self, command):
        return ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.folder, *command]

    def get_usage(self):
        with open(os.path.join(self.folder, self.usage), encoding="ascii") as stream:
            return int(stream.read())

    def set_limit(self, size):
        """Bytes; None: no limit. What cannot be taken at once is tried again next time."""
        none = "max" if self.limit == "memory.high" else "-1"
        with contextlib.suppress(OSError):
            self.write(self.limit, str(size) if size else none)

    def write(self, name, word):
        # Never makes a file: on a kernel with neither there is none of that name.
        handle = os.open(os.path.join(self.folder, name), os.O_WRONLY)
        try:
            os.write(handle, word.encode())
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def keep(self, ram_bytes, most):
        """Meanwhile ram_bytes(), what is in memory, is at most `most` bytes, or soon again."""
        done = threading.Event()

        def work():
            limit = None
            while not done.wait(PERIOD_SECONDS):
                try:
                    ram, usage = ram_bytes(), self.get_usage()
                except OSError:
                    return  # the guest has ended
                limit = next_limit(limit, usage, ram, most)
                self.set_limit(limit)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.set_limit(None)


def next_limit(limit, usage, ram, most):
    """The cgroup's next limit; it uses `usage`, and `ram` of that is RAM, which is to be `most`."""
    if ram > most:
        return usage - min(ram - most, STEP)
    if limit and usage > limit - CLOSE:
        return limit + most - ram
    return limit


def swap_is_on():
    with open("/proc/swaps", encoding="ascii") as stream:
        return len(stream.readlines()) > 1


def swapped_out():
    """Pages that this machine has ever written to its swap."""
    with open("/proc/vmstat", encoding="ascii") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("pswpout "))


@contextlib.contextmanager
def swap_file(folder, mib=SWAP_MIB):
    """The host swaps to a file of ours in that folder."""
    path = os.path.join(folder, f"aerostat-paging-{os.getpid()}.swap")
    try:
        subprocess.run(["fallocate", "-l", f"{mib}M", path], check=True)
        os.chmod(path, 0o600)
        subprocess.run([harness.find_tool("mkswap"), "-q", path], check=True, stdout=subprocess.DEVNULL)
        # Before any other swap that there is: so it is on the disk that Aerostat's is on.
        subprocess.run([harness.find_tool("swapon"), "-p", "32767", path], check=True)
        try:
            yield
        finally:
            subprocess.run([harness.find_tool("swapoff"), path], check=True)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


@contextlib.contextmanager
def new_cgroup():
    root = next((root for root in ROOTS if os.path.exists(os.path.join(root, "cgroup.procs"))),
                None)
    if root is None:
        raise RuntimeError("this machine has no memory cgroups")
    folder = os.path.join(root, f"aerostat-paging-{os.getpid()}")
    os.mkdir(folder)
    try:
        yield Cgroup(folder)
    finally:
        os.rmdir(folder)


@contextlib.contextmanager
def open_cgroup(swap_folder, cgroup, swap_mib=SWAP_MIB):
    """The cgroup of that folder; or one of our own, with so much swap in that folder; or None."""
    if cgroup:
        yield Cgroup(cgroup)
    elif swap_folder:
        if os.geteuid() != 0:
            raise RuntimeError("--host-swap makes swap and a memory cgroup: it needs root")
        with swap_file(swap_folder, swap_mib), new_cgroup() as made:
            yield made
    else:
        yield None
