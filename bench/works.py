"""What VMs of the benchmarks of many VMs do: the demo's works, and those of bench/guest.

    made = works.Works(folder)                  # for disks; goes with its owner
    vm = fleet.Vm("web", 192, "web", initrd=made.initrd)
    vm = made.cache("cache", 192)               # with what it needs
"""

import os
import sys

import contest
import fleet

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "paging"))

import build  # noqa: E402
import image  # noqa: E402
import redis  # noqa: E402

GUEST_PROGRAMS = ("guests/redis-load",)
CACHE_SECONDS = 5  # of requests, of which Redis's client says how many there were
COMPILER = ("/usr/bin/x86_64-linux-gnu-gcc-12 -fdiagnostics-plain-output -std=gnu17 -D_GNU_SOURCE"
            " -O1 -I/src -B/usr/bin/x86_64-linux-gnu- -c")


def initramfs():
    """The demo's, and in /bin the scripts of bench/guest and Redis's client."""
    scripts = os.path.join(HERE, "guest")
    demo = os.path.join(contest.ROOT, "demo", "guest")
    files = {f"bin/{name}": os.path.join(scripts, name) for name in sorted(os.listdir(scripts))}
    return contest.make_initramfs(
        os.path.join(contest.BUILD, "works.cpio"),
        {**files, "bin/redis-load": redis.PROGRAM, "bin/demo-start": os.path.join(demo, "start"),
         "etc/acpi/PWRF/00000080": os.path.join(demo, "power-button")}, ["button", "evdev"])


class Works:
    def __init__(self, folder):
        self.folder = folder
        self.initrd = initramfs()
        self.images = {}

    def disk(self, name, make):
        if name not in self.images:
            self.images[name] = make()
        return self.images[name]

    def vm(self, name, memory, commands, **more):
        return fleet.Vm(name, memory, commands, initrd=self.initrd, **more)

    def cache(self, name, memory, data=60, **more):
        """Redis with so many MiB of data, and its client."""
        disk = self.disk("redis", lambda: image.make(self.folder, "redis", redis.PACKAGES))
        return self.vm(name, memory, redis.commands(
            data, f"1 {CACHE_SECONDS} 100000 | while read -r _ what counts; do"
            " [ $what = used ] || echo demo: round $what $counts; done"), disk=disk, **more)

    def build(self, name, memory, **more):
        """Debian's gcc, and sources of Aerostat's."""
        disk = self.disk("build", lambda: image.make(
            self.folder, "build", build.PACKAGES, [(os.path.join(contest.ROOT, "src"), "src")]))
        return self.vm(name, memory, image.enter(
            "export PATH=/bin:/usr/bin && while :; do"
            f" for name in {' '.join(build.SOURCES)}; do"
            f" if chroot /mnt {COMPILER} /src/mem/$name.c -o /tmp/$name.o;"
            " then echo demo: round 1 file compiled; else echo demo: FAILED $name; fi;"
            " done; done"), disk=disk, **more)
