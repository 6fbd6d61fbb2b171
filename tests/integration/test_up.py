#!/usr/bin/env python3
"""up, down, plan and set: VMs of a file, with kernels of a few bytes and a stand-in for the manager."""

import json
import os
import shutil
import subprocess

import control
import harness
import tiny_kernel

HERE = os.path.dirname(os.path.abspath(__file__))


class Case(control.TestCase):
    """The programs are in a folder of the test's, with `manager` as aerostatd."""

    manager = os.path.join(HERE, "manager_stub.py")

    def setUp(self):
        super().setUp()
        folder = self.path("bin")
        os.mkdir(folder)
        for name in ("aerostat", "aerostat-vm"):
            shutil.copy(os.path.join(os.path.dirname(harness.AEROSTAT), name), folder)
        shutil.copy(self.manager, os.path.join(folder, "aerostatd"))
        self.aerostat = os.path.join(folder, "aerostat")
        self.make_file("halting", tiny_kernel.multiboot(tiny_kernel.serial(b"up\n") +
                                                        tiny_kernel.HALT))
        self.addCleanup(self.run_command, "down", "--force", "-f", self.path("vms.yaml"))

    def run_command(self, *arguments, stdin=b"", seconds=harness.EXIT_SECONDS):
        done = subprocess.run([self.aerostat, *arguments], input=stdin, capture_output=True,
                              timeout=seconds, check=False)
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")

    def file(self, vms, head="memory: 200M\n", code="code_cache: 2M"):
        text = f"{head}defaults: {{kernel: halting, max: 16M, {code}}}\nvms:\n{vms}"
        return self.make_file("vms.yaml", text.encode())

    def up(self, path):
        return self.command("up", "-f", path).splitlines()

    def requests(self):
        with open(os.path.join(self.runtime, "requests.jsonl"), encoding="utf-8") as stream:
            return [json.loads(line) for line in stream]


