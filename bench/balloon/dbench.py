"""Debian's dbench on an ext4 disk of its own, in a guest that has nothing else to do.

The program, its libraries and its load file (26 MB) are on the disk, as they would be in a complete
Debian: what is in an initramfs can never leave the guest's memory.
"""

import glob
import json
import os
import re
import shutil
import subprocess

import contest

CLIENTS = 40
DISK = "2G"
INFLATE_SECONDS = 120
PACKAGES = ("dbench", "libpopt0", "libc6")
LIBRARIES = ("libpopt.so.0", "libc.so.6")
LOADER = "ld-linux-x86-64.so.2"


def find(folders, name):
    for folder in folders:
        if found := glob.glob(os.path.join(folder, "**", name), recursive=True):
            return os.path.realpath(found[0])
    raise RuntimeError(f"Debian's packages {', '.join(PACKAGES)} have no {name}")


def prepare(folder):
    """Makes, in that folder, (the image of a disk, the initramfs)."""
    packages = [contest.fetch_package(package) for package in PACKAGES]
    root = os.path.join(folder, "root")
    os.makedirs(os.path.join(root, "data"))
    for name in (*LIBRARIES, LOADER):
        shutil.copy(find(packages, name), os.path.join(root, name))
    shutil.copy(os.path.join(packages[0], "usr", "bin", "dbench"), root)
    shutil.copy(find(packages, "client.txt"), root)
    image = os.path.join(folder, "disk.img")
    contest.make_ext4(image, root, DISK)
    return image, contest.make_initramfs(os.path.join(folder, "initramfs.cpio"), {})


def copy_image(image, copy):
    """Anew for each run, and on the host's disk before the run begins."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, copy], check=True)
    with open(copy, "rb") as stream:
        os.fsync(stream.fileno())


# Linux allows as many dirty pages as its memory had room for at boot until it has been writing for a
# while; it counts anew when the setting changes.
RESET_DIRTY_LIMIT = "".join(f"echo {ratio} >/proc/sys/vm/dirty_ratio; " for ratio in (21, 20))


def commands(seconds, balloon_mib, resets_dirty_limit):
    """What the guest runs. It waits until its balloon has the pages that it is to have."""
    pages = balloon_mib * 256
    wait = ("until set -- $(grep -E 'balloon_(in|de)flate' /proc/vmstat)"
            f" && [ $(($2 - $4)) -ge {pages} ]; do sleep 1; done; ") if pages else ""
    reset = RESET_DIRTY_LIMIT if resets_dirty_limit else ""
    return (f"{wait}{reset}mount -t ext4 /dev/vda /mnt && cd /mnt && free | grep Mem:"
            f" && ./{LOADER} --library-path . ./dbench -c client.txt -D data -t {seconds}"
            f" {CLIENTS} | grep -E 'Throughput|Flush|failed'"
            " && grep -E 'balloon_|pswp|oom_kill' /proc/vmstat"
            " && cut -d' ' -f 1 /proc/uptime && cat /sys/block/vda/stat && echo measured"
            " && cd / && umount /mnt && read line")


def measure(contestant, initrd, seconds, balloon_mib, resets_dirty_limit, stats):
    """One life of a guest: its throughput, and what says whether it was what was meant."""
    with contest.Guest(contestant, contest.harness.kernel(), initrd,
                       commands(seconds, balloon_mib, resets_dirty_limit)) as guest:
        _, match = guest.expect(r"^Throughput ([0-9.]+) MB/sec",
                                INFLATE_SECONDS + 3 * seconds + 120)
        result = {"mb_per_second": float(match.group(1))}
        guest.expect(r"^measured$", 60)
        words = "\n".join(guest.said)
        for name, value in re.findall(r"(?m)^(balloon_\w+|pswp\w+|oom_kill) (\d+)$", words):
            result[name] = int(value)
        disk = re.search(r"(?m)^\s*(\d+)\s+\d+\s+(\d+)\s+\d+\s+(\d+)\s+\d+\s+(\d+)\s", words)
        if disk:
            result["disk"] = dict(zip(("reads", "sectors_read", "writes", "sectors_written"),
                                      map(int, disk.groups())))
        guest.finish()
    if result.get("oom_kill"):
        raise RuntimeError(f"{contestant.name}: the guest killed a process for want of memory")
    with open(stats, encoding="utf-8") as stream:
        result["stats"] = json.load(stream)
    return result
