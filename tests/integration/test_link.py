#!/usr/bin/env python3
"""A VM and its manager: what it shares, what it is told, and that no manager can do it harm. The
managers are made here (fake_manager.py); the guests are a few bytes that write every page over and
over and look whether it has what they wrote last."""

import glob
import os
import socket
import struct
import time
import unittest

import control
import harness
import tiny_kernel
from fake_manager import FakeManager
from link_form import (ATTACH, HELLO, TARGET, TARGET_FORM, WELCOME, WELCOME_FORM, message,
                       refs)

MIB = 1 << 20
FIRST_PAGE, PAGES = 0x200, 1024
SCAN = {"scan_pages": 500000, "scan_ppm": 500000}
# A sanitizer's process keeps its powers, and takes its time.
SANDBOXED = "AEROSTAT_SMALL_HOST" in os.environ


def toucher(passes=0, at_end=b""):
    """Adds one to a word of each page in turn, all pages being alike between two passes, and rests a
    little. Where a page has not what was put there it leaves by the debug port. After so many passes
    it goes on to at_end; 0: never."""
    body = (b"\x39\x5f\x08"                          # page: cmp [edi + 8], ebx
            b"\x75" + struct.pack("b", 0x7f) +       # jne bad, set below
            b"\xff\x47\x08"                          # inc dword [edi + 8]
            b"\x81\xc7\x00\x10\x00\x00"              # add edi, 4096
            b"\x49\x75")                             # dec ecx; jnz page
    body += struct.pack("b", -(len(body) + 1))
    start = (b"\xbf" + struct.pack("<I", FIRST_PAGE * 4096) +
             b"\xb9" + struct.pack("<I", PAGES))     # next: mov edi, first; mov ecx, count
    rest = b"\x43\xb8\x00\x00\x20\x00\x48\x75\xfd"   # inc ebx; mov eax, n; dec eax; jnz
    loop = start + body + rest
    if passes:
        # cmp ebx, passes; jb next; at_end
        loop += b"\x81\xfb" + struct.pack("<I", passes) + b"\x0f\x82"
        loop += struct.pack("<i", -(len(loop) + 4)) + at_end
    else:
        loop += b"\xe9" + struct.pack("<i", -(len(loop) + 5))
    at = len(start) + 4
    loop = loop[:at] + struct.pack("b", len(loop) - at - 1) + loop[at + 1:]
    return b"\x31\xdb" + loop + tiny_kernel.debug_exit(21) + tiny_kernel.SPIN


class Case(control.TestCase):
    def start(self, code, *extra, name="v"):
        kernel = self.make_file(f"kernel-{name}", tiny_kernel.multiboot(code))
        self.detach(["--kernel", kernel, "--memory", "16M", "--debug-exit", *extra], name)
        return self.rows()[name]["pid"]

    def manager(self, **options):
        manager = FakeManager(self.runtime, **options)
        self.addCleanup(manager.close)
        return manager

    def check_link(self, link):
        with link.manager.lock:
            self.assertEqual(link.breaches, [])
            self.assertFalse(link.gone)

    def check_alive(self, name="v"):
        """Not only there: its guest gets on, and finds what it has written."""
        before = self.stats(name)["instructions"]
        self.wait_for(lambda: self.stats(name)["instructions"] > before + 1000000, "the guest runs")

    def wait_for_storm(self, link, breaks=600):
        """So many pages written that were shared, from now on, as the VM tells its manager: what
        `aerostat stats` counts begins again with a reset."""
        self.wait_for(lambda: link.reports or link.breaches, "a report")
        self.check_link(link)
        before = link.reports[-1]["cow_breaks"]
        self.wait_for(lambda: link.reports[-1]["cow_breaks"] > before + breaks or link.breaches,
                      "shared pages are written")
        self.check_link(link)

    def descriptors(self, pid):
        return len(os.listdir(f"/proc/{pid}/fd"))


