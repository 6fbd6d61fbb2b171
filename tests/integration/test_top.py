#!/usr/bin/env python3
"""aerostat top, on a terminal and without, beside a stand-in for the manager."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import control
import harness
import vt100
from harness import AEROSTAT

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1 << 20
CURSOR_KEYS = 1  # DECCKM
KEYS = "q quit  h help"


def vm(name, resident, **others):
    return {"name": name, "pid": 7, "max": 256 * MIB, "min": 32 * MIB, "target": 100 * MIB,
            "resident": resident * MIB, "active": 20 * MIB, "balloon": 30 * MIB,
            "balloon_target": 31 * MIB, "swapped": 2 * MIB, "compressed": 3 * MIB,
            "shared": 4 * MIB, "shared_saved": 1 * MIB, "overhead": 5 * MIB, "paused": False,
            "balloon_state": "steady", "shadow_memory": 2 * MIB, "mmu_mode": "nested",
            "mmu_is_chosen": False, **others}


class Screen:
    """The program on a terminal of its own."""

    def __init__(self, rows=24, columns=80, terminal="vt100", command=None):
        self.master, self.slave = pty.openpty()
        self.screen = vt100.Screen(rows, columns)
        self.set_size(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        environment = {**os.environ, "TERM": terminal, "TZ": "UTC"}
        environment.pop("LINES", None)
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            command or [AEROSTAT, "top", "--interval", "0.1"], stdin=self.slave,
            stdout=self.slave, stderr=self.slave, start_new_session=True, env=environment,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)

    def set_size(self, rows, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        """The kernel tells the program; the terminal's own picture is what it draws next."""
        self.screen.resize(rows, columns)
        self.set_size(rows, columns)

    def type(self, keys):
        os.write(self.master, keys)

    def read(self):
        if select.select([self.master], [], [], 0.05)[0]:
            self.screen.feed(os.read(self.master, 65536))

    def until(self, condition):
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while not condition(self.screen):
            assert time.monotonic() < deadline, self.screen.text()
            self.read()

    def expect(self, *texts):
        self.until(lambda screen: all(text in screen.text() for text in texts))

    def expect_names(self, *names):
        self.until(lambda screen: [line.split(" ")[0] for line in screen.lines()[5:8]]
                   == list(names))

    def is_restored(self):
        return termios.tcgetattr(self.slave) == self.before

    def wait(self):
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        return self.process.wait(1), self.is_restored()


class Case(control.TestCase):
    manager = None

    def setUp(self):
        super().setUp()
        os.mkdir(self.runtime, 0o700)
        self.addCleanup(self.stop_manager)

    def start_manager(self, *vms, **host):
        self.tell(*vms, **host)
        self.manager = subprocess.Popen([sys.executable, os.path.join(HERE, "manager_stub.py")])
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while not os.path.exists(os.path.join(self.runtime, "manager.sock")):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def stop_manager(self):
        if self.manager is not None:
            self.manager.kill()
            self.manager.wait()
            self.manager = None

    def tell(self, *vms, **host):
        path = os.path.join(self.runtime, "status.json")
        with open(path + ".new", "w", encoding="utf-8") as stream:
            json.dump({"host": {"memory": 1024 * MIB, "free": 70 * MIB, "used": 954 * MIB,
                                "shared": 12 * MIB, "pool": 4 * MIB, "state": "soft", "tax": 0.75,
                                **host}, "vms": vms}, stream)
        os.replace(path + ".new", path)


