"""The kernel's own page sharing (Documentation/admin-guide/mm/ksm.rst): at full speed, and as before.

    with ksm.full_speed() as merging:
        merging.read()      # its counters, and the CPU time of ksmd
"""

import contextlib
import glob
import os

import crowd

FOLDER = "/sys/kernel/mm/ksm"
# It never sleeps, looks at so many pages between two looks at whether it should, and drops zero
# pages as Aerostat does.
FULL_SPEED = {"sleep_millisecs": 0, "pages_to_scan": 10000, "use_zero_pages": 1, "advisor_mode": "none"}
COUNTERS = ("pages_scanned", "pages_shared", "pages_sharing", "pages_volatile", "full_scans",
            "ksm_zero_pages")
UNMERGE, RUN = 2, 1


def is_there():
    return os.path.exists(os.path.join(FOLDER, "run"))


def _read(name):
    with open(os.path.join(FOLDER, name), encoding="ascii") as stream:
        said = stream.read().strip()
    # "[none] scan-time": the one in brackets.
    return said[said.index("[") + 1:said.index("]")] if "[" in said else said


def _write(name, value):
    with open(os.path.join(FOLDER, name), "w", encoding="ascii") as stream:
        stream.write(str(value))


def _find_thread():
    for path in glob.glob("/proc/[0-9]*/comm"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as stream:
            if stream.read() == "ksmd\n":
                return int(path.split("/")[2])
    raise RuntimeError("no thread of the kernel's is called ksmd")


class Missing(RuntimeError):
    """There is no KSM that could be measured."""


class Merging:
    def __init__(self):
        self.thread = _find_thread()

    def start(self):
        _write("run", RUN)

    def read(self):
        """pages_scanned of kernels that do not count it is missing."""
        counters = {name: int(_read(name)) for name in COUNTERS
                    if os.path.exists(os.path.join(FOLDER, name))}
        return {**counters, "cpu_seconds": crowd.cpu_seconds(self.thread)}


@contextlib.contextmanager
def full_speed():
    """Set, and not started; as it was at the end, with what has been merged apart again."""
    if not is_there():
        raise Missing("this kernel has no KSM")
    if not os.access(os.path.join(FOLDER, "run"), os.W_OK):
        raise Missing("KSM is root's to set")
    if _read("run") == str(RUN) or int(_read("pages_sharing")) != 0:
        raise Missing("KSM is at work for others on this machine")
    knobs = [name for name in FULL_SPEED if os.path.exists(os.path.join(FOLDER, name))]
    before = {name: _read(name) for name in [*knobs, "run"]}
    try:
        for name in knobs:
            _write(name, FULL_SPEED[name])
        yield Merging()
    finally:
        _write("run", UNMERGE)
        for name, value in before.items():
            _write(name, value)
