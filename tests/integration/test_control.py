#!/usr/bin/env python3
"""VMs under control: ps, stats, pause, stop, the console, the background; and hostile clients. With
kernels of a few bytes."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
import unittest

import control
import harness
import tiny_kernel
from harness import AEROSTAT, Vm

UP = tiny_kernel.serial(b"up\n")
# DTR and RTS; then for ever: wait for a byte, send it back with bit 5 turned.
ECHO = (b"\x66\xba\xfc\x03\xb0\x03\xee"
        b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7"
        b"\x66\xba\xf8\x03\xec\x34\x20\xee"
        b"\xeb\xed")
SUBCOMMANDS = ("ps", "stats", "balloon", "resident", "pause", "resume", "stop", "console")


def countdown(count):
    """Prints the low bytes of count, count - 1, ... 1, at the port's pace."""
    return (b"\xb9" + struct.pack("<I", count) +
            b"\x66\xba\xfd\x03\xec\xa8\x20\x74\xf7"
            b"\x66\xba\xf8\x03\x88\xc8\xee\x49\x75\xed")


class Case(control.TestCase):
    def tiny(self, code, name="kernel"):
        return ["--kernel", self.make_file(name, tiny_kernel.multiboot(code)), "--memory", "16M"]

    def spinning(self):
        return self.tiny(UP + tiny_kernel.SPIN)

    def halting(self):
        return self.tiny(UP + tiny_kernel.HALT, "halting")

    def cpu_seconds(self, pid):
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Listing(Case):
    def test_several(self):
        self.assertEqual(self.rows(), {})
        self.assertRegex(self.command("ps"), r"\ANAME +STATE[^\n]*PID *\n\Z")
        with Vm([*self.spinning(), "--name", "front"]) as vm:
            vm.expect("up", harness.EXIT_SECONDS)
            self.assertEqual(self.detach([*self.halting(), "--cpus", "2"]), "vm1")
            self.assertEqual(self.detach(self.halting()), "vm2")
            self.command("pause", "vm2")
            rows = self.rows()
            self.assertEqual(list(rows), ["front", "vm1", "vm2"])
            self.assertEqual(rows["front"]["pid"], vm.pid)
            self.assertEqual([rows[name]["state"] for name in rows],
                             ["running", "running", "paused"])
            self.assertEqual([rows[name]["cpus"] for name in rows], [1, 2, 1])
            for row in rows.values():
                self.assertEqual(row["max"], 16 << 20)
                self.assertLessEqual(row["resident"], 16 << 20)
            lines = self.command("ps").splitlines()
            self.assertEqual(len(lines), 4)
            self.assertRegex(lines[1], rf"\Afront +running +1 +16M .* {vm.pid}\Z")
            self.assertRegex(lines[3], r"\Avm2 +paused +1 +16M ")
            vm.signal(signal.SIGTERM)
            vm.wait(harness.EXIT_SECONDS)
        self.assertEqual(list(self.rows()), ["vm1", "vm2"])

    def test_the_table_fits_a_terminal(self):
        name = "x" * 64
        self.detach(self.halting(), name)
        master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            subprocess.run([AEROSTAT, "ps"], stdout=slave, check=True, timeout=60)
            text = os.read(master, 65536).decode()
        finally:
            os.close(master)
            os.close(slave)
        self.assertEqual(len(text.splitlines()), 2)
        for line in text.splitlines():
            self.assertLessEqual(len(line), 80)
        self.assertIn(name, self.command("ps"))  # not on a terminal: whole

    def test_dead_ones_are_cleaned_up(self):
        names = [self.detach(self.halting()) for _ in range(3)]
        for name in names:
            pid = self.rows()[name]["pid"]
            os.kill(pid, signal.SIGKILL)
            self.wait_for(lambda: not self.is_alive(pid), "the end")
            self.assertIn(name + ".sock", os.listdir(self.runtime))
            if name == "vm1":
                self.check_fails("stats", name, words=[name])
            elif name == "vm2":
                self.assertNotIn(name, self.rows())
            else:
                self.assertEqual(self.detach(self.halting(), name), name)
                continue
            self.assertNotIn(name + ".sock", os.listdir(self.runtime))
            self.assertNotIn(name + ".log", os.listdir(self.runtime))

    def test_one_that_hangs_is_listed(self):
        name, other = self.detach(self.halting()), self.detach(self.halting())
        pid = self.rows()[name]["pid"]
        os.kill(pid, signal.SIGSTOP)
        # kill returns before they stand still: the one that answers might still do so.
        self.wait_for(lambda: self.thread_states(pid) == {"T"}, "that all threads are stopped")
        rows = self.rows()
        self.assertEqual(rows[name], {"name": name, "state": "hangs", "pid": pid})
        self.assertEqual(rows[other]["state"], "running")
        self.command("stop", "--force", name, seconds=harness.EXIT_SECONDS)
        self.assertFalse(self.is_alive(pid))
        self.assertEqual(list(self.rows()), [other])

    def test_a_name_is_taken_once(self):
        self.detach(self.halting(), "web")
        for extra in ([], ["--detach"]):
            self.check_refused([*self.halting(), "--name", "web", *extra], "web")
        self.assertEqual(list(self.rows()), ["web"])

    def test_folder_that_others_get_into(self):
        os.mkdir(self.runtime)
        os.chmod(self.runtime, 0o755)
        self.check_refused(self.halting(), self.runtime)
        self.check_fails("ps", words=[self.runtime])
        os.chmod(self.runtime, 0o700)

    def test_stats(self):
        name = self.detach(self.halting(), "web")
        stats = self.stats(name)
        self.assertEqual((stats["name"], stats["state"], stats["max"], stats["resets"]),
                         ("web", "running", 16 << 20, 0))
        text = self.command("stats", name)
        self.assertRegex(text, r"(?m)^name +web$")
        self.assertRegex(text, r"(?m)^max +16777216  \(16M\)$")
        self.assertRegex(text, r"(?m)^devices 0, rng:$")