class Sharing(Case):
    def test_storm(self):
        """Pages become alike and different all the time; the manager dies, and comes back."""
        self.start(toucher(), "--group", "g", "--shares", "77", "--min", "3M")
        manager = self.manager()
        link = manager.adopt("v")
        self.assertEqual(link.hello["name"].rstrip(b"\0"), b"v")
        self.assertEqual(link.hello["group"].rstrip(b"\0"), b"g")
        self.assertEqual({key: link.hello[key] for key in ("shares", "min", "max", "span_pages")},
                         {"shares": 77, "min": 3 * MIB, "max": 16 * MIB, "span_pages": 4096})
        self.assertIsNone(link.pool_handed)
        link.target(**SCAN)
        self.wait_for_storm(link)
        for _ in range(3):
            manager.end()
            self.check_alive()
            manager.start_again()
            with manager.lock:
                references = dict(manager.pool.references)
            link = manager.adopt("v", welcome=False)
            # What it holds is what it held, but for what has been dropped since.
            self.assertIsNotNone(link.pool_handed)
            held = {}
            for frame in link.held.values():
                held[frame] = held.get(frame, 0) + 1
            for frame, count in held.items():
                self.assertLessEqual(count, references.get(frame, 0))
            with manager.lock:
                for frame in references:
                    while manager.pool.references[frame] > max(1, held.get(frame, 0)):
                        manager.pool.drop(frame)
                    if frame not in held:
                        manager.pool.drop(frame)
            link.welcome()
            link.target(**SCAN)
            self.wait_for_storm(link)
        stats = self.stats("v")
        self.assertEqual((stats["group"], stats["shares"], stats["min"]), ("g", 77, 3 * MIB))
        self.assertGreater(stats["pages_scanned"], 1000)
        self.assertGreater(stats["scan_cpu_ns"], 0)

    def test_another_pool(self):
        """A manager that knows nothing of the old pool, all of which is overwritten as soon as the
        VM says that it has left it."""
        self.start(toucher())
        manager = self.manager()
        manager.adopt("v").target(**SCAN)
        self.wait_for_storm(manager.links[0], 300)
        for _ in range(3):
            manager.end()
            manager.start_again()
            pool = manager.new_pool(8192)
            link = manager.adopt("v", welcome=False)
            link.welcome(pool, same=False)
            link.target(**SCAN)
            self.wait_for_storm(link, 300)

    def test_chaos(self):
        self.start(toucher(), "--chaos=5", "--swap-dir", self.folder)
        manager = self.manager(eager=True)
        link = manager.adopt("v")
        link.target(**SCAN)
        self.wait_for_storm(link, 300)

    def test_reset(self):
        """Each machine drops what it had; the link stays."""
        self.start(toucher(40, tiny_kernel.RESET))
        link = self.manager().adopt("v")
        link.target(**SCAN)
        self.wait_for(lambda: self.stats("v")["resets"] >= 2 or link.breaches, "resets")
        self.wait_for_storm(link, 200)
        # Counters go on.
        for counter in ("pages_scanned", "cow_breaks", "cpu_ns", "tlb_misses"):
            values = [report[counter] for report in link.reports]
            self.assertEqual(values, sorted(values), counter)

    def test_zero_pages_are_dropped(self):
        """By the scanner itself: memory that was written and cleared again."""
        code = (b"\xbf\x00\x00\x20\x00\xb9\x00\x04\x00\x00\xc6\x07\x01\xc6\x07\x00"
                b"\x81\xc7\x00\x10\x00\x00\x49\x75\xf1" + tiny_kernel.HALT)
        self.start(code)
        self.wait_for(lambda: self.stats("v")["resident"] >= 4 * MIB, "the guest has written")
        self.manager().adopt("v").target(**SCAN)
        self.wait_for(lambda: self.stats("v")["resident"] < MIB, "zero pages went")

    def test_idle_says_nothing(self):
        self.start(tiny_kernel.serial(b"up") + tiny_kernel.HALT)
        self.wait_for_console("v", b"up")
        link = self.manager().adopt("v")
        self.wait_for(lambda: link.reports, "the first report")
        time.sleep(4)
        self.assertLessEqual(len(link.reports), 2)  # it had just printed
        self.check_link(link)

    def test_tells_which_mmu(self):
        manager = self.manager()
        for option, mode, is_chosen in (("nested", 0, 0), ("shadow", 2, 0), ("auto", 0, 1)):
            with self.subTest(mmu=option):
                self.start(tiny_kernel.serial(b"up") + tiny_kernel.HALT, "--mmu", option,
                           name=option)
                link = manager.adopt(option)
                self.wait_for(lambda: link.reports, "the first report")
                report = link.reports[0]
                self.assertEqual((report["mmu_mode"], report["mmu_is_chosen"]), (mode, is_chosen))


