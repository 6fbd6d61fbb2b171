"""Which MMUs and sizes of pages this build of `aerostat run` lets one choose, by its own help."""

import re

FIRST = "shadow"  # what the others are compared with, as in the paper
KNOWN = (FIRST, "nested", "auto")


def described(usage, option):
    """What the help says of an option, in one line; "" for none."""
    match = re.search(rf"^  {option} (.*?)(?=^  -|^$)", usage, re.DOTALL | re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def mmus_of(usage):
    text = described(usage, "--mmu")
    return [name for name in KNOWN if re.search(rf"\b{name}\b", text)]


def host_large_of(usage):
    """(options for host pages of 2 MiB, options for none); None where that cannot be chosen."""
    if not described(usage, "--large-pages"):
        return None
    return ["--large-pages", "on"], ["--large-pages", "off"]


def has_walk_caches(usage):
    return bool(described(usage, "--walk-caches"))