class Pausing(Case):
    def test_nothing_runs_until_it_is_resumed(self):
        for cpus in ("1", "3"):
            with self.subTest(cpus=cpus), Vm([*self.spinning(), "--cpus", cpus]) as vm:
                vm.expect("up", harness.EXIT_SECONDS)
                for _ in range(2):
                    self.command("pause", "vm1")  # again: no harm
                self.assertEqual(self.rows()["vm1"]["state"], "paused")
                before = self.cpu_seconds(vm.pid)
                time.sleep(0.5)
                self.assertLess(self.cpu_seconds(vm.pid) - before, 0.1)
                for _ in range(2):
                    self.command("resume", "vm1")
                self.assertEqual(self.rows()["vm1"]["state"], "running")
                before = self.cpu_seconds(vm.pid)
                self.wait_for(lambda: self.cpu_seconds(vm.pid) > before + 0.1, "running again")
                # A pause is no obstacle to any end.
                self.command("pause", "vm1")
                vm.signal(signal.SIGTERM)
                self.assertEqual(vm.wait(harness.EXIT_SECONDS), 128 + 15, vm.report())

    def test_across_resets(self):
        """The guest resets all the time: a pause comes at any moment of that, also between two
        machines, and holds for the one that comes."""
        with Vm(self.tiny(UP + tiny_kernel.RESET)) as vm:
            vm.expect("up\nup\n", harness.EXIT_SECONDS)
            with self.connect("vm1") as connection:
                for _ in range(40):
                    self.assertEqual(connection.ask(request="pause")["state"], "paused")
                    resets = connection.ask(request="stats")["stats"]["resets"]
                    self.assertEqual(connection.ask(request="stats")["stats"]["resets"], resets)
                    self.assertEqual(connection.ask(request="resume")["state"], "running")
                    self.wait_for(lambda: connection.ask(request="stats")["stats"]["resets"] >
                                  resets, "another reset")
            self.command("stop", "vm1")
            self.assertEqual((vm.wait(harness.EXIT_SECONDS), vm.errors), (0, ""), vm.report())


