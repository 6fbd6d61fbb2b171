#!/usr/bin/env python3
"""aerostatd, with VMs that are none (fake_vm.py): adoption, sharing, its death and its successors,
its control socket; and VMs that do what they must not."""

import os
import subprocess
import threading

import control
import fake_vm
import harness
from link_form import ATTACH, DROP, HOLDS, OFFER, PAGE, READY, REPORT, TARGET, WELCOME


class Life(fake_vm.TestCase):
    def test_adoption(self):
        vm = self.vm("a", min=16 * PAGE, shares=7)
        self.assertEqual(vm.accept(), {"version": 1, "request": "adopt"})
        vm.hello()
        vm.tell()
        self.assertEqual(vm.welcomed(), 0)
        self.assertNotEqual(vm.key, 0)
        vm.receive(TARGET)
        vm.report(resident=123, zero=5, balloon_state=1, tlb_misses=9, shadow_memory=7,
                  walk_references=(1 << 64) - 1, mmu_mode=2, mmu_is_chosen=5)
        self.wait_for(lambda: self.rows_of_manager()["a"]["zero"] == 5, "the report has come")
        row = self.rows_of_manager()["a"]
        self.assertEqual((row["pid"], row["min"], row["max"], row["shares"], row["resident"]),
                         (vm.pid, 16 * PAGE, 64 * PAGE, 7, 123))
        self.assertEqual((row["balloon_state"], row["paused"], row["group"]), ("steady", False, ""))
        self.assertEqual((row["tlb_misses"], row["shadow_memory"], row["walk_references"]),
                         (9, 7, (1 << 63) - 1))
        self.assertEqual((row["mmu_mode"], row["mmu_is_chosen"]), ("shadow", True))
        vm.report(zero=6, mmu_mode=3)
        self.wait_for(lambda: self.rows_of_manager()["a"]["zero"] == 6, "the report has come")
        self.assertEqual(self.rows_of_manager()["a"]["mmu_mode"], "unknown")
        # what is charged is measured
        vm.write(3, 1)
        vm.write(9, 1)
        self.wait_for(lambda: self.rows_of_manager()["a"]["charged"] == 2 * PAGE, "it is charged")
        vm.kill()
        self.wait_empty()

    def test_a_vm_from_before(self):
        self.stop_manager()
        vm = self.vm("a")
        self.start_manager()
        vm.join()
        self.assertIn("a", self.rows_of_manager())

    def test_sharing(self):
        names = ("a", "b", "c")
        vms = [self.member(name, group="g") for name in names]
        other = self.member("d", group="another")
        alone = self.member("e")
        for vm in [*vms, other, alone]:
            vm.write(5, 77)
            vm.offer(5)
        for vm in vms:
            vm.attach()
        self.assertEqual(len({vm.held[5] for vm in vms}), 1)
        self.wait_for(lambda: self.host()["pool"] == PAGE, "the pool has been measured")
        host = self.host()
        self.assertEqual((host["frames"], host["hints"], host["shared"]), (1, 2, 3 * PAGE))
        def are_divided():
            rows = self.rows_of_manager()
            return all(abs(rows[name]["shared_saved"] - PAGE * 2 / 3) < 2 for name in names)
        self.wait_for(are_divided, "each has its part")
        self.assertTrue(other.is_silent() and alone.is_silent())
        # within one VM
        alone.write(6, 77)
        alone.offer(6)
        alone.attach(2)
        self.assertEqual(alone.held[5], alone.held[6])
        # one goes, and nobody notices
        vms[0].kill()
        self.wait_for(lambda: self.host()["shared"] == 4 * PAGE, "its reference has gone")
        for vm in vms[1:]:
            vm.check_held()
        vms[1].drop(5)
        for vm in vms:
            vm.kill()
        for vm in (other, alone):
            vm.kill()
        self.wait_empty()

    def test_what_is_saved_while_it_goes(self):
        """Parts are counted at every step, what is held at once: they must fit together."""
        vm = self.member("a")
        for ppn in range(32):
            vm.write(ppn, 1 + ppn // 2)
        vm.offer(*range(32))
        vm.attach(32)
        self.wait_for(lambda: self.rows_of_manager()["a"]["shared_saved"] == 16 * PAGE,
                      "its part is known")
        for ppn in range(30):
            vm.drop(ppn)

        def has_dropped():
            row = self.rows_of_manager()["a"]
            self.assertLessEqual(row["shared_saved"], row["shared"])
            return row["shared"] == 2 * PAGE
        self.wait_for(has_dropped, "two are left")

    def test_a_page_that_changes(self):
        """The hint is stale; what is offered then is not."""
        first, second = self.member("a", group="g"), self.member("b", group="g")
        first.write(1, 5)
        first.offer(1)
        self.wait_for(lambda: self.host()["hints"] == 1, "there is a hint")
        first.write(1, 6)
        second.write(1, 5)
        second.offer(1)
        second.write(2, 5)
        second.offer(2)
        second.attach(2)
        self.assertTrue(first.is_silent())
        # and a frame that is not what is there any more is dropped, and no harm done
        first.write(3, 5)
        first.offer(3)
        first.content[3] = 8
        first.attach(1)
        self.wait_for(lambda: self.host()["shared"] == 2 * PAGE, "it has been dropped")

    def test_a_new_vm_of_the_name(self):
        first = self.member("a", group="g")
        first.write(1, 5)
        first.write(2, 5)
        first.offer(1, 2)
        first.attach(2)
        first.kill()
        os.unlink(os.path.join(self.runtime, "a.sock"))
        second = self.member("a", group="g")
        self.wait_for(lambda: self.rows_of_manager()["a"]["pid"] == second.pid, "it is the new one")
        self.assertEqual(self.host()["frames"], 0)


class Restart(fake_vm.TestCase):
    def share(self, *vms, content=77, ppn=5):
        for vm in vms:
            vm.write(ppn, content)
            vm.offer(ppn)
        for vm in vms:
            vm.attach()

    def test_frames_are_kept(self):
        vms = [self.member(name, group="g") for name in ("a", "b")]
        self.share(*vms)
        frame = vms[0].held[5]
        self.kill_manager()
        self.start_manager()
        for vm in vms:
            self.assertEqual(vm.accept()["request"], "adopt")
        # the first comes back, and gives its page back before the second has been heard
        vms[0].hello()
        vms[0].tell()
        self.assertEqual(vms[0].welcomed(), 1)
        vms[0].drop(5)
        third = self.member("c", group="g")
        self.share(third, ppn=7)  # also the hash is known still
        self.assertEqual(third.held[7], frame)
        third.drop(7)
        self.wait_for(lambda: self.host()["shared"] == 0, "nobody is known to hold it")
        self.assertEqual(self.host()["frames"], 1)
        vms[1].check_held()
        vms[1].hello()
        vms[1].tell()
        self.assertEqual(vms[1].welcomed(), 1)
        self.wait_for(lambda: self.host()["shared"] == PAGE, "it is the second's")
        vms[1].drop(5)
        self.wait_for(lambda: self.host()["frames"] == 0, "it has gone")
        for vm in [*vms, third]:
            vm.kill()
        self.wait_empty()

    def test_one_has_ended_meanwhile(self):
        vms = [self.member(name, group="g") for name in ("a", "b")]
        self.share(*vms)
        self.kill_manager()
        vms[0].kill()
        self.start_manager()
        vms[1].accept()
        vms[1].hello()
        vms[1].tell()
        self.assertEqual(vms[1].welcomed(), 1)
        self.wait_for(lambda: self.host()["shared"] == PAGE, "one holds it")
        vms[1].drop(5)
        self.wait_for(lambda: self.host()["frames"] == 0, "it has gone")

    def test_over_and_over(self):
        vms = [self.member(name, group="g") for name in ("a", "b", "c")]
        for turn in range(4):
            self.share(*vms, content=100 + turn, ppn=10 + turn)
            if turn % 2 == 0:
                self.kill_manager()
            else:
                self.stop_manager()
            self.start_manager()
            for vm in vms:
                vm.accept()
                vm.hello()
                vm.tell()
            for vm in vms:
                self.assertEqual(vm.welcomed(), 1)
                vm.check_held()
        self.assertEqual(self.host()["shared"], 12 * PAGE)
        self.assertEqual(self.host()["frames"], 4)
        for vm in vms:
            vm.kill()
        self.wait_empty()

    def test_a_pool_that_is_none(self):
        """Only the very file that the state names."""
        vms = [self.member(name, group="g") for name in ("a", "b")]
        self.share(*vms)
        self.kill_manager()
        self.start_manager()
        forged = os.memfd_create("aerostat-pool", os.MFD_ALLOW_SEALING)
        self.addCleanup(os.close, forged)
        os.ftruncate(forged, 1 << 36)
        vms[0].accept()
        vms[0].hello(descriptors=[vms[0].ram, forged])
        vms[0].send(READY, count=0)
        vms[1].accept()
        vms[1].hello()
        vms[1].tell()
        self.assertEqual(vms[1].welcomed(), 1)
        self.assertEqual(vms[0].welcomed(), 0)
        vms[0].held = {}
        self.assertEqual(os.fstat(vms[0].pool).st_ino, os.fstat(vms[1].pool).st_ino)
        with self.assertRaises(OSError):
            os.pwrite(vms[0].pool, b"x", 0)
        vms[1].check_held()

    def test_what_a_vm_says_later_counts_for_nothing(self):
        """Its group and its memory are what they were when it was first heard."""
        rich = [self.member(name, group="rich") for name in ("a", "b")]
        self.share(*rich)
        poor = self.member("c", group="poor", min=PAGE)
        self.kill_manager()
        self.start_manager()
        poor.accept()
        poor.hello(group="rich", max=1 << 29, shares=1 << 31)
        poor.tell()
        for vm in rich:
            vm.accept()
            vm.hello()
            vm.tell()
            vm.welcomed()
        poor.welcomed()
        self.assertNotEqual(poor.key, rich[0].key)
        self.assertNotEqual(os.fstat(poor.pool).st_ino, os.fstat(rich[0].pool).st_ino)
        row = self.rows_of_manager()["c"]
        self.assertEqual((row["group"], row["min"], row["max"]), ("poor", PAGE, 64 * PAGE))

    def test_a_spoilt_state(self):
        vm = self.member("a", group="g")
        self.kill_manager()
        with open(os.path.join(self.runtime, "manager.state"), "w", encoding="ascii") as stream:
            stream.write('{"version":1,"groups":[')
        self.start_manager()
        vm.accept()
        vm.hello()
        vm.tell()
        self.assertEqual(vm.welcomed(), 0)
        self.assertIn("is not what a manager has left", self.log())


class Hostile(fake_vm.TestCase):
    """One VM that lies. It is cut off, and what others have stays as it is."""

    def setUp(self):
        super().setUp()
        self.victims = [self.member(name, group="g") for name in ("v1", "v2")]
        for vm in self.victims:
            for ppn in range(4):
                vm.write(ppn, 1000 + ppn)
            vm.offer(0, 1, 2, 3)
        for vm in self.victims:
            vm.attach(4)
        self.frames = sorted(self.victims[0].held.values())

    def check_victims(self):
        for vm in self.victims:
            vm.check_held()
            self.assertTrue(vm.is_silent())
            vm.write(9, 4242)
            vm.offer(9)
        for vm in self.victims:
            vm.attach()
            vm.drop(9)
        rows = self.rows_of_manager()
        for vm in self.victims:
            self.assertEqual(rows[vm.name]["shared"] in (4 * PAGE, 5 * PAGE), True)
        self.wait_for(lambda: sum(self.rows_of_manager()[vm.name]["shared"] for vm in self.victims)
                      == 8 * PAGE, "each holds its four frames")

    def evil(self, **options):
        vm = self.vm("evil", group="g", **options)
        vm.accept()
        return vm

    def check_cut_off(self, vm):
        while (message := vm.receive()) is not None:
            self.assertIn(message[0], (WELCOME, TARGET, ATTACH))
        self.check_victims()
        self.assertIn("evil is cut off: ", self.log())
        vm.kill()
        self.wait_for(lambda: self.host()["vms"] == 2, "it has gone")
        for victim in self.victims:
            victim.check_held()

    def test_greetings(self):
        def bad(**facts):
            return lambda vm: vm.hello(**facts)
        for act in (bad(version=0), bad(version=2), bad(version=1 << 31),
                    bad(name="v1"), bad(name=""), bad(name="a/b"), bad(name="x" * 65),
                    bad(group="x" * 65), bad(group="a b"), bad(group="\x1b[2J"),
                    bad(max=0), bad(min=2, max=1), bad(max=(1 << 64) - 1), bad(max=1 << 60),
                    bad(span=0), bad(span=1 << 29), bad(span=(1 << 64) - 1),
                    bad(overhead=(1 << 64) - 1),
                    bad(pool_key=1, descriptors=[0]), bad(pool_key=0, descriptors=[0, 1]),
                    lambda vm: vm.hello(descriptors=[vm.link.fileno()]),
                    lambda vm: vm.hello(descriptors=[os.pipe()[0]]),
                    lambda vm: vm.hello(descriptors=[]),
                    lambda vm: vm.hello(descriptors=[vm.ram] * 3),
                    lambda vm: vm.send(READY, count=0),
                    lambda vm: vm.send(WELCOME, bytes(32), descriptors=[vm.ram]),
                    lambda vm: vm.refs(HOLDS, (1, 1)),
                    lambda vm: (vm.hello(), vm.hello()),
                    lambda vm: (vm.hello(), vm.report()),
                    lambda vm: vm.link.send(b"x"),
                    lambda vm: vm.link.send(bytes(60000))):
            with self.vm("evil", group="g") as vm:
                vm.accept()
                act(vm)
                self.assertIsNone(vm.receive())
                self.assertTrue(all(victim.is_silent() for victim in self.victims))
            os.unlink(os.path.join(self.runtime, "evil.sock"))
        self.check_victims()

    def test_a_pool_of_nobody(self):
        """It may hand back what it likes: it gets the group's pool."""
        vm = self.evil()
        vm.hello(pool_key=self.victims[0].key, descriptors=[vm.ram, vm.ram])
        vm.refs(HOLDS, (1, self.frames[0]), (2, 1 << 20))
        vm.send(READY, count=0)
        self.assertEqual(vm.welcomed(), 0)
        self.assertEqual(self.rows_of_manager()["evil"]["shared"], 0)
        self.check_victims()

    def test_pages_that_it_does_not_hold(self):
        frame = self.frames[0]
        acts = {
            "a drop of what others hold": lambda vm: vm.refs(DROP, (0, frame)),
            "a drop of nothing": lambda vm: vm.refs(DROP, (0, 0)),
            "a drop of a frame that is none": lambda vm: vm.refs(DROP, (0, 1 << 23)),
            "a drop of a number that is none": lambda vm: vm.refs(DROP, (0, 0xffffffff)),
            "a drop of a foreign page": lambda vm: vm.refs(DROP, (64, frame)),
            "an offer of a foreign page": lambda vm: vm.offer(64, contents=[1]),
            "an offer far out": lambda vm: vm.offer(0xffffffff, contents=[1]),
            "holds after ready": lambda vm: vm.refs(HOLDS, (0, frame)),
            "ready again": lambda vm: vm.send(READY, count=0),
            "hello again": lambda vm: vm.hello(),
            "half a message": lambda vm: vm.link.send(bytes(4)),
            "half an offer": lambda vm: vm.send(OFFER, bytes(15)),
            "too long a drop": lambda vm: vm.send(DROP, bytes(16)),
            "the manager's part": lambda vm: vm.refs(ATTACH, (0, frame)),
            "no such type": lambda vm: vm.send(0x1000),
            "a report with a descriptor":
                lambda vm: vm.send(REPORT, bytes(176), descriptors=[vm.ram]),
        }
        for what, act in acts.items():
            with self.subTest(what):
                with self.vm("evil", group="g") as vm:
                    vm.join()
                    vm.write(0, 5)
                    act(vm)
                    self.check_cut_off(vm)
                os.unlink(os.path.join(self.runtime, "evil.sock"))

    def test_a_reference_given_back_twice(self):
        vm = self.evil()
        vm.hello()
        vm.tell()
        vm.welcomed()
        vm.write(0, 1000)
        vm.offer(0)
        frame = vm.attach()[0]
        self.assertIn(frame, self.frames)
        vm.refs(DROP, (0, frame), (0, frame))
        self.check_cut_off(vm)

    def test_it_keeps_what_it_holds_until_it_ends(self):
        """Nobody's pages change under him, a liar's neither."""
        vm = self.evil()
        vm.hello()
        vm.tell()
        vm.welcomed()
        for ppn in (1, 2):
            vm.write(ppn, 666)
        vm.offer(1, 2)
        vm.attach(2)
        vm.refs(DROP, (60, 1))
        while vm.receive() is not None:
            pass
        self.check_victims()
        self.assertEqual(self.rows_of_manager()["evil"]["shared"], 2 * PAGE)
        vm.check_held()
        vm.kill()
        self.wait_for(lambda: self.host()["frames"] == 4, "it has gone with its frame")

    def test_wrong_hashes(self):
        """They lead to nothing, and take nothing from those who tell the truth."""
        vm = self.evil()
        vm.hello()
        vm.tell()
        vm.welcomed()
        vm.write(0, 1)
        vm.offer(0, contents=[4242])
        vm.write(1, 2)
        vm.offer(1, contents=[1000])  # of a frame: it may look at what the pool shows anyway
        frame = vm.attach()[0]
        self.assertIn(frame, self.frames)
        self.check_victims()
        self.assertEqual(self.rows_of_manager()["evil"]["shared"], 0)

    def test_who_does_not_read(self):
        """Nothing is kept for it, and it holds up nobody."""
        vm = self.evil(pages=2048)
        vm.hello()
        vm.tell()
        vm.welcomed()
        before = self.host()["metadata"]
        for ppn in range(2048):
            vm.write(ppn, 5)
        for turn in range(60):
            vm.offer(*range(turn * 32, turn * 32 + 32))
            vm.offer(*range(512))
        self.check_victims()
        self.assertLess(self.host()["metadata"], before + (1 << 20))

    def test_floods(self):
        """It has its turns, and the others have theirs."""
        vm = self.evil()
        vm.hello()
        vm.tell()
        vm.welcomed()
        for ppn in range(64):
            vm.write(ppn, 1 << 20 | ppn)
        link, stop = vm.link, threading.Event()
        link.settimeout(1)

        def flood():
            turn = 0
            while not stop.is_set():
                turn += 1
                try:
                    vm.offer(*range(64), contents=[turn << 8 | ppn for ppn in range(64)])
                except TimeoutError:
                    pass
                except OSError:
                    return

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            for _ in range(20):
                self.check_victims()
        finally:
            stop.set()
            thread.join()
        self.assertEqual(self.rows_of_manager()["evil"]["managed"], True)

    def test_closing_links(self):
        """However often, each time it is asked again."""
        vm = self.evil()
        for _ in range(3):
            vm.hello()
            vm.link.close()
            vm.link = None
            vm.accept()
        vm.hello()
        vm.tell()
        vm.welcomed()
        self.check_victims()


class Control(fake_vm.TestCase):
    def refused(self, code, *words, **request):
        reply = self.ask(**request)
        self.assertEqual((reply["ok"], reply.get("code")), (False, code), reply)
        for word in words:
            self.assertIn(word, reply["error"])

    def test_admission(self):
        mib = 1 << 20
        self.assertTrue(self.ask(request="admit", name="a", max=600 * mib, min=600 * mib)["ok"])
        self.refused("no memory", "short", request="admit", name="b", max=600 * mib, min=600 * mib)
        # what is reserved for a name is reserved once
        self.assertTrue(self.ask(request="admit", name="a", max=500 * mib, min=500 * mib,
                                 group="g", shares=9)["ok"])
        self.refused("invalid", request="admit", name="c", max=mib, min=2 * mib)
        # the VM is what was admitted, whatever it says itself
        vm = self.vm("a", pages=500 * 256, group="another").join()
        row = self.rows_of_manager()["a"]
        self.assertEqual((row["group"], row["min"], row["shares"]), ("g", 500 * mib, 9))
        self.refused("busy", "a VM named a", request="admit", name="a", max=mib)
        self.refused("no memory", request="admit", name="b", max=600 * mib, min=600 * mib)
        vm.kill()
        self.wait_for(lambda: self.ask(request="admit", name="b", max=600 * mib,
                                       min=600 * mib)["ok"], "there is room again")

    def test_who_was_not_admitted(self):
        """It is managed all the same, and what is short is said."""
        vm = self.member("a", pages=2 << 18, min=2 << 30)
        self.assertIn("a", self.rows_of_manager())
        self.assertRegex(self.log(), "a runs without having been admitted: .*short")
        vm.kill()
        self.wait_empty()

    def test_set(self):
        vms = [self.member(name, group="g") for name in ("a", "b")]
        for vm in vms:
            vm.write(1, 5)
            vm.offer(1)
        for vm in vms:
            vm.attach()
        self.assertTrue(self.ask(request="set", name="a", shares=77, min=PAGE)["ok"])
        row = self.rows_of_manager()["a"]
        self.assertEqual((row["shares"], row["min"]), (77, PAGE))
        self.refused("not found", request="set", name="c", shares=1)
        self.refused("invalid", request="set", name="a")
        self.refused("invalid", request="set", name="a", min=65 * PAGE)
        # to another group: it is asked anew, gets another pool, and has until its next message
        self.assertTrue(self.ask(request="set", name="a", group="h")["ok"])
        key = vms[0].key
        vms[0].accept()
        vms[0].hello()
        vms[0].tell()
        self.assertEqual(vms[0].welcomed(), 0)
        self.assertNotEqual(vms[0].key, key)
        self.assertEqual(self.host()["shared"], PAGE)
        self.assertEqual(self.host()["frames"], 1)
        vms[1].drop(1)
        vms[0].report()
        self.wait_for(lambda: self.host()["frames"] == 0, "the old pool's frame has gone")
        self.assertEqual(self.rows_of_manager()["a"]["group"], "h")
        for vm in vms:
            vm.kill()
        self.wait_empty()

    def test_memory(self):
        self.assertEqual(self.host()["memory"], 1 << 30)
        vm = self.member("a", pages=1 << 15)
        self.assertTrue(self.ask(request="memory", size=1 << 26)["ok"])
        self.assertEqual(self.host()["memory"], 1 << 26)
        while vm.target is None or vm.target["resident"] > 1 << 26:
            vm.receive(TARGET)
        self.refused("invalid", request="memory", size=0)
        # it is so for the next one as well
        self.kill_manager()
        self.start_manager("--memory", "2G")
        self.assertEqual(self.host()["memory"], 2 << 30)

    def test_quit(self):
        vm = self.member("a")
        self.assertTrue(self.ask(request="quit")["ok"])
        self.assertEqual(self.manager.wait(harness.EXIT_SECONDS), 0)
        self.assertFalse(os.path.exists(os.path.join(self.runtime, "manager.sock")))
        while vm.receive() is not None:
            pass
        self.start_manager()
        vm.join()

    def test_mistakes(self):
        blocked = os.path.join(self.folder, "file")
        with open(blocked, "wb"):
            pass
        for arguments, word in (((), "a manager is running already"),
                                (("--memory", "lots"), "--memory"),
                                (("--memory", "1K"), "--memory"),
                                (("--memory",), "needs a value"),
                                (("--loud",), "--loud"),
                                (("now",), "now")):
            self.check_mistake(arguments, word)
        self.stop_manager()
        for path in (os.path.join(blocked, "socket"), blocked, "/proc/socket", "x" * 200):
            self.check_mistake(("--socket", path), "cannot listen" if len(path) < 200 else "long")
        os.chmod(self.runtime, 0o755)
        self.check_mistake((), "mode 700")
        os.chmod(self.runtime, 0o700)
        self.start_manager()

    def check_mistake(self, arguments, word):
        done = subprocess.run([fake_vm.AEROSTATD, *arguments], capture_output=True, text=True,
                              timeout=harness.EXIT_SECONDS, check=False)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, r"\Aaerostatd: error: [^\n]+\n\Z")
        self.assertIn(word, done.stderr)

    def test_a_second_socket(self):
        self.stop_manager()
        self.start_manager("--memory", "1G", "--socket", os.path.join(self.folder, "other.sock"))
        with control.Connection(self.folder, "other") as connection:
            self.assertTrue(connection.ask(request="status")["ok"])


if __name__ == "__main__":
    harness.main()
