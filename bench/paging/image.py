"""Small ext4 disks for guests with programs of Debian: some packages, unpacked, and files beside.

They are read-only, and complete enough for `chroot`. Nothing is installed, nothing needs root.
"""

import os
import shutil
import subprocess

import contest

SIZE = "512M"


def make(folder, name, packages, trees=(), size=SIZE):
    """Makes an image in that folder and gives its path; trees are (path here, path in it)."""
    root, image = os.path.join(folder, name), os.path.join(folder, f"{name}.img")
    for empty in ("dev", "proc", "tmp"):
        os.makedirs(os.path.join(root, empty))
    for package in packages:
        subprocess.run(["cp", "-a", f"{contest.fetch_package(package)}/.", root], check=True)
    for here, there in trees:
        shutil.copytree(here, os.path.join(root, there))
    for waste in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(os.path.join(root, waste), ignore_errors=True)
    contest.make_ext4(image, root, size)
    return image


def enter(command):
    """Shell: the disk is /mnt, and `command` runs in it with /tmp in memory."""
    return ("mount -t ext4 -o ro /dev/vda /mnt && mount --bind /dev /mnt/dev"
            " && mount -t proc proc /mnt/proc && mount -t tmpfs tmp /mnt/tmp"
            f" && {command}")