class Stopping(Case):
    def test_a_guest_without_a_driver_is_ended(self):
        for arguments in ([], ["--force"]):
            stats = self.path("stats.json")
            with self.subTest(arguments=arguments), Vm([*self.spinning(), "--stats", stats]) as vm:
                vm.expect("up", harness.EXIT_SECONDS)
                self.command("stop", *arguments, "vm1")
                self.assertEqual((vm.wait(harness.EXIT_SECONDS), vm.errors), (0, ""))
                with open(stats, encoding="utf-8") as stream:
                    self.assertEqual(json.load(stream)["exit_status"], 0)
            self.assertEqual(os.listdir(self.runtime), [])

    def test_a_paused_one(self):
        name = self.detach(self.spinning())
        self.command("pause", name)
        self.check_fails("stop", name, words=["paused"])
        self.assertEqual(self.rows()[name]["state"], "paused")
        pid = self.rows()[name]["pid"]
        self.command("stop", "--force", name)
        self.wait_for(lambda: not self.is_alive(pid), "the end")
        self.check_fails("stop", name, words=[name])


class Background(Case):
    def test_it_outlives_its_parent_and_logs(self):
        name = self.detach([*self.spinning(), "--name", "web"])
        pid = self.rows()[name]["pid"]
        self.assertEqual(os.getsid(pid), pid)
        self.assertEqual({os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1)}, {"/dev/null"})
        os.kill(pid, signal.SIGTERM)
        self.wait_for(lambda: not self.is_alive(pid), "the end")
        with open(os.path.join(self.runtime, "web.log"), encoding="utf-8") as stream:
            self.assertRegex(stream.read(), r"\Aaerostat: stopped by signal 15 [^\n]*\n\Z")

    def test_what_cannot_start_says_why(self):
        missing = self.path("missing")
        for arguments, word in ((["--kernel", missing], missing),
                                ([*self.halting(), "--disk", missing], missing),
                                ([*self.halting(), "--memory", "1"], "--memory"),
                                ([*self.halting(), "--console", self.folder], self.folder),
                                ([*self.halting(), "--name", "-"], "--name")):
            with self.subTest(arguments=arguments):
                self.check_refused([*arguments, "--detach"], word)
        self.assertEqual(self.rows(), {})

    def test_nobody_hears_the_name(self):
        """Standard output closed or full: the VM runs, the command says what went wrong."""
        status = subprocess.run(["sh", "-c", 'exec "$@" >/dev/full', "sh", AEROSTAT, "run",
                                 "--detach", *self.halting()], stderr=subprocess.PIPE, text=True,
                                timeout=harness.EXIT_SECONDS, check=False)
        self.assertEqual(status.returncode, harness.STATUS_FAILURE)
        self.assertRegex(status.stderr, r"\Aaerostat: [^\n]+\n\Z")
        self.assertEqual(list(self.rows()), ["vm1"])

    def test_many_at_once(self):
        """Started all together, each gets a name of its own."""
        halting = self.halting()
        starts = [subprocess.Popen([AEROSTAT, "run", "--detach", *halting],
                                   stdout=subprocess.PIPE, text=True) for _ in range(8)]
        names = [start.communicate(timeout=harness.EXIT_SECONDS)[0].strip() for start in starts]
        self.assertEqual(sorted(names), [f"vm{i}" for i in range(1, 9)])
        self.assertEqual(sorted(self.rows()), sorted(names))


class Attached:
    """aerostat console on a terminal of its own."""

    def __init__(self, name):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            [AEROSTAT, "console", name], stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def type(self, keys):
        os.write(self.master, keys)

    def read(self):
        if select.select([self.master], [], [], 0.05)[0]:
            self.output += os.read(self.master, 65536)

    def expect(self, text):
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while text not in self.output:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output!r}"
            self.read()

    def wait(self):
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read()
        return self.process.wait(1), termios.tcgetattr(self.slave) == self.before