class Targets(Case):
    def test_last_order_counts(self):
        self.start(toucher(), "--swap-dir", self.folder)
        link = self.manager().adopt("v")
        link.target(resident=4 * MIB, balloon=2 * MIB)
        self.wait_for(lambda: self.stats("v")["target"] == 4 * MIB, "the manager's target")
        self.assertEqual(self.stats("v")["balloon_target"], 2 * MIB)
        self.command("resident", "v", "5M")
        self.command("balloon", "v", "3M")
        self.assertEqual(self.stats("v")["target"], 5 * MIB)
        self.assertEqual(self.stats("v")["balloon_target"], 3 * MIB)
        # What makes no sense is as near to it as does.
        link.target(resident=1, balloon=2**63)
        self.wait_for(lambda: self.stats("v")["target"] == MIB, "the least")
        self.assertEqual(self.stats("v")["balloon_target"], 16 * MIB - 4096)
        link.target()
        self.wait_for(lambda: self.stats("v")["target"] == 16 * MIB, "no limit")

    def test_blocked(self):
        """Above its target it does not run; it gets there, or gives up, and runs on."""
        self.start(toucher(), "--swap-dir", self.folder)
        link = self.manager().adopt("v")
        self.check_alive()
        for resident in (3, 2, 1, 3):
            link.target(resident=resident * MIB, block=1)
            self.wait_for(lambda: self.stats("v")["target"] == resident * MIB, "the target")
            self.check_alive()
            self.command("pause", "v")
            self.command("resume", "v")
        self.check_link(link)

    def test_blocked_for_ever(self):
        """Nowhere to put pages: it must not stand still, nor keep anybody from ending it."""
        self.start(toucher(), "--swap-size", "0")
        link = self.manager().adopt("v")
        self.check_alive()
        link.target(resident=MIB, block=1)
        self.wait_for(lambda: self.stats("v")["target"] == MIB, "the target")
        self.check_alive()
        self.command("stop", "--force", "v")


