"""Small ext4 disks for guests with programs of Debian: some packages, unpacked, and files beside.

They are read-only, and complete enough for `chroot`. Nothing is installed, nothing needs root.
"""

import os
import shutil
import subprocess

import contest

SIZE = "512M"


def fetch(package):
    """A Debian package, unpacked in the cache; gives its folder."""
    cache = os.environ.get("AEROSTAT_CACHE", os.path.join(contest.ROOT, ".cache"))
    folder = os.path.join(cache, "packages", package)
    if not os.path.isdir(folder):
        subprocess.run([os.path.join(contest.ROOT, "guests", "fetch-package"), package, folder],
                       check=True, stdout=subprocess.DEVNULL)
    return folder


def make(folder, name, packages, trees=()):
    """Makes an image in that folder and gives its path; trees are (path here, path in it)."""
    root, image = os.path.join(folder, name), os.path.join(folder, f"{name}.img")
    for empty in ("dev", "proc", "tmp"):
        os.makedirs(os.path.join(root, empty))
    for package in packages:
        subprocess.run(["cp", "-a", f"{fetch(package)}/.", root], check=True)
    for here, there in trees:
        shutil.copytree(here, os.path.join(root, there))
    for waste in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(os.path.join(root, waste), ignore_errors=True)
    mke2fs = shutil.which("mke2fs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    subprocess.run([mke2fs or "mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-d", root,
                    image, SIZE], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return image


def enter(command):
    """Shell: the disk is /mnt, and `command` runs in it with /tmp in memory."""
    return ("mount -t ext4 -o ro /dev/vda /mnt && mount --bind /dev /mnt/dev"
            " && mount -t proc proc /mnt/proc && mount -t tmpfs tmp /mnt/tmp"
            f" && {command}")