class Console(Case):
    def test_attach_detach_attach(self):
        name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO))
        with Attached(name) as first:
            first.expect(b"ready")  # from before
            self.assertIn(b"Ctrl-]", first.output)
            first.type(b"abc\x03")
            first.expect(b"ABC#")
            with Attached(name) as second:
                second.expect(b"ABC#")
                second.type(b"xy")
                first.expect(b"XY")
                second.expect(b"XY")
            first.type(b"\x1d\x1d")
            first.expect(b"=")
            first.type(b"\x1dq")
            self.assertEqual(first.wait(), (0, True))
        self.assertEqual(self.rows()[name]["state"], "running")
        with Attached(name) as third:
            third.expect(b"ABC#XY=")
            third.type(b"z")
            third.expect(b"Z")
            self.command("stop", name)
            self.assertEqual(third.wait(), (0, True))

    def test_signals_put_the_terminal_back(self):
        name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(signal=number.name), Attached(name) as attached:
                attached.expect(b"ready")
                attached.process.send_signal(number)
                self.assertEqual(attached.wait(), (128 + number, True))

    def test_without_a_terminal(self):
        name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO))
        kept = self.wait_for_console(name, b"ready\n")
        self.assertEqual(kept, b"ready\n")
        status, _, errors = self.run_command("console", name, stdin=b"a" * 5000)
        self.assertEqual((status, errors), (0, ""))
        kept = self.wait_for_console(name, b"A" * 5000)
        self.assertEqual(kept, b"ready\n" + b"A" * 5000)

    def test_the_last_64k_are_kept(self):
        count = 200000
        name = self.detach(self.tiny(countdown(count) + tiny_kernel.serial(b"end!") +
                                     tiny_kernel.SPIN))
        while self.stats(name)["port_io"] < count:
            pass
        # What the guest printed last may still be on its way: it comes after what was kept.
        kept = self.wait_for_console(name, b"end!")
        whole = bytes(i & 255 for i in range(count, 0, -1)) + b"end!"
        self.assertGreaterEqual(len(kept), 65536)
        self.assertLess(len(kept), len(whole))
        self.assertEqual(kept, whole[-len(kept):])

    def test_a_reader_that_does_not_read(self):
        """It misses something; the guest and the others do not notice."""
        count = 1000000
        name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO[:7] +
                                     b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7" +  # wait for a key
                                     countdown(count) + tiny_kernel.serial(b"end!") +
                                     tiny_kernel.SPIN))
        with self.connect(name) as lazy:
            self.assertEqual(lazy.ask(request="console"), {"version": 1, "ok": True})
            lazy.send(b"go")
            self.wait_for_console(name, b"end!")
            received = b""
            while not received.endswith(b"end!"):
                received += lazy.socket.recv(65536)
            self.assertLess(len(received), count)

    def test_what_the_guest_prints_last_arrives(self):
        code = (b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7" + tiny_kernel.serial(b"good bye") +
                tiny_kernel.debug_exit(0))
        name = self.detach([*self.tiny(tiny_kernel.serial(b"ready\n") + ECHO[:7] + code),
                            "--debug-exit"])
        with self.connect(name) as connection:
            connection.ask(request="console")
            connection.send(b"x")
            received = b""
            while chunk := connection.socket.recv(4096):
                received += chunk
        self.assertTrue((connection.received + received).endswith(b"good bye"), received)

    def test_where_there_is_none(self):
        with Vm(self.spinning()) as vm:
            vm.expect("up", harness.EXIT_SECONDS)
            self.check_fails("console", "vm1", words=["--console"])
        output = self.path("output")
        name = self.detach([*self.spinning(), "--console", output])
        self.check_fails("console", name, words=["--console"])
        self.wait_for(lambda: os.path.getsize(output) == 3, "the output")
        self.command("stop", name)

    def test_too_many(self):
        name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO))
        connections = [self.connect(name) for _ in range(5)]
        for connection in connections[:4]:
            self.assertTrue(connection.ask(request="console")["ok"])
        self.assertEqual(connections[4].ask(request="console")["code"], "busy")
        connections[0].socket.close()
        self.wait_for(lambda: self.run_command("console", name)[0] == 0, "a free place")
        # Consoles are not the connections that requests need.
        self.assertEqual(self.stats(name)["state"], "running")


