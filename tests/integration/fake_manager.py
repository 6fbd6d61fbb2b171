"""A manager for tests of what VMs do with one: it speaks docs/protocol.md, from a thread, and shows
no mercy. A frame is overwritten as soon as the last reference to it is dropped, so that a VM that
still looks at it finds wrong bytes; and what a manager never does can be sent by hand.

    with FakeManager(runtime) as manager:
        vm = manager.adopt("vm1")
        vm.target(scan_pages=100000, scan_ppm=500000)

It compares pages as they are in the VM's memory, not by hash: what to do with an offer is said by
`eager`: each page gets a frame of its own, or the frame of its like; else only pages that are alike
share one.
"""

import array
import errno
import fcntl
import mmap
import os
import selectors
import socket
import threading

import control
from link_form import (ATTACH, DROP, FRESH, HEAD_FORM, HELLO, HELLO_FORM, HOLDS, MOST, OFFER,
                       OFFER_FORM, PAGE, READY, REF_FORM, REPORT, REPORT_FORM, REPORT_NAMES,
                       TARGET, TARGET_FORM, WELCOME, WELCOME_FORM, message, refs)

PAGES_MOST = 512
F_ADD_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1033, 1, 2, 4
NO_LIMIT = 2**64 - 1


class Pool:
    def __init__(self, frames, seals=F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW):
        self.frames = frames
        self.file = os.memfd_create("pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, frames * PAGE)
        if seals:
            fcntl.fcntl(self.file, F_ADD_SEALS, seals)
        self.memory = mmap.mmap(self.file, frames * PAGE)
        os.fchmod(self.file, 0o400)
        self.for_reading = os.open(f"/proc/self/fd/{self.file}", os.O_RDONLY)
        self.key = int.from_bytes(os.urandom(8), "little") | 1
        self.free = array.array("I", range(frames - 1, 0, -1))
        self.references = {}  # by frame
        self.frame_of = {}    # by content
        self.content = {}     # by frame
        self.hints = {}       # content: (vm, ppn)

    def take(self, content):
        """A new frame, of no references."""
        frame = self.free.pop()
        self.memory[frame * PAGE:(frame + 1) * PAGE] = content
        self.references[frame] = 0
        self.frame_of[content] = frame
        self.content[frame] = content
        return frame

    def refer(self, frame):
        self.references[frame] += 1

    def drop(self, frame):
        self.references[frame] -= 1
        if self.references[frame] == 0:
            self.memory[frame * PAGE:(frame + 1) * PAGE] = b"\xdd" * PAGE
            del self.references[frame], self.frame_of[self.content.pop(frame)]
            self.free.append(frame)

    def close(self):
        self.memory.close()
        os.close(self.file)
        os.close(self.for_reading)


class Link:
    """A VM that has been adopted. Fields are the manager's thread's, or under its lock."""

    def __init__(self, manager, end, name):
        self.manager = manager
        self.socket = end
        self.name = name
        self.hello = self.ram = self.pool_handed = self.left_pool = None
        self.ready = self.gone = False
        self.held = {}   # ppn: frame, as the manager sees it
        self.reports = []
        self.offers = self.attached = self.drops = self.fresh = 0
        self.breaches = []
        self.behind = []  # what the socket would not take

    def close(self):
        self.manager.forget(self)

    # -- sending

    def send(self, data, descriptors=()):
        """By hand; waits while the VM does not read."""
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            self.socket.setblocking(True)
            self.socket.sendmsg([data], passed if descriptors else [])
        finally:
            if not self.gone:
                self.socket.setblocking(False)

    def welcome(self, pool=None, same=None, version=1):
        pool = pool or self.manager.pool
        if same is None:
            same = self.pool_handed is not None and (
                os.fstat(self.pool_handed).st_ino == os.fstat(pool.file).st_ino)
        if not same:
            with self.manager.lock:
                self.held.clear()
                self.left_pool = self.manager.pool if pool is not self.manager.pool else None
                self.manager.pool = pool
        self.send(message(WELCOME, 1, WELCOME_FORM.pack(version, 0, pool.key,
                                                 pool.frames * PAGE, same)), [pool.for_reading])

    def target(self, resident=NO_LIMIT, balloon=0, scan_pages=0, scan_ppm=0, block=0):
        self.send(message(TARGET, 1, TARGET_FORM.pack(resident, balloon, scan_pages, scan_ppm,
                                                 block)))

    # -- receiving, with the manager's lock

    def received(self, data, descriptors):
        kind, count = HEAD_FORM.unpack_from(data)
        body = data[8:]
        if self.left_pool is not None:
            # With its first message the VM says that nothing of it is in the old pool any more.
            self.left_pool.memory[:] = b"\xdd" * (self.left_pool.frames * PAGE)
            self.left_pool = None
        if kind == HELLO:
            self.ram = descriptors[0]
            self.pool_handed = descriptors[1] if len(descriptors) > 1 else None
            fields = HELLO_FORM.unpack(body)
            names = ("version", "pid", "name", "group", "shares", "min", "max", "span_pages",
                     "overhead", "pool_key")
            self.hello = dict(zip(names, fields))
        elif kind == HOLDS:
            for ppn, frame in REF_FORM.iter_unpack(body):
                if ppn in self.held:
                    self.breaches.append(("held twice", ppn, frame))
                self.held[ppn] = frame
        elif kind == READY:
            self.ready = True
        elif kind == DROP:
            for ppn, frame in REF_FORM.iter_unpack(body):
                self.drops += 1
                if self.held.get(ppn) != frame:
                    self.breaches.append(("drops what it has not", ppn, frame, self.held.get(ppn)))
                else:
                    del self.held[ppn]
                    self.manager.pool.drop(frame)
        elif kind == OFFER:
            self.offered([(ppn, flags) for _, ppn, flags in OFFER_FORM.iter_unpack(body)])
        elif kind == REPORT:
            values = REPORT_FORM.unpack(body)
            self.reports.append(dict(zip(REPORT_NAMES, values)))
        if count == 0 and kind != READY:
            self.breaches.append(("empty", kind))

    def page(self, ppn):
        return os.pread(self.ram, PAGE, ppn * PAGE)

    def offered(self, pages):
        pool = self.manager.pool
        self.offers += len(pages)
        attach = {}
        for ppn, flags in pages:
            self.fresh += flags & FRESH
            content = self.page(ppn)
            if ppn in self.held or len(content) != PAGE or not pool.free:
                continue
            frame = pool.frame_of.get(content)
            if frame is None and self.manager.eager:
                frame = pool.take(content)
            if frame is None:
                other, its = pool.hints.get(content, (None, None))
                if other is None or other.gone or (other is self and its == ppn):
                    pool.hints[content] = (self, ppn)
                    continue
                del pool.hints[content]
                frame = pool.take(content)
                if its not in other.held:
                    attach.setdefault(other, []).append((its, frame))
                    other.held[its] = frame
                    pool.refer(frame)
            if ppn not in self.held:
                attach.setdefault(self, []).append((ppn, frame))
                self.held[ppn] = frame
                pool.refer(frame)
        for link, pairs in attach.items():
            link.attach(pairs)

    def attach(self, pairs):
        self.attached += len(pairs)
        for i in range(0, len(pairs), PAGES_MOST):
            self.behind.append(refs(ATTACH, pairs[i:i + PAGES_MOST]))
        self.flush()

    def flush(self):
        while self.behind:
            try:
                self.socket.send(self.behind[0])
            except BlockingIOError:
                return
            except OSError:
                self.behind.clear()
                return
            self.behind.pop(0)


class FakeManager:
    def __init__(self, runtime, frames=65536, eager=False):
        self.runtime = runtime
        self.eager = eager
        self.pools = []
        self.pool = self.new_pool(frames)
        self.lock = threading.RLock()
        self.links = []
        self._selector = selectors.DefaultSelector()
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def new_pool(self, frames, **options):
        self.pools.append(Pool(frames, **options))
        return self.pools[-1]

    def close(self):
        self.end()
        for pool in self.pools:
            pool.close()

    def end(self):
        """The manager dies; its pool remains, in VMs' hands and ours."""
        self._ends = True
        self._thread.join()
        for link in list(self.links):
            self.forget(link)

    def start_again(self):
        self._ends = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def offer_link(self, name, end):
        """Hands one end of a link to a VM; gives the VM's answer."""
        with control.Connection(self.runtime, name) as connection:
            connection.socket.sendmsg([b'{"request":"adopt"}\n'], [
                (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))])
            return connection.line()

    def adopt(self, name, welcome=True, wait=True):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            answer = self.offer_link(name, theirs)
        assert b'"ok":true' in answer, answer
        link = Link(self, ours, name)
        ours.setblocking(False)
        with self.lock:
            self.links.append(link)
            self._selector.register(ours, selectors.EVENT_READ, link)
        if wait:
            control.wait_until(lambda: link.ready or link.gone, "the VM is ready")
        if welcome:
            link.welcome()
        return link

    def forget(self, link):
        with self.lock:
            if link.gone:
                return
            link.gone = True
            self._selector.unregister(link.socket)
            link.socket.close()
            for descriptor in (link.ram, link.pool_handed):
                if descriptor is not None:
                    os.close(descriptor)
            self.links.remove(link)

    def _receive(self, link):
        data, control_data, _, _ = link.socket.recvmsg(MOST, socket.CMSG_SPACE(4 * 4))
        descriptors = []
        for _, _, passed in control_data:
            descriptors += array.array("i", passed[:len(passed) // 4 * 4])
        return data, descriptors

    def _serve(self, link):
        for _ in range(64):
            try:
                data, descriptors = self._receive(link)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                data = b""
            if not data:
                self.forget(link)
                return
            link.received(data, descriptors)

    def _run(self):
        while not self._ends:
            for key, _ in self._selector.select(0.02):
                with self.lock:
                    if not key.data.gone:
                        self._serve(key.data)
            with self.lock:
                for link in self.links:
                    link.flush()