class OnATerminal(Case):
    def setUp(self):
        super().setUp()
        self.start_manager(vm("one", 50), vm("two", 70),
                           vm("three", 60, mmu_mode="shadow", mmu_is_chosen=True))

    def test_shows_sorts_helps_and_quits(self):
        with Screen() as top:
            top.expect("host soft: memory 1G, free 70M (6.8%), used 954M, pool 4M  tax 75%",
                       "3 VMs of 768M", "columns 1 to 12 of 24", KEYS)
            top.expect("two       256M   32M  100M   70M   20M   30M   31M    2M    3M    4M    1M"
                       "    5M")
            top.expect_names("one", "three", "two")
            top.type(b"r")
            top.expect_names("two", "three", "one")
            top.type(b"z")
            top.expect_names("one", "three", "two")
            top.type(b"\x1bOC\x1bOC")  # the right arrow, twice
            top.expect("columns 3 to 14 of 24", "SWI/s")
            top.type(b"h")
            top.expect("KEY TITLE MEANING", "s   NAME", "p   CPU%")
            top.type(b"h")
            top.expect("KEY TITLE MEANING", "M   MIS/s", "U   MMU")
            top.type(b"s")
            top.expect(KEYS)
            top.type(b"\x1bOC" * 12)  # to the right end
            top.expect("columns 13 to 24 of 24", "MIS/s  REFS HID/s TRC/s   SHD   MMU",
                       "2M  nest", "shad+")
            top.type(b"q")
            self.assertEqual(top.wait(), (0, True))

    def test_follows_what_changes(self):
        with Screen() as top:
            top.expect_names("one", "three", "two")
            self.tell(vm("two", 71), vm("four", 10, paused=True), state="low", free=3 * MIB)
            top.expect("host low: memory 1G, free 3M (0.3%)")
            top.expect_names("*four", "two", "")

    def test_follows_the_size(self):
        with Screen() as top:
            top.expect("columns 1 to 12 of 24")
            top.resize(30, 130)
            top.expect("SCN/s  CPU%", KEYS)
            self.assertIn(KEYS, top.screen.lines()[29])
            top.resize(8, 60)
            top.until(lambda screen: KEYS in screen.lines()[7])
            top.expect("VMs 1 to 2 of 3, columns 1 to 8 of 24")
            top.resize(2, 20)
            top.expect("too small: q quits")
            top.type(b"q")
            self.assertEqual(top.wait(), (0, True))

    def test_signals_put_the_terminal_back(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            with self.subTest(signal=number.name), Screen() as top:
                top.expect(KEYS)
                self.assertFalse(top.is_restored())
                top.process.send_signal(number)
                self.assertEqual(top.wait(), (-number, True))

    def test_interrupt_key(self):
        with Screen() as top:
            top.expect(KEYS)
            top.type(b"\x03")
            self.assertEqual(top.wait(), (-signal.SIGINT, True))

    def test_stopped_and_continued(self):
        """By Ctrl-Z, under a shell: somebody else has the terminal meanwhile."""
        shell = f"{AEROSTAT} top --interval 0.1; echo stopped; read line; fg; echo ended"
        with Screen(command=["sh", "-mc", shell]) as top:
            top.expect("host soft", KEYS)
            top.type(b"\x1a")
            top.expect("stopped")
            self.assertTrue(top.is_restored())
            top.type(b"go on\n")
            top.until(lambda screen: "stopped" not in screen.text() and KEYS in screen.lines()[23])
            top.expect("host soft")
            top.type(b"q")
            top.expect("ended")
            self.assertEqual(top.wait(), (0, True))

    def test_stopped_while_it_draws(self):
        rounds = 20
        shell = (f"{AEROSTAT} top --interval 0.1; for round in $(seq {rounds});"
                 f" do echo stopped $round; read line; fg; done; echo ended")
        with Screen(command=["sh", "-mc", shell]) as top:
            for number in range(1, rounds + 1):
                top.until(lambda screen: CURSOR_KEYS in screen.modes)  # what it sends first
                top.type(b"\x1a")
                top.expect(f"stopped {number}")
                self.assertTrue(top.is_restored())
                top.screen.modes.clear()  # the kernel drops what is on its way at Ctrl-Z
                top.type(b"go on\n")
            top.expect("host soft", KEYS)
            top.type(b"q")
            top.expect("ended")
            self.assertEqual(top.wait(), (0, True))

    def test_terminal_that_goes_away(self):
        with Screen() as top:
            top.expect(KEYS)
            for descriptor in (top.slave, top.master):
                os.close(descriptor)
            top.master = top.slave = -1
            self.assertIn(top.process.wait(harness.EXIT_SECONDS), (0, -signal.SIGHUP))

    def test_manager_that_goes_away(self):
        with Screen() as top:
            top.expect(KEYS)
            self.stop_manager()
            top.until(lambda screen: KEYS not in screen.text() and "manager" in screen.lines()[23])
            top.expect_names("one", "three", "two")  # the last that was known
            with contextlib.suppress(FileNotFoundError):  # top has found it dead, and removed it
                os.unlink(os.path.join(self.runtime, "manager.sock"))
            self.start_manager(vm("new", 1))
            top.expect_names("new", "", "")
            top.expect(KEYS)

    def test_terminal_that_nobody_knows(self):
        with Screen(terminal="no-such-terminal") as top:
            top.expect("TERM=no-such-terminal is no terminal that is known here; try --plain")
            self.assertEqual(top.wait(), (2, True))


class Plain(Case):
    def test_tables(self):
        self.start_manager(vm("one", 50, swap_read=0, tlb_misses=9), vm("two", 70))
        status, output, errors = self.run_command("top", "--count", "2", "--interval", "0.1")
        self.assertEqual((status, errors), (0, ""))
        tables = output.decode().split("\n\n")
        lines = output.decode().splitlines()
        self.assertEqual(sum(line.startswith("NAME ") for line in lines), 2, tables)
        self.assertEqual(sum(line.startswith("one ") for line in lines), 2)
        rows = [line.split() for line in lines if line.startswith("one ")]
        self.assertEqual(rows[0][1:13], ["256M", "32M", "100M", "50M", "20M", "30M", "31M", "2M",
                                         "3M", "4M", "1M", "5M"])
        self.assertEqual((rows[0][13], rows[1][13]), ("-", "0"))
        self.assertEqual(rows[1][19:], ["0", "-", "-", "-", "2M", "nest"])

    def test_manager_that_ends(self):
        self.start_manager(vm("one", 50))
        process = subprocess.Popen([AEROSTAT, "top", "--plain", "--interval", "0.1"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        with process:
            while not process.stdout.readline().startswith("one "):
                pass
            self.stop_manager()
            self.assertIn("The manager has ended.\n", process.stdout.read())
            self.assertEqual(process.wait(harness.EXIT_SECONDS), 0)

    def test_no_manager(self):
        status, output, errors = self.run_command("top")
        self.assertEqual((status, output, errors.count("\n")), (2, b"", 1), errors)
        self.assertIn("manager", errors)

    def test_mistakes(self):
        for arguments in (["--interval", "0"], ["--interval", "1s"], ["--interval", "nan"],
                          ["--interval", ""], ["--count", "0"], ["--count", "x"], ["vm1"],
                          ["--colour"]):
            with self.subTest(arguments=arguments):
                status, output, errors = self.run_command("top", *arguments)
                self.assertEqual((status, output, errors.count("\n")), (2, b"", 1), errors)


if __name__ == "__main__":
    harness.main()