class Mistakes(Case):
    def test_operands_and_options(self):
        self.detach(self.halting(), "web")
        for command in SUBCOMMANDS:
            operands = {"ps": [], "balloon": ["web", "1M"], "resident": ["web", "1M"]}.get(
                command, ["web"])
            with self.subTest(command=command):
                if operands and command != "stats":
                    self.check_fails(command, *operands[:-1], words=["missing", "--help"])
                self.check_fails(command, *operands, "extra", words=["extra"])
                self.check_fails(command, *operands, "--nonsense", words=["--nonsense"])
                self.check_fails(command, *operands, "-x", words=["-x"])
                self.check_fails(command, *operands, "--help=1")
                text = self.command(command, "--help")
                self.assertIn(f"usage: aerostat {command}", text)
                self.assertLessEqual(max(map(len, text.splitlines())), 100)
                if operands:
                    for name in ("", ".", "..", "../web", "/etc/passwd", "a/b", "a\nb", "x" * 65,
                                 "nonesuch"):
                        self.check_fails(command, name, *operands[1:])
        self.assertEqual(self.rows()["web"]["state"], "running")

    def test_values(self):
        self.detach(self.halting(), "web")
        for command in ("balloon", "resident"):
            for size in ("", "much", "-1", "1.5M", "0x10", "99999999999999999999", "9E", "17M"):
                self.check_fails(command, "web", "--", size)
        self.check_fails("resident", "web", "4K")
        self.check_fails("balloon", "web", "16M")
        for seconds in ("", "-1", "soon", "1.5", "86401"):
            self.check_fails("stop", "--wait", seconds, "web")
        self.check_fails("stop", "web", "--wait", words=["--wait"])
        self.check_fails("stop", "web", "--wait", "1", "--force", words=["--force"])
        self.check_fails("stats", "--json=1", "web", words=["--json"])
        self.assertEqual(self.rows()["web"]["state"], "running")


