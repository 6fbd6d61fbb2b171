"""What the demo's VMs boot, made in the cache: the kernel, the initramfs, the disk image."""

import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
BUILD = os.path.join(ROOT, "build")
CACHE = os.environ.get("AEROSTAT_CACHE", os.path.join(ROOT, ".cache"))
PROGRAMS = ("checker", "paging")  # of build/guests, which are there


def _output_of(script, *arguments):
    return subprocess.run([os.path.join(ROOT, script), *arguments], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def make():
    """The paths of the three; CalledProcessError where a script fails, which has said why."""
    guest = os.path.join(HERE, "guest")
    initrd = os.path.join(CACHE, "demo", "initramfs.cpio")
    kernel = _output_of("guests/fetch-kernel")
    image = _output_of("demo/make-image", *(os.path.join(BUILD, "guests", name)
                                            for name in PROGRAMS))
    _output_of("guests/make-initramfs", initrd, "+button", "+evdev",
               f"{guest}/start=bin/demo-start", f"{guest}/power-button=etc/acpi/PWRF/00000080")
    return kernel, os.path.abspath(initrd), os.path.abspath(image)
