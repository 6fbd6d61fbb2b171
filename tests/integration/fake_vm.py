"""A VM that is none: it speaks a VM's side of the link (docs/protocol.md, src/proto/link.h), as well
or as badly as a test wants it to, and a manager to speak to.

Its process does nothing but listen at the VM's socket, so that it can be killed; everything else is
done here, step by step.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess

import control
import harness
from link_form import (ATTACH, DROP, HEAD_FORM, HELLO, HELLO_FORM, HOLDS, OFFER, OFFER_FORM, PAGE,
                       READY, REF_FORM, REPORT, REPORT_FORM, REPORT_NAMES, TARGET, TARGET_FORM,
                       WELCOME, WELCOME_FORM, message)

AEROSTATD = os.path.join(os.path.dirname(harness.AEROSTAT), "aerostatd")

_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_64bits_withSeed.restype = ctypes.c_uint64
_xxhash.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]


def hash_of(page, key):
    return _xxhash.XXH3_64bits_withSeed(page, PAGE, key)


def page_of(content):
    return struct.pack("<Q", content) * (PAGE // 8)


def _listen(folder, name, way):
    """The process: listens, hands the socket over, and is there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.chdir(folder)
    # As programs do it: a socket that nobody listens at yet would be removed.
    lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    listener.bind(f"{name}.sock")
    listener.listen(8)
    os.close(lock)
    socket.send_fds(way, [b"x"], [listener.fileno()])
    listener.close()
    way.close()
    while True:
        signal.pause()


