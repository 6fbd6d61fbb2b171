#!/usr/bin/env python3
"""A complete Debian in a VM: systemd, apt, gcc, programs with tests of their own, stress-ng.

    soak_debian.py [CLASS[.TEST]]...

Takes half an hour. Every test works on its own copy of the image, powers the guest off, and ends
with fsck. AEROSTAT_ENGINE names another engine than the translator; STRESS_SECONDS is for how long
stress-ng runs (600).
"""

import hashlib
import os
import re
import subprocess
import time

import debian
import harness

STRESS_SECONDS = int(os.environ.get("STRESS_SECONDS", "600"))
SLOW = 40 if debian.ENGINE == "interp" else 4  # limits are for a busy machine

# What no healthy kernel says.
TROUBLE = re.compile(r"BUG:|WARNING:|Oops|general protection|soft lockup|hung_task|blocked for more"
                     r"|detected stalls|EXT4-fs error|EXT4-fs warning|I/O error|Call Trace"
                     r"|bad page|clocksource: .*unstable|traps: |segfault at")

# Those that use up memory until the guest's kernel kills processes, by design: systemd ends the
# whole login session then.
STARVING = "bigheap,brk,mlock,mlockmany,oom-pipe,resources,stack,watchdog"

PYTHON_TESTS = """array audioop binascii bz2 cmath ctypes decimal float fractions hashlib heapq json
    long lzma math random re statistics struct unicodedata zlib""".split()


def lines_of(last):
    """What `seq 1 LAST` prints."""
    return "".join(f"{i}\n" for i in range(1, last + 1)).encode()


class Test(harness.TestCase):
    def boot(self, **options):
        """A guest with root logged in, and a look at what systemd thinks of it."""
        self.image = debian.make_image(self.folder)
        started = time.monotonic()
        guest = debian.Debian(self.image, **options)
        self.addCleanup(guest.__exit__)
        guest.log_in()
        print(f"soak: {time.monotonic() - started:.1f} s to a shell", flush=True)
        state = guest.run("systemctl is-system-running --wait || systemctl --failed", 60 * SLOW)
        self.assertEqual(state, "running")
        return guest

    def end(self, guest, complaints=TROUBLE):
        """No complaint of the kernel's, a clean end, and a file system without a fault."""
        said = guest.run("dmesg")
        self.assertEqual([line for line in said.splitlines() if complaints.search(line)], [])
        self.assertEqual((guest.power_off(), guest.errors), (harness.STATUS_OK, ""),
                         guest.report())
        self.assertIsNone(debian.check_file_system(self.image))


class Userland(Test):
    def install(self, guest):
        """A package and the two libraries it needs, from the repository in the image."""
        guest.run("apt-get -q update && apt-get -q -y install jq hello", 120 * SLOW)
        self.assertEqual(guest.run("hello"), "Hello, world!")
        self.assertEqual(guest.run("echo '{\"a\": [1, 2, 39]}' | jq -M '.a | add'"), "42")
        self.assertEqual(guest.run("dpkg --verify jq libjq1 libonig5 hello | grep -v /usr/share/"
                                   " || dpkg --audit"), "")
        guest.run("apt-get -q -y purge hello && ! [ -e /usr/bin/hello ]", 60 * SLOW)

    def compile(self, guest, jobs):
        """Two projects with their tests: of many small programs, and of bytes that must agree."""
        said = guest.run("cd /usr/local/src/jansson && ./configure >/dev/null"
                         f" && make -s -j{jobs} 2>&1 && make -s check 2>&1", 600 * SLOW)
        passed = re.search(r"# PASS: +(\d+)\n.*# FAIL: +0\n.*# ERROR: +0$", said,
                           re.DOTALL | re.MULTILINE)
        self.assertTrue(passed, said[-4000:])
        said = guest.run(f"cd /usr/local/src/bzip2 && make -s -j{jobs} 2>&1", 300 * SLOW)
        self.assertIn("If you got this far and the 'cmp's didn't complain", said)

    def test_install_and_compile(self):
        guest = self.boot()
        self.install(guest)
        self.compile(guest, jobs=1)
        self.end(guest)

    def test_install_and_compile_on_two_cpus(self):
        guest = self.boot(cpus=2)
        self.assertEqual(guest.run("nproc"), "2")
        self.install(guest)
        self.compile(guest, jobs=2)
        self.end(guest)

    def test_reboot(self):
        """What was written is there after a reboot, in the same VM."""
        guest = self.boot()
        guest.run("seq 1 2000000 >/root/numbers")
        guest.reboot()
        guest.log_in()
        self.assertEqual(guest.run("sha256sum </root/numbers").split()[0],
                         hashlib.sha256(lines_of(2000000)).hexdigest())
        self.end(guest)


    def test_power_button(self):
        """aerostat stop: systemd sees the button and shuts down, to a clean file system."""
        name = f"soak-{os.getpid()}"
        guest = self.boot(extra=("--name", name))
        subprocess.run([harness.AEROSTAT, "stop", "--wait", str(120 * SLOW), name], check=True)
        self.assertEqual((guest.wait(), guest.errors), (harness.STATUS_OK, ""), guest.report())
        self.assertIsNone(debian.check_file_system(self.image))


