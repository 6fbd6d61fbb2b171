"""What the integration tests share: running `aerostat run`, watching its console, and reporting.

A test file has classes of unittest.TestCase and ends with `harness.main()`, which prints results in
cmocka's form ("[       OK ] name"), so that tests/run-tests counts all tests in one way.

The program under test is $AEROSTAT, by default build/bin/aerostat. All waiting has a limit; the
limits are wide, since they are there to end a hanging test, not to measure.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AEROSTAT = os.environ.get("AEROSTAT", os.path.join(ROOT, "build", "bin", "aerostat"))
ENGINE = os.environ.get("AEROSTAT_ENGINE")  # None: the default one
MMU = os.environ.get("AEROSTAT_MMU")        # likewise
CHECKER = os.environ.get("AEROSTAT_CHECKER", os.path.join(ROOT, "build", "guests", "checker"))
GUESTS = os.path.join(ROOT, "guests")

# Crypto self-tests are 60 % of the instructions of a boot of Debian's kernel.
FAST_BOOT = "console=ttyS0 quiet pci=off tsc=reliable no_timer_check cryptomgr.notests"
BOOT_SECONDS = 240
EXIT_SECONDS = 120

STATUS_OK, STATUS_USAGE, STATUS_SHUTDOWN, STATUS_FAILURE = 0, 2, 3, 4


def kernel():
    """Path of Debian's bzImage; fetched when it is missing."""
    return output_of("fetch-kernel")


def initramfs():
    return output_of("make-initramfs")


def kernel_release():
    with open(os.path.join(os.path.dirname(kernel()), "release"), encoding="ascii") as stream:
        return stream.read().strip()


def kernel_version():
    """(major, minor)"""
    return tuple(int(part) for part in kernel_release().split(".")[:2])


def output_of(script, *arguments):
    return subprocess.run([os.path.join(GUESTS, script), *arguments], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


def find_tool(name):
    """A program of the system's; it may not be on an ordinary user's path."""
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") or name


def boot_arguments(commands, memory="128M", append=""):
    """Arguments that boot Debian, run shell commands (no double quotes in them) and power off."""
    assert '"' not in commands
    return ["--kernel", kernel(), "--initrd", initramfs(), "--memory", memory,
            "--append", f'{FAST_BOOT} {append} run="{commands}"']


def engine_options():
    """What tests that are repeated with other engines and MMUs are run with."""
    return (["--engine", ENGINE] if ENGINE else []) + (["--mmu", MMU] if MMU else [])


def sha256_of(path, length=None):
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read() if length is None else stream.read(length)).hexdigest()


