"""Gathers what the guests of bench/speed/run get as /bench, in build/speed/bench.

    speed          the program in bench/speed/guest
    text           a file for busybox, made of words that are as often as words are
    python/        this machine's Python with just what work.py loads (see guest/programs.c);
                   left out where there is none with SQLite

The native run uses the very same files.
"""

import glob
import os
import random
import re
import shutil
import subprocess
import sys

import contest

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(contest.BUILD, "speed")
BENCH = os.path.join(FOLDER, "bench")
SPEED = os.path.join(BENCH, "speed")
TEXT_BYTES = 2 << 20
WORK = os.path.join(HERE, "work.py")


def make_text(path):
    """Random words, the n-th most frequent one with frequency 1/n; the same bytes each time."""
    source = random.Random(20021209)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    vocabulary = ["".join(source.choices(letters, range(26, 0, -1), k=source.randint(2, 10)))
                  for _ in range(4000)]
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    lines = []
    size = 0
    while size < TEXT_BYTES:
        line = " ".join(source.choices(vocabulary, weights, k=12)).capitalize() + ".\n"
        lines.append(line)
        size += len(line)
    with open(path, "w", encoding="ascii") as stream:
        stream.write("".join(lines)[:TEXT_BYTES])


def output_of(command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, env={"LC_ALL": "C", "PATH": os.defpath}).stdout


def libraries_of(files):
    """The dynamic loader, and the shared libraries that programs and libraries need."""
    loader, libraries = None, set()
    for line in output_of(["ldd", *files]).splitlines():
        if match := re.search(r"=> (/\S+) \(", line):
            libraries.add(match.group(1))
        elif match := re.match(r"\s+(/\S*/ld-\S+) \(", line):
            loader = match.group(1)
    return loader, libraries


def find_python():
    """The system's Python rather than a user's own; None if it cannot do the jobs."""
    for python in ("/usr/bin/python3", sys.executable):
        if os.path.exists(python):
            try:
                return os.path.realpath(python), output_of([python, "-S", WORK, "modules"]).split()
            except subprocess.CalledProcessError:
                continue
    return None, []


def make_python(folder):
    """False if there is no Python to copy."""
    python, modules = find_python()
    if not python:
        return False
    library = output_of([python, "-S", "-c", "import os; print(os.path.dirname(os.__file__))"])
    home = os.path.join(folder, "lib", os.path.basename(library.strip()))
    os.makedirs(os.path.join(home, "lib-dynload"))
    os.makedirs(os.path.join(folder, "bin"))
    extensions = []
    for module in modules:
        target = os.path.join(home, os.path.relpath(module, library.strip()))
        if os.path.relpath(target, home).startswith(".."):
            return False
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(module, target)
        if not module.endswith(".py"):
            extensions.append(module)
    # Compiled now, by that Python, and never again: the archive's times are not the files'.
    output_of([python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", home])

    loader, libraries = libraries_of([python, *extensions])
    if not loader:
        return False
    shutil.copy(loader, os.path.join(folder, "ld.so"))
    shutil.copy(python, os.path.join(folder, "bin", "python3"))
    for path in libraries:
        shutil.copy(path, os.path.join(folder, "lib"))
    shutil.copy(WORK, folder)
    return True


def prepare():
    """Makes it all anew, takes some seconds; gives whether there is a Python."""
    shutil.rmtree(BENCH, ignore_errors=True)
    os.makedirs(BENCH)
    contest.build_static(SPEED, sorted(glob.glob(os.path.join(HERE, "guest", "*.c"))))
    make_text(os.path.join(BENCH, "text"))
    python = os.path.join(BENCH, "python")
    if make_python(python):
        return True
    shutil.rmtree(python, ignore_errors=True)
    return False


def make_initramfs():
    files = {}
    for path, _, names in os.walk(BENCH):
        for name in names:
            source = os.path.join(path, name)
            files[os.path.join("bench", os.path.relpath(source, BENCH))] = source
    return contest.make_initramfs(os.path.join(FOLDER, "speed.cpio"), files)


def busybox():
    """The one that make-initramfs put into the guest."""
    cache = os.environ.get("AEROSTAT_CACHE", os.path.join(contest.ROOT, ".cache"))
    for folder in ("bin", "usr/bin"):
        path = os.path.join(cache, "busybox", folder, "busybox")
        if os.path.exists(path):
            return path
    raise RuntimeError("make-initramfs left no busybox in its cache")