class Programs(Test):
    """Programs with many instructions, whose results are known or checked by another program."""

    def test_python(self):
        guest = self.boot()
        tests = " ".join(f"test_{name}" for name in PYTHON_TESTS)
        said = guest.run(f"python3 -m test -w {tests} 2>&1", 900 * SLOW)
        self.assertIn("Tests result: SUCCESS", said)
        self.end(guest)

    def test_digests(self):
        guest = self.boot()
        guest.run("seq 1 1000000 >/tmp/data")
        data = lines_of(1000000)
        for name in ("md5", "sha1", "sha256", "sha512"):
            digest = hashlib.new(name, data).hexdigest()
            for command in (f"{name}sum </tmp/data", f"openssl dgst -{name} -r /tmp/data",
                            f"python3 -c 'import hashlib; print(hashlib.{name}("
                            "open(\"/tmp/data\", \"rb\").read()).hexdigest())'"):
                self.assertEqual(guest.run(command).split()[0], digest, command)
        for name in ("1", "256", "512"):
            digest = hashlib.new(f"sha{name}", data).hexdigest()
            self.assertEqual(guest.run(f"shasum -a {name} /tmp/data").split()[0], digest)
        self.end(guest)

    def test_openssl(self):
        guest = self.boot()
        guest.run("seq 1 1000000 >/tmp/data; cd /tmp")
        for cipher in ("aes-128-cbc", "aes-256-ctr", "camellia-256-cbc", "chacha20",
                       "aria-256-cbc"):
            code = f"openssl enc -{cipher} -pbkdf2 -iter 1000 -pass pass:word"
            guest.run(f"{code} </tmp/data | {code} -d | cmp - /tmp/data")
            # The table-driven code of OpenSSL, without the instructions for it, must agree.
            fixed = (f"openssl enc -{cipher} -nosalt -md sha256 -pass pass:word"
                     " </tmp/data 2>/dev/null")
            guest.run(f"{fixed} >/tmp/one; export OPENSSL_ia32cap=~0x200000200000000; {fixed}"
                      " | cmp - /tmp/one")
        for key in ("RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt ec_paramgen_curve:P-256",
                    "EC -pkeyopt ec_paramgen_curve:P-521", "ED25519", "ED448"):
            digest = "-rawin" if key.startswith("ED") else "-rawin -digest sha256"
            guest.run("cd /tmp; head -c 10000 data >small"
                      f"; openssl genpkey -quiet -out key.pem -algorithm {key}"
                      " && openssl pkey -in key.pem -pubout -out public.pem"
                      f" && openssl pkeyutl -sign -inkey key.pem {digest} -in small -out signature"
                      f" && openssl pkeyutl -verify -pubin -inkey public.pem {digest} -in small"
                      " -sigfile signature", 120 * SLOW)
        guest.run("openssl speed -seconds 1 -evp aes-256-gcm", 60 * SLOW)
        self.end(guest)

    def test_round_trips(self):
        guest = self.boot()
        guest.run("tar -C /usr/lib -c git-core python3 perl-base udev"
                  " | head -c 20000000 >/tmp/data", 120 * SLOW)
        for code in ("gzip -9", "bzip2", "xz -1", "xz -6", "zstd -1", "zstd -19 --single-thread"):
            program = code.split()[0]
            guest.run(f"{code} -c </tmp/data | {program} -dc | cmp - /tmp/data", 300 * SLOW)
        self.end(guest)

    def test_git_sqlite_and_perl(self):
        guest = self.boot()
        guest.run("git init -q /tmp/git && cd /tmp/git && git config user.email a@b"
                  " && git config user.name a && cp -r /usr/local/src/jansson ."
                  " && git add -A && git commit -qm first && for i in $(seq 50); do"
                  " seq $i $((i * 50)) >file$((i % 7)) && git add -A && git commit -qm $i || exit"
                  "; done && git gc -q --aggressive && git fsck --full --strict"
                  " && git clone -q /tmp/git /tmp/clone && cd /tmp/clone && git fsck --full"
                  " && diff -r --exclude=.git /tmp/git /tmp/clone", 300 * SLOW)
        said = guest.run(
            "sqlite3 /tmp/base 'create table t(i integer primary key, s text, d real);"
            " with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)"
            " insert into t select i, hex(i * 7919), i / 8.0 from n; create index x on t(s);"
            " delete from t where i % 3 = 0; update t set s = s || char(120) where i % 5 = 0;"
            " vacuum; pragma integrity_check;"
            " select count(*), sum(i), sum(d), count(distinct s) from t'",
            120 * SLOW)
        numbers = [i for i in range(1, 100001) if i % 3]
        self.assertEqual(said, f"ok\n{len(numbers)}|{sum(numbers)}|{sum(numbers) / 8.0}"
                               f"|{len(numbers)}")
        said = guest.run("perl -Mbigint -e '$f = 1; $f *= $_ for 1 .. 400; print $f'", 120 * SLOW)
        product = 1
        for factor in range(1, 401):
            product *= factor
        self.assertEqual(said, str(product))
        said = guest.run("perl -e 'for (1 .. 200000) { $h{$_ % 977} .= chr(65 + $_ % 26);"
                         " $s += sqrt($_) } s/([AEIOU])/<$1>/g for values %h;"
                         " print join(\",\", scalar(keys %h), length(join(\"\", values %h)),"
                         " sprintf(\"%.6f\", $s))'", 120 * SLOW)
        vowels = sum(chr(65 + i % 26) in "AEIOU" for i in range(1, 200001))
        root = sum(i ** 0.5 for i in range(1, 200001))
        self.assertEqual(said, f"977,{200000 + 2 * vowels},{root:.6f}")
        self.end(guest)