class Hostile(Case):
    """A broken manager can make the VM slower, and no more."""

    def setUp(self):
        super().setUp()
        self.pid = self.start(toucher())

    def check_cut_off(self, link, what):
        self.wait_for(lambda: link.gone, f"the VM hangs up: {what}")
        self.check_alive()

    def test_bad_messages(self):
        manager = self.manager()
        loose, small = manager.new_pool(64, seals=0), manager.new_pool(64)
        frames = manager.pool.frames
        target = TARGET_FORM.pack(0, 0, 0, 0, 0)

        def welcome(link, pool=manager.pool, version=1, key=1, size=None):
            size = pool.frames * 4096 if size is None else size
            link.send(message(WELCOME, 1, WELCOME_FORM.pack(version, 0, key, size, 0)),
                      [pool.for_reading])

        before_welcome = [
            ("an order", lambda link: link.target()),
            ("a frame", lambda link: link.send(refs(ATTACH, [(1, 1)]))),
            ("another version", lambda link: welcome(link, version=2)),
            ("no key", lambda link: welcome(link, key=0)),
            ("a pool that shrinks", lambda link: welcome(link, loose)),
            ("a pool too small", lambda link: welcome(link, small, size=65 * 4096)),
            ("a pool of no pages", lambda link: welcome(link, size=0)),
            ("an odd pool", lambda link: welcome(link, size=8191)),
            ("the same pool", lambda link: link.welcome(same=True)),
            ("no pool", lambda link: link.send(message(WELCOME, 1, bytes(32)))),
        ]
        after_welcome = [
            ("frame 0", lambda link: link.send(refs(ATTACH, [(FIRST_PAGE, 0)]))),
            ("frame beyond", lambda link: link.send(refs(ATTACH, [(FIRST_PAGE, frames)]))),
            ("page beyond", lambda link: link.send(refs(ATTACH, [(1, 1), (4096, 1)]))),
            ("largest page", lambda link: link.send(refs(ATTACH, [(2**32 - 1, 1)]))),
            ("a second welcome", welcome),
            ("the VM's message", lambda link: link.send(message(HELLO, 1, bytes(188)))),
            ("nothing", lambda link: link.send(b"")),
            ("half a head", lambda link: link.send(b"\x08\0\0")),
            ("no body", lambda link: link.send(message(TARGET, 1))),
            ("half a body", lambda link: link.send(message(TARGET, 1, target[:-1]))),
            ("too much body", lambda link: link.send(message(TARGET, 1, target + b"\0"))),
            ("two targets", lambda link: link.send(message(TARGET, 2, 2 * target))),
            ("no frames", lambda link: link.send(message(ATTACH, 0))),
            ("too many frames", lambda link: link.send(refs(ATTACH, 513 * [(1, 1)]))),
            ("a type of its own", lambda link: link.send(message(99, 1, bytes(32)))),
            ("a descriptor", lambda link: link.send(message(TARGET, 1, target),
                                                    [manager.pool.for_reading])),
        ]
        before = self.descriptors(self.pid)
        for cases, is_welcome in ((before_welcome, False), (after_welcome, True)):
            for what, send in cases:
                with self.subTest(what):
                    link = manager.adopt("v", welcome=is_welcome)
                    send(link)
                    self.check_cut_off(link, what)
                    self.assertEqual(self.stats("v")["shared"], 0)
        # A pool, a link, and who asks just now.
        self.assertLessEqual(self.descriptors(self.pid), before + 4)
        with open(os.path.join(self.runtime, "v.log"), encoding="utf-8") as stream:
            self.assertRegex(stream.read(), r"\A[^\n]*the manager is broken: [^\n]*\n\Z")

    def test_bad_links(self):
        manager = self.manager()
        before = self.descriptors(self.pid)
        stream, other = socket.socketpair()
        with stream, other, open("/dev/null", "rb") as null:
            for end in (stream, null):
                self.assertIn(b'"ok":false', manager.offer_link("v", end))
        for _ in range(30):  # closed at once, or not read
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                self.assertIn(b'"ok":true', manager.offer_link("v", theirs))
        link = manager.adopt("v")
        newer = manager.adopt("v")
        self.wait_for(lambda: link.gone, "a newer link")
        newer.target(**SCAN)
        self.wait_for_storm(newer, 500)
        self.assertLessEqual(self.descriptors(self.pid), before + 3)

    def test_floods(self):
        """Of messages that are in order; nobody reads what the VM says to them."""
        manager = self.manager()
        link = manager.adopt("v")
        with manager.lock:  # from here on nothing is received
            for i in range(3000):
                try:
                    if i % 3:
                        link.target(resident=(2 + i % 12) * MIB, **SCAN)
                    else:
                        link.send(refs(ATTACH, [(FIRST_PAGE + (i + n) % PAGES, 1 + n % 64)
                                                for n in range(512)]))
                except OSError:
                    break  # more than a manager may have under way
            self.check_alive()
            self.assertEqual(self.command("ps").count("v "), 1)
        self.check_alive()

    def test_wrong_frames(self):
        """Frames that are not what they should be, to all pages, again and again."""
        manager = self.manager()
        link = manager.adopt("v")
        seed = 1
        for _ in range(300):
            pairs = []
            for _ in range(64):
                seed = seed * 1103515245 + 12345 & 0x7fffffff
                pairs.append((seed >> 4 & 4095, 1 + (seed >> 16) % 4096))
            try:
                link.send(refs(ATTACH, pairs))
            except OSError:
                break
        self.check_alive()


class Powers(Case):
    @unittest.skipUnless(SANDBOXED, "a sanitizer's process is not in the sandbox")
    def test_none(self):
        """Whoever starts it: no thread has a capability, and the guest's memory, as the manager has
        it, is for reading."""
        pid = self.start(toucher())
        manager = self.manager()
        link = manager.adopt("v")
        link.target(**SCAN)
        self.wait_for_storm(link, 100)
        for path in glob.glob(f"/proc/{pid}/task/*/status"):
            with open(path, encoding="utf-8") as stream:
                text = stream.read()
            for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
                self.assertIn(f"{kind}:\t{0:016x}\n", text, path)
        with self.assertRaises(OSError):
            os.pwrite(link.ram, b"x", 0)


if __name__ == "__main__":
    harness.main()