class Up(Case):
    def test_up_and_down(self):
        path = self.file("  a: {min: 1M}\n  b: {count: 2}\n")
        self.assertEqual(self.up(path), ["manager: started with 200M", "a: started",
                                         "b-1: started", "b-2: started"])
        rows = self.rows()
        self.assertEqual(list(rows), ["a", "b-1", "b-2"])
        self.assertEqual([row["max"] for row in rows.values()], [16 << 20] * 3)
        admitted = [request for request in self.requests() if request["request"] == "admit"]
        # All before any is started, and then each VM for itself.
        self.assertEqual([request["name"] for request in admitted], ["a", "b-1", "b-2"] * 2)
        self.assertEqual(admitted[:3], admitted[3:])
        self.assertEqual([request["min"] for request in admitted[:3]], [1 << 20, 0, 0])

        # Again: nothing happens to those that run, the one that is gone comes back.
        self.command("stop", "--force", "b-1")
        self.assertEqual(self.up(path), ["a: runs already", "b-1: started", "b-2: runs already"])
        again = self.rows()
        self.assertEqual(again["a"]["pid"], rows["a"]["pid"])

        lines = self.command("down", "-f", path).splitlines()
        self.assertEqual(lines, ["a: shut down", "b-1: shut down", "b-2: shut down",
                                 "manager: stopped"])
        self.assertEqual(self.rows(), {})
        self.assertEqual(self.command("down", "-f", path), "")
        left = {name for name in os.listdir(self.runtime) if not name.startswith("requests")}
        self.assertLessEqual(left, {"manager.log"})

    def test_default_file(self):
        os.rename(self.file("  a: {}\n"), self.path("aerostat.yaml"))
        done = subprocess.run([self.aerostat, "up"], cwd=self.folder, capture_output=True,
                              timeout=harness.EXIT_SECONDS, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(list(self.rows()), ["a"])
        done = subprocess.run([self.aerostat, "down", "--force"], cwd=self.folder,
                              capture_output=True, timeout=harness.EXIT_SECONDS, check=False)
        self.assertEqual(done.stdout, b"a: ended\nmanager: stopped\n")

    def test_refused(self):
        """One that does not fit: none is started, and the manager goes again."""
        path = self.file("  a: {}\n  b: {}\n  c: {max: 256M, min: 190M}\n")
        status, output, errors = self.run_command("up", "-f", path)
        self.assertEqual((status, output), (2, b"manager: started with 200M\nmanager: stopped\n"))
        self.assertRegex(errors, r"\Aaerostat: \S+vms.yaml:6: c: \d+ MiB of memory short\n\Z")
        self.assertEqual(self.rows(), {})

    def test_manager_that_does_not_start(self):
        path = self.file("  a: {}\n", head="memory: 4M\n")
        self.check_fails("up", "-f", path, words=["the manager has not started: that is not "
                                                  "enough memory"])

    def test_manager_of_somebody_else(self):
        """down leaves a manager running that up has not started, or that has other VMs."""
        path = self.file("  a: {}\n")
        self.up(path)
        other = self.detach(["--kernel", self.path("halting"), "--memory", "16M", "--code-cache", "2M"])
        self.assertEqual(self.command("down", "--force", "-f", path), "a: ended\n")
        self.command("stop", "--force", other)
        self.assertEqual(self.command("down", "-f", path), "manager: stopped\n")
        manager = subprocess.Popen([os.path.join(self.folder, "bin", "aerostatd")])
        self.addCleanup(manager.wait)
        self.addCleanup(manager.kill)
        self.wait_for(lambda: os.path.exists(os.path.join(self.runtime, "manager.sock")), "socket")
        self.assertEqual(self.up(path), ["a: started"])
        self.assertEqual(self.command("down", "--force", "-f", path), "a: ended\n")
        self.assertIsNone(manager.poll())

    def test_mistakes(self):
        path = self.file("  a: {max: 1Q}\n")
        for command in ("up", "down", "plan"):
            self.check_fails(command, "-f", path, words=["vms.yaml:4: max: 1Q is not a size"])
            self.check_fails(command, "-f", self.path("none"), words=["cannot read"])
            self.check_fails(command, "-f", words=["needs a value"])
            self.assertIn(f"usage: aerostat {command}", self.command(command, "--help"))
        self.check_fails("up", "-f", self.file("  a: {initrd: none}\n"),
                         words=["vms.yaml:4: initrd: cannot read"])
        self.check_fails("down", "--force", "--wait", "1", words=["exclude"])
        self.assertEqual(self.rows(), {})

    def test_shared_image(self):
        """Copies on one image write to overlays."""
        image = self.make_file("disk.img", bytes(1 << 20))
        path = self.file("  a: {count: 2, disks: disk.img}\n")
        self.up(path)
        self.assertEqual(len(self.rows()), 2)
        self.check_fails("run", "--kernel", self.path("halting"), "--disk", image,
                         words=["in use"])
        self.command("down", "-f", path)


class Plan(Case):
    def test_table_and_json(self):
        path = self.file("  a: {shares: 5, max: 128M}\n  b: {count: 2, max: 128M, group: g}\n")
        lines = self.command("plan", "-f", path).splitlines()
        self.assertRegex(lines[0], r"\ANAME +MAX +MIN +SHARES +ALL BUSY ")
        self.assertRegex(lines[2], r"\Ab-1 +128M +0 +128000 .* g\Z")
        self.assertIn("host memory 200M", lines[-1])
        plan = json.loads(self.command("plan", "-f", path, "--json"))
        self.assertEqual([vm["name"] for vm in plan["vms"]], ["a", "b-1", "b-2"])
        self.assertTrue(plan["fits"])
        status, output, errors = self.run_command("plan", "-f", path, "--memory", "20M", "--json")
        self.assertEqual((status, json.loads(output)["fits"]), (2, False))
        self.assertIn("vms.yaml:5: b-1: ", errors)
        self.assertEqual(self.rows(), {})


class Manager(Case):
    def test_ps_and_stats(self):
        """What the manager knows of the VMs, where there is one."""
        path = self.file("  a: {}\n")
        other = self.detach(["--kernel", self.path("halting"), "--memory", "16M", "--code-cache", "2M"])
        self.addCleanup(self.run_command, "stop", "--force", other)
        self.assertNotIn("GROUP", self.command("ps"))
        self.check_fails("stats", words=["no manager is running"])
        self.up(path)
        row = self.rows()["a"]
        self.assertEqual([row[key] for key in ("target", "shares", "group", "min")],
                         [3 << 20, 77, "g", 1 << 20])
        self.assertNotIn("target", self.rows()[other])
        lines = self.command("ps").splitlines()
        self.assertRegex(lines[0], r" PID +TARGET +SHARES +GROUP\Z")
        self.assertRegex(lines[1], r"\Aa .* 3M +77 +g\Z")
        self.assertRegex(lines[2], rf"\A{other} .* - +0 +-\Z")
        status = json.loads(self.command("stats", "--json"))
        self.assertEqual((status["host"]["memory"], status["vms"][0]["name"]), (200 << 20, "a"))
        stats = self.stats("a")
        self.assertEqual([stats[key] for key in ("host_memory", "host_state", "shares", "group")],
                         [200 << 20, "high", 77, "g"])
        text = self.command("stats")
        self.assertRegex(text, r"(?m)^memory +209715200  \(200M\)$")
        self.assertRegex(text, r"(?m)^a +0 +1M +3M ")
        self.check_fails("stats", "a", "b", words=["b: unexpected argument"])


class Run(Case):
    def test_admission(self):
        """run asks as up does; a VM without a name gets one, by which it is known."""
        path = self.file("  a: {}\n")
        self.up(path)
        options = ["--kernel", self.path("halting"), "--memory", "16M", "--swap-size", "8M",
                   "--code-cache", "2M"]
        self.assertEqual(self.detach(options), "vm1")
        self.assertEqual(self.detach(options), "vm2")
        self.assertEqual(self.detach(options, "web"), "web")
        asked = self.requests()[-1]
        self.assertEqual([asked[key] for key in ("request", "name", "max", "swap")],
                         ["admit", "web", 16 << 20, 8 << 20])
        for command in (["--memory", "64G"], ["--memory", "64G", "--name", "huge"]):
            self.check_fails("run", "--kernel", self.path("halting"), *command,
                             words=["MiB of memory short"])
        before = len(self.requests())
        self.check_fails("run", "--memory", "much", words=["much is not a size"])
        self.assertIn("usage:", self.command("run", "--help"))
        self.assertEqual(len(self.requests()), before)
        # Options that it does not know go to the VM as they are.
        self.assertEqual(self.detach(["--chaos", "8", "--resident", "8M", *options], "x"), "x")
        self.assertEqual(self.stats("x")["target"], 8 << 20)
        self.command("stop", "--force", "x")
        # Many at the same time: each gets a name of its own.
        started = [subprocess.Popen([self.aerostat, "run", "--detach", *options], text=True,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                   for _ in range(6)]
        names = sorted(process.communicate()[0].strip() for process in started)
        self.assertEqual(names, [f"vm{number}" for number in range(3, 9)])
        for name in ["vm1", "vm2", "web", *names]:
            self.command("stop", "--force", name)


class Aerostatd(Case):
    """The same with the manager itself."""

    manager = os.path.join(os.path.dirname(harness.AEROSTAT), "aerostatd")

    def managed(self):
        return {vm["name"]: vm for vm in json.loads(self.command("stats", "--json"))["vms"]}

    def test_all(self):
        path = self.file("  a: {min: 4M, shares: 500}\n  b: {count: 3, group: g}\n")
        self.assertEqual(self.up(path)[0], "manager: started with 200M")
        names = ["a", "b-1", "b-2", "b-3"]
        self.assertEqual(list(self.rows()), names)
        self.wait_for(lambda: sorted(self.managed()) == names, "all are adopted")
        its = self.managed()["a"]
        self.assertEqual([its[key] for key in ("min", "max", "shares")], [4 << 20, 16 << 20, 500])
        self.assertEqual(self.managed()["b-2"]["group"], "g")
        self.command("set", "a", "shares=700", "min=5M")
        self.wait_for(lambda: self.rows()["a"].get("shares") == 700, "new shares")
        self.command("memory", "300M")
        self.assertEqual(json.loads(self.command("stats", "--json"))["host"]["memory"], 300 << 20)
        self.check_fails("memory", "much", words=["much is not a size"])
        self.check_fails("run", "--kernel", self.path("halting"), "--memory", "900M", "--min",
                         "800M", words=["vm1: ", "MiB of memory short"])
        self.assertEqual(self.command("down", "-f", path).splitlines()[-1], "manager: stopped")
        self.assertEqual(self.rows(), {})

    def test_refused(self):
        path = self.file("  a: {}\n  b: {max: 512M, min: 300M}\n")
        status, output, errors = self.run_command("up", "-f", path)
        self.assertEqual((status, output), (2, b"manager: started with 200M\nmanager: stopped\n"))
        self.assertRegex(errors, r"\Aaerostat: \S+vms.yaml:5: b: \d+ MiB of memory short: [^\n]+\n\Z")
        path = self.file("  a: {}\n", head="memory: 200M\nswap: {size: 8M}\n")
        self.check_fails_saying(path, r"vms.yaml:5: a: \d+ MiB of swap space short")

    def check_fails_saying(self, path, pattern):
        status, _, errors = self.run_command("up", "-f", path)
        self.assertEqual(status, 2)
        self.assertRegex(errors, pattern)


class Set(Case):
    def test_set(self):
        path = self.file("  a: {}\n")
        self.up(path)
        self.assertEqual(self.command("set", "a", "shares=100", "min=2M", "group=x"), "")
        self.assertEqual(self.requests()[-1], {"request": "set", "name": "a", "shares": 100,
                                               "min": 2 << 20, "group": "x"})
        self.assertEqual(self.command("set", "a", "group="), "")
        self.check_fails("set", "b", "shares=1", words=["no VM is named b"])
        for mistake in ("shares=x", "min=much", "group=a b", "size=1", "shares", "=1"):
            self.check_fails("set", "a", mistake, words=[mistake])
        self.check_fails("set", "a", words=["shares=N is missing"])
        self.command("down", "--force", "-f", path)
        self.check_fails("set", "a", "shares=1", words=["no manager is running"])


if __name__ == "__main__":
    harness.main()