class FakeVm:
    def __init__(self, folder, name, pages=64, group="", **facts):
        self.name, self.group, self.pages = name, group, pages
        self.facts = {"version": 1, "min": 0, "max": pages * PAGE, "shares": 0, "span": pages,
                      "overhead": 1 << 20, "pool_key": 0, **facts}
        self.ram = os.memfd_create("ram")
        os.ftruncate(self.ram, pages * PAGE)
        self.content = {}
        self.held = {}  # PPN: frame
        self.key = self.pool = self.target = self.link = self.listener = None
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _listen(folder, name, theirs)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        ours.close()
        self.listener = socket.socket(fileno=descriptors[0])
        self.listener.settimeout(harness.EXIT_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        for descriptor in (self.ram, self.pool):
            if descriptor is not None:
                os.close(descriptor)
        self.ram = self.pool = None

    def kill(self):
        """As SIGKILL does it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = 0
        for thing in (self.link, self.listener):
            if thing is not None:
                thing.close()
        self.link = self.listener = None

    # the control socket

    def accept(self, answer=b'{"version":1,"ok":true}\n'):
        """Waits to be adopted; gives what was asked."""
        line = b""
        while not line:  # who only wants to know whether somebody listens says nothing
            connection, _ = self.listener.accept()
            with connection:
                line, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
                if line:
                    connection.sendall(answer)
        if self.link is not None:
            self.link.close()
        self.link = socket.socket(fileno=descriptors[0])
        self.link.settimeout(harness.EXIT_SECONDS)
        return json.loads(line)

    # the link

    def send(self, kind, body=b"", count=1, descriptors=()):
        socket.send_fds(self.link, [message(kind, count, body)], descriptors)

    def receive(self, *kinds):
        """The next message that is one of these: (kind, entries, descriptors); None: hung up. A
        TARGET is kept beside."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self.link, 65536, 2)
            except ConnectionResetError:
                return None
            if not data:
                return None
            kind, _ = HEAD_FORM.unpack_from(data)
            body = data[HEAD_FORM.size:]
            if kind == TARGET:
                self.target = dict(zip(("resident", "balloon", "scan_pages", "scan_ppm", "block"),
                                       TARGET_FORM.unpack(body)))
            if kinds and kind not in kinds:
                assert kind == TARGET, f"{self.name} got a message of type {kind}"
                continue
            if kind == ATTACH:
                body = list(REF_FORM.iter_unpack(body))
            return kind, body, descriptors

    def is_silent(self, seconds=0.0):
        """Nothing but targets has come."""
        while select.select([self.link], [], [], seconds)[0]:
            if self.receive()[0] != TARGET:
                return False
        return True

    def hello(self, descriptors=None, **facts):
        facts = {**self.facts, "name": self.name, "group": self.group, "pid": self.pid, **facts}
        if descriptors is None:
            descriptors = [self.ram] + ([self.pool] if facts["pool_key"] else [])
        body = HELLO_FORM.pack(facts["version"], facts["pid"], facts["name"].encode(),
                           facts["group"].encode(), facts["shares"], facts["min"], facts["max"],
                           facts["span"], facts["overhead"], facts["pool_key"])
        self.send(HELLO, body, descriptors=descriptors)

    def tell(self):
        """Says what is held, and that this is all."""
        if self.held:
            self.refs(HOLDS, *self.held.items())
        self.send(READY, count=0)

    def welcomed(self):
        """Waits for WELCOME; gives `same_pool`."""
        _, body, descriptors = self.receive(WELCOME)
        _, _, self.key, _, same = WELCOME_FORM.unpack(body)
        if self.pool is not None:
            os.close(self.pool)
        self.pool = descriptors[0]
        self.facts["pool_key"] = self.key
        return same

    def join(self, **facts):
        """All of it, from being adopted on."""
        self.accept()
        self.hello(**facts)
        self.tell()
        same = self.welcomed()
        if not same:
            self.held = {}
        self.report()
        return self

    def report(self, **numbers):
        self.send(REPORT, REPORT_FORM.pack(*(numbers.get(name, 0) for name in REPORT_NAMES)))

    def refs(self, kind, *refs):
        self.send(kind, b"".join(REF_FORM.pack(*ref) for ref in refs), len(refs))

    # pages

    def write(self, ppn, content):
        self.content[ppn] = content
        os.pwrite(self.ram, page_of(content), ppn * PAGE)

    def offer(self, *ppns, contents=None):
        """Of pages as they are, or as it is said that they are."""
        contents = contents or [self.content[ppn] for ppn in ppns]
        body = b"".join(OFFER_FORM.pack(hash_of(page_of(content), self.key), ppn, 0)
                        for ppn, content in zip(ppns, contents))
        self.send(OFFER, body, len(ppns))

    def attach(self, count=1):
        """Waits for so many, compares them, and holds those that are equal; gives the frames."""
        frames = []
        while len(frames) < count:
            _, refs, _ = self.receive(ATTACH)
            for ppn, frame in refs:
                if os.pread(self.pool, PAGE, frame * PAGE) == page_of(self.content.get(ppn, 0)):
                    self.held[ppn] = frame
                else:
                    self.refs(DROP, (ppn, frame))
                frames.append(frame)
        return frames

    def drop(self, ppn):
        self.refs(DROP, (ppn, self.held.pop(ppn)))

    def check_held(self):
        for ppn, frame in self.held.items():
            assert os.pread(self.pool, PAGE, frame * PAGE) == page_of(self.content[ppn]), ppn


class TestCase(control.TestCase):
    """With a manager."""

    arguments = ("--memory", "1G")

    def setUp(self):
        super().setUp()
        self.manager = self.manager_log = None
        self.addCleanup(self.stop_manager)
        self.start_manager()

    def start_manager(self, *arguments):
        if self.manager_log is None:
            self.manager_log = open(os.path.join(self.folder, "log"), "w+b")  # pylint: disable=R1732
            self.addCleanup(self.manager_log.close)
        self.manager = subprocess.Popen([AEROSTATD, *(arguments or self.arguments)],
                                        stderr=self.manager_log, stdin=subprocess.DEVNULL)
        self.wait_for(self.manager_answers, "the manager answers")

    def manager_answers(self):
        if self.manager.poll() is not None:
            raise AssertionError(f"the manager has ended: {self.log()}")
        try:
            return self.ask(request="status")["ok"]
        except (FileNotFoundError, ConnectionError, json.JSONDecodeError):
            return False

    def kill_manager(self):
        self.manager.kill()
        self.manager.wait()

    def stop_manager(self):
        if self.manager is not None and self.manager.poll() is None:
            self.manager.terminate()
            self.assertEqual(self.manager.wait(harness.EXIT_SECONDS), 0)

    def log(self):
        self.manager_log.seek(0)
        return self.manager_log.read().decode()

    def ask(self, **request):
        with control.Connection(self.runtime, "manager") as connection:
            return connection.ask(**request)

    def status(self):
        return self.ask(request="status")

    def host(self):
        return self.status()["host"]

    def rows_of_manager(self):
        return {vm["name"]: vm for vm in self.status()["vms"]}

    def vm(self, name, **options):
        vm = FakeVm(self.runtime, name, **options)
        self.addCleanup(vm.__exit__)
        return vm

    def member(self, name, **options):
        """One that has joined."""
        return self.vm(name, **options).join()

    def wait_empty(self):
        """Nothing is left of any VM."""
        def is_empty():
            host = self.host()
            return not any(host[key] for key in ("frames", "hints", "shared", "pool", "vms",
                                                 "metadata"))
        self.wait_for(is_empty, "the manager is empty")