class Stress(Test):
    """stress-ng --verify, on two CPUs: first one stressor of many methods, then class by class."""

    def stress(self, guest, what, seconds):
        said = guest.run(f"stress-ng {what} --verify --metrics-brief 2>&1",
                         3 * seconds + 200 * SLOW)
        bad = [line for line in said.splitlines()
               if re.search(r"fail:|error:|unexpected signal|corrupted|terminated with", line)]
        self.assertEqual(bad, [], said[-8000:])
        self.assertIn("successful run completed", said)
        ran = set(re.findall(r"^stress-ng: metrc: +\[\d+\] (\S+) +\d+ ", said, re.MULTILINE))
        print(f"soak: stress-ng {what}: passed:"
              f" {' '.join(sorted(ran))}", flush=True)

    def test_stress(self):
        guest = self.boot(cpus=2, memory="2G")
        methods = max(STRESS_SECONDS // 10, 1)
        for what in (f"--cpu 2 --cpu-method all -t {2 * methods}",
                     f"--vm 2 --vm-bytes 128M --vm-method all -t {methods}",
                     f"--memcpy 1 --matrix 1 -t {methods}",
                     f"--syscall 2 -t {methods}"):
            self.stress(guest, what, 2 * methods)
        each = max(STRESS_SECONDS // 2 // 150, 1)
        for name in ("cpu", "memory", "vm", "cpu-cache"):
            self.stress(guest, f"--class {name} --seq 1 --exclude {STARVING} -t {each}", 150 * each)
        self.end(guest)


if __name__ == "__main__":
    harness.main()
