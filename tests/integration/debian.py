"""A complete Debian in a VM, for the tests that `make soak` runs: log in, run commands, power off.

    with Debian(image) as debian:
        debian.log_in()
        print(debian.run("uname -a"))
        debian.power_off()

guests/make-debian-image says what is on the disk. The engine is $AEROSTAT_ENGINE, by default the
translator, which these tests are for.
"""

import os
import subprocess

import harness

ENGINE = os.environ.get("AEROSTAT_ENGINE", "translate")
PASSWORD = "aerostat"
LOGIN_SECONDS = 600  # the interpreter needs minutes, on a busy machine


def make_image(folder):
    """A copy of the image, to be changed."""
    original = harness.output_of("make-debian-image")
    copy = os.path.join(folder, "root.img")
    subprocess.run(["cp", "--reflink=auto", "--sparse=always", original, copy], check=True)
    return copy


def initramfs():
    harness.output_of("make-debian-image")
    cache = os.environ.get("AEROSTAT_CACHE", os.path.join(harness.ROOT, ".cache"))
    return os.path.join(cache, "debian", "initramfs.cpio")


def check_file_system(image):
    """fsck's output if it finds anything wrong, else None."""
    done = subprocess.run(["/sbin/e2fsck", "-f", "-n", image], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    return done.stdout if done.returncode != 0 else None


class CommandFailed(AssertionError):
    pass


def boot_options(pci=False):
    """Kernel, initramfs and command line; with pci as QEMU wants them."""
    append = harness.FAST_BOOT.replace("pci=off ", "") if pci else harness.FAST_BOOT
    dashes = "-" if pci else "--"
    return [f"{dashes}kernel", harness.kernel(), f"{dashes}initrd", initramfs(),
            # systemd gives up on a serial port after 90 s, which pass on a busy machine.
            f"{dashes}append", f"{append} disk=/dev/vda systemd.default_device_timeout_sec=600"]


def command_of(image, engine=ENGINE, cpus=1, memory="1G", extra=()):
    return [harness.AEROSTAT, "run", "--engine", engine, "--disk", image, "--cpus", str(cpus),
            "--memory", memory, *extra, *boot_options()]


class Debian(harness.Vm):
    """Options are those of command_of(); another command altogether is for QEMU."""

    def __init__(self, image, command=None, **options):
        super().__init__((), command=command or command_of(image, **options),
                         stdin=subprocess.PIPE)
        self._commands = 0

    def wait_for_login(self):
        # That of the virtio console may come before, or in between, in the middle of a line. What is
        # typed before the prompt waits for it.
        self.expect(r"(?s)aerostat ttyS0\s.*?login: ", LOGIN_SECONDS)

    def log_in(self):
        """As root, by typing name and password; then a shell that says only what it is asked."""
        self.wait_for_login()
        self.send("root\n")
        self.expect(r"Password: ", LOGIN_SECONDS)
        self.send(PASSWORD + "\n")
        self.expect(r"root@aerostat:.*# ", LOGIN_SECONDS)
        self.send("stty -echo; dmesg -n 1; exec env -u PS1 TERM=dumb sh\n")
        self.send("PS1=; PS2=; export LC_ALL=C DEBIAN_FRONTEND=noninteractive; cd\n")
        self.run("true", LOGIN_SECONDS)

    def run(self, command, seconds=300):
        """What a command says, on both of its outputs, without the last line's end.

        Its status must be 0.
        """
        self._commands += 1
        begin, end = f"@begin {self._commands}", f"@end {self._commands}"
        self.send(f"echo '{begin}'; ( {command}\n) </dev/null 2>&1; echo; echo '{end}' $?\n")
        match = self.expect(rf"(?s){begin}\n(.*?)\n?\n{end} (\d+)\n", seconds)
        if match.group(2) != "0":
            raise CommandFailed(f"status {match.group(2)} of: {command}\n{match.group(1)[-4000:]}")
        return match.group(1)

    def reboot(self):
        """To the next login prompt."""
        self.send("systemctl reboot\n")
        self.expect("reboot: Restarting system", LOGIN_SECONDS)
        self.forget()

    def power_off(self):
        """Gives the VMM's exit status."""
        self.send("systemctl poweroff\n")
        return self.wait(LOGIN_SECONDS)