class Hostile(Case):
    """Whoever connects: the VM goes on, and serves the next."""

    def setUp(self):
        super().setUp()
        self.name = self.detach(self.tiny(tiny_kernel.serial(b"ready\n") + ECHO))
        self.pid = self.rows()[self.name]["pid"]

    def check_served(self):
        stats = self.stats(self.name)
        self.assertEqual((stats["state"], stats["pid"], stats["resets"]), ("running", self.pid, 0))
        with self.connect(self.name) as connection:
            self.assertTrue(connection.ask(request="stats", version=1)["ok"])

    def check_refused_line(self, line, code="invalid"):
        with self.connect(self.name) as connection:
            connection.send(line + b"\n")
            reply = json.loads(connection.line())
            self.assertEqual((reply["version"], reply["ok"], reply["code"]), (1, False, code))
            self.assertRegex(reply["error"], r"\A[ -~]+\Z")
            self.assertTrue(connection.ask(request="stats")["ok"])  # it may try again

    def test_what_is_no_request(self):
        noise = bytes(range(10)) + bytes(range(11, 256))
        for line in (b"", b"hello", b"GET / HTTP/1.1\r", noise, b"{}", b"[]", b"null",
                     b'{"request":"frob"}', b'{"request":"stats","x":1}', b"[" * 4000,
                     b'{"a":' * 800, b'{"request":"stats"' + b" " * 3000):
            with self.subTest(line=line[:20]):
                self.check_refused_line(line)
        self.check_refused_line(b'{"version":9,"request":"stats"}', "unsupported")
        self.check_served()

    def test_huge_lines(self):
        with self.connect(self.name) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(1000):
                    connection.send(b"x" * 65536)
            # It may have been cut off before it could read why.
            with contextlib.suppress(ConnectionResetError):
                line = connection.line()
                self.assertTrue(line == b"" or not json.loads(line)["ok"])
                self.assertEqual(connection.line(), b"")
        self.check_served()

    def test_pieces_and_pipelines(self):
        with self.connect(self.name) as connection:
            for byte in b'{"request":"stats"}\n':
                connection.send(bytes([byte]))
            self.assertTrue(json.loads(connection.line())["ok"])
            connection.send(b'{"request":"pause"}\n{"request":"resume"}\nnonsense\n'
                            b'{"request":"stats"}\n{"request":"sta')
            states = [json.loads(connection.line()) for _ in range(4)]
            self.assertEqual([state.get("state") for state in states],
                             ["paused", "running", None, None])
            self.assertEqual([state["ok"] for state in states], [True, True, False, True])
            connection.send(b'ts"}\n')
            self.assertTrue(json.loads(connection.line())["ok"])
        # Keys typed right behind the request for the console are not lost.
        with self.connect(self.name) as connection:
            connection.send(b'{"request":"console"}\nabc')
            self.assertTrue(json.loads(connection.line())["ok"])
            while not connection.received.endswith(b"ABC"):
                connection.received += connection.socket.recv(100)

    def test_hang_up_at_any_moment(self):
        request = b'{"request":"stats"}\n'
        for length in range(len(request) + 1):
            with self.connect(self.name) as connection:
                connection.send(request[:length])
        for _ in range(20):
            with self.connect(self.name) as connection:
                connection.send(request * 5)
        for reset in (False, True):
            with self.connect(self.name) as connection:
                connection.send(b'{"request":"console"}\n')
                if not reset:
                    connection.line()
        self.check_served()

    def test_who_never_reads(self):
        stuck = [self.connect(self.name) for _ in range(8)]
        for connection in stuck:
            connection.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(2000):
                    connection.socket.send(b'{"request":"stats"}\n' * 100)
        self.check_served()

    def test_many_connections(self):
        """Silent ones give way, the oldest first, so that somebody who asks is always served."""
        silent = []
        for _ in range(100):
            silent.append(self.connect(self.name))
        self.check_served()
        self.assertEqual(silent[0].line(), b"")
        self.assertLess(len(os.listdir(f"/proc/{self.pid}/fd")), 60)

    def test_floods(self):
        """The rate is bounded, and who asks in between is served."""
        begin = time.monotonic()
        replies = 0
        with self.connect(self.name) as connection:
            connection.send(b"x\n" * 2000)
            while time.monotonic() < begin + 1:
                self.assertTrue(connection.line())
                replies += 1
            elapsed = time.monotonic() - begin
            self.assertLessEqual(replies, 50 + 200 * elapsed + 20)
            self.check_served()
        for _ in range(300):
            self.connect(self.name).socket.close()
        self.check_served()

    def test_turns(self):
        """Who has sent a hundred requests does not hold up who sends one."""
        with self.connect(self.name) as flood, self.connect(self.name) as other:
            self.assertTrue(other.ask(request="stats")["ok"])
            flood.send(b'{"request":"stats"}\n' * 150)
            self.assertTrue(other.ask(request="stats")["ok"])
            flood.socket.setblocking(False)
            served = 0
            with contextlib.suppress(BlockingIOError):
                while flood.line():
                    served += 1
            self.assertLess(served, 150)

    @unittest.skipIf(os.geteuid() != 0, "only root can be somebody else")
    def test_another_user(self):
        """Even if the folder were open to all."""
        for path in (self.folder, self.runtime):
            os.chmod(path, 0o755)
        self.addCleanup(os.chmod, self.runtime, 0o700)
        os.chmod(os.path.join(self.runtime, self.name + ".sock"), 0o666)
        path = os.path.join(self.runtime, self.name + ".sock")
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(Exception):
                os.setgid(65534)
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.settimeout(30)
                    stranger.connect(path)
                    status = 2
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        stranger.sendall(b'{"request":"stop","force":true}\n')
                        status = 3 if stranger.recv(100) else 0
                    status = 0 if status == 2 else status
            os._exit(status)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        os.chmod(self.runtime, 0o700)
        self.check_served()


if __name__ == "__main__":
    harness.main()
