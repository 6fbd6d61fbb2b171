"""For tests of VMs that others control: a runtime folder of their own, the commands, the socket."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import time

import harness
from harness import AEROSTAT


class Connection:
    """A connection to a VM's control socket, by hand."""

    def __init__(self, folder, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A path of any length, as the programs do it. Without a timeout, which Python makes of a
        # socket that does not wait for a place in the queue.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        path = f"/proc/self/fd/{descriptor}/{name}.sock"
        try:
            self.socket.connect(path)
        except ConnectionRefusedError:
            # Perhaps nobody listens at it yet: with the folder locked it is made and listened at.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.socket.connect(path)
        finally:
            os.close(descriptor)
        self.socket.settimeout(harness.EXIT_SECONDS)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line, b"" when the VM has hung up."""
        while b"\n" not in self.received:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return b""
            self.received += chunk
        line, self.received = self.received.split(b"\n", 1)
        return line + b"\n"

    def ask(self, **request):
        self.send(json.dumps(request).encode() + b"\n")
        return json.loads(self.line())


def wait_until(condition, what, seconds=harness.EXIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waiting: {what}"
        time.sleep(0.01)


class TestCase(harness.TestCase):
    def setUp(self):
        super().setUp()
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = self.folder
        self.runtime = os.path.join(self.folder, "aerostat")

        def restore():
            if before is None:
                del os.environ["XDG_RUNTIME_DIR"]
            else:
                os.environ["XDG_RUNTIME_DIR"] = before

        self.addCleanup(restore)
        self.addCleanup(self.kill_all)

    def kill_all(self):
        """What a failed test has left in the background."""
        for row in json.loads(self.command("ps", "--json")):
            if row["pid"] > 0:
                os.kill(row["pid"], signal.SIGKILL)

    def run_command(self, *arguments, stdin=b"", seconds=harness.EXIT_SECONDS):
        """Gives (status, stdout, stderr)."""
        done = subprocess.run([AEROSTAT, *arguments], input=stdin, capture_output=True,
                              timeout=seconds, check=False)
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")

    def command(self, *arguments, **options):
        """One that must succeed without a word of complaint; gives its output."""
        status, output, errors = self.run_command(*arguments, **options)
        self.assertEqual((status, errors), (0, ""), arguments)
        return output.decode()

    def check_fails(self, *arguments, status=harness.STATUS_USAGE, words=()):
        result, output, errors = self.run_command(*arguments)
        said = f"{arguments}: status {result}, stderr {errors!r}"
        self.assertEqual((result, output), (status, b""), said)
        self.assertRegex(errors, r"\Aaerostat: [^\n]+\n\Z", said)
        for word in words:
            self.assertIn(word, errors)

    def detach(self, arguments, name=None):
        """Starts a VM in the background; gives its name."""
        engine = harness.engine_options()
        names = ["--name", name] if name else []
        printed = self.command("run", "--detach", *names, *engine, *arguments,
                               seconds=harness.BOOT_SECONDS)
        self.assertRegex(printed, r"\A\S+\n\Z")
        return printed.strip()

    def rows(self):
        """aerostat ps: a dictionary of objects by name."""
        return {row["name"]: row for row in json.loads(self.command("ps", "--json"))}

    def stats(self, name):
        return json.loads(self.command("stats", "--json", name))

    def connect(self, name):
        connection = Connection(self.runtime, name)
        self.addCleanup(connection.socket.close)
        return connection

    def wait_for(self, condition, what):
        deadline = time.monotonic() + harness.EXIT_SECONDS
        while not (result := condition()):
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)
        return result

    def wait_for_console(self, name, text):
        """Until the VM has printed it; gives all that it remembers."""
        def look():
            kept = self.run_command("console", name)[1]
            return kept if text in kept else None
        return self.wait_for(look, text)

    def thread_states(self, pid):
        """What each of its threads is doing, a letter of proc(5) each; nothing if it is gone."""
        try:
            states = set()
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8",
                          errors="replace") as stream:
                    states.add(stream.read().rsplit(")", 1)[1].split()[0])
            return states
        except (FileNotFoundError, ProcessLookupError):
            return self.thread_states(pid) if os.path.exists(f"/proc/{pid}") else set()

    def is_alive(self, pid):
        """Whether a thread of it is left: the first may end before those that hold its sockets."""
        return bool(self.thread_states(pid) - set("ZX"))