def threads_of(pid):
    """What each thread does, twice, a while apart: for a process that should have ended."""
    told = ""
    for pause in (0, 2):
        time.sleep(pause)
        with contextlib.suppress(OSError):
            for thread in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
                with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8") as stream:
                    name, fields = stream.read().split("(", 1)[1].rsplit(") ", 1)
                state, user, system = (fields.split()[i] for i in (0, 11, 12))
                told += f"{thread} {name}: {state}, {user} + {system} ticks\n"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            told += subprocess.run(["eu-stack", "-p", str(pid)], check=False, text=True, timeout=60,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    return told


class Vm:
    """A running `aerostat run`. Its console is read all the time, so that it never blocks.

        with Vm(boot_arguments("uname -a")) as vm:
            vm.expect(rb"Linux .*")
            status = vm.wait()

    `command` is another one altogether, for QEMU.
    """

    def __init__(self, arguments, command=None, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        self._errors = tempfile.TemporaryFile()
        engine = engine_options()
        self.process = subprocess.Popen(command or [AEROSTAT, "run", *engine, *arguments],
                                        stderr=self._errors, **options)
        self.pid = self.process.pid
        self._console = b""
        self._ended = False
        self._changed = threading.Condition()
        self._reader = None
        if self.process.stdout is not None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()

    def _read(self):
        while chunk := os.read(self.process.stdout.fileno(), 65536):
            with self._changed:
                self._console += chunk
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._reader is not None:
            self._reader.join(10)
            self.process.stdout.close()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self._errors.close()

    @property
    def console(self):
        """What the guest has printed, with the terminal's line ends made plain."""
        with self._changed:
            return self._console.replace(b"\r\n", b"\n").decode(errors="replace")

    @property
    def errors(self):
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def expect(self, pattern, seconds=BOOT_SECONDS):
        """Waits until the console matches; gives the match."""
        deadline = time.monotonic() + seconds
        compiled = re.compile(pattern, re.MULTILINE)
        while True:
            with self._changed:
                ended = self._ended
            if match := compiled.search(self.console):
                return match
            left = deadline - time.monotonic()
            if ended or left <= 0:
                what, report = ("the console ended", self.report()) if ended else \
                    (f"{seconds} s passed", self.hang_report())
                raise AssertionError(f"{what} without {pattern!r}\n{report}")
            with self._changed:
                if not self._ended:
                    self._changed.wait(min(left, 1))

    def forget(self):
        """What was printed until now is matched no more."""
        with self._changed:
            self._console = b""

    def send(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=BOOT_SECONDS):
        """The exit status, negative for a signal as in subprocess."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s\n{self.hang_report()}") from None
        if self._reader is not None:
            self._reader.join(10)
        return status

    def report(self):
        return (f"--- console (end)\n{self.console[-4000:]}\n"
                f"--- errors\n{self.errors[-2000:]}---")

    def hang_report(self):
        return f"{self.report()}\n{threads_of(self.pid)}"


class TestCase(unittest.TestCase):
    """A folder of its own for each test, and the checks that many tests make."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="aerostat-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def make_file(self, name, data=b""):
        with open(self.path(name), "wb") as stream:
            stream.write(data)
        return self.path(name)

    def run_vm(self, arguments, seconds=BOOT_SECONDS, **options):
        """Runs a VM to its end; gives (status, console, errors)."""
        with Vm(arguments, **options) as vm:
            status = vm.wait(seconds)
            return status, vm.console, vm.errors

    def check_boot(self, commands, extra=(), **options):
        """Boots, runs commands that must succeed, powers off; gives the console."""
        with Vm([*boot_arguments(commands, **options), *extra]) as vm:
            status = vm.wait()
            self.assertEqual((status, vm.errors), (STATUS_OK, ""), vm.report())
            self.assertRegex(vm.console, r"(?m)^aerostat-guest: exit 0$", vm.report())
            return vm.console

    def check_refused(self, arguments, *words, seconds=EXIT_SECONDS, status=STATUS_USAGE,
                      **options):
        """The VMM says no: the given status, one line of error that has all the words, no more."""
        result, console, errors = self.run_vm(arguments, seconds, **options)
        said = f"status {result}, stderr: {errors!r}"
        self.assertEqual(result, status, said)
        self.assertEqual(console, "", said)
        self.assertRegex(errors, r"\Aaerostat: [^\n]+\n\Z", said)
        for word in words:
            self.assertIn(word, errors)


class _Result(unittest.TestResult):
    def startTest(self, test):
        super().startTest(test)
        self._name = test.id().split(".", 1)[1]
        self._failed = False
        print(f"[ RUN      ] {self._name}", flush=True)

    def _fail(self, error):
        # unittest may report an error in a test and one in its clean-up.
        if not self._failed:
            print(f"[  FAILED  ] {self._name}")
        self._failed = True
        print(error, flush=True)

    def addSuccess(self, test):
        super().addSuccess(test)
        print(f"[       OK ] {self._name}", flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        self._fail(self._exc_info_to_string(err, test))

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._fail(self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._fail(f"{subtest}\n{self._exc_info_to_string(err, test)}")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"[  SKIPPED ] {self._name}\n{reason}", flush=True)


def main():
    """Runs the tests of the calling file; names on the command line choose some."""
    # meson ends a test that hangs with SIGTERM: clean up on that way too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    loader = unittest.defaultTestLoader
    module = sys.modules["__main__"]
    names = sys.argv[1:]
    suite = loader.loadTestsFromNames(names, module) if names else \
        loader.loadTestsFromModule(module)
    result = _Result()
    suite.run(result)
    if result.testsRun == 0:
        print("no tests")
        sys.exit(1)
    sys.exit(0 if result.wasSuccessful() else 1)
