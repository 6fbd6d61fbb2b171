"""What one run of the program in bench/speed/guest said, and whether its clock can be believed."""

import re


class Readings:
    """What one run of the program said: values in nanoseconds by row, and complaints.

    A guest's clock may neither run at another speed than the host's nor lose time in a row. Lines
    come late when the host is busy, and that says nothing about the clock; but a late line is
    followed by one in time, so the whole run is held to a narrow limit, a single row to a wide one.
    """

    def __init__(self, who):
        self.who = who
        self.values = {}
        self.complaints = []
        self.memory = None  # (MiB of the VMM, MiB of its code cache or None) at the end
        self._refused = set()  # rows without a value, complained of already
        self._clocks = []  # (of the guest, of the host)

    def complain(self, text):
        self.complaints.append(f"{self.who}: {text}")

    def take(self, moment, line):
        """Reads a line of the program, that came at a moment of the host's clock."""
        if match := re.match(r"bench (\S+) ([\d.]+) ns/\S+$", line):
            self.values[match.group(1)] = float(match.group(2))
        elif match := re.match(r"bench (\S+) (wrong|failed)$", line):
            self._refused.add(match.group(1))
            self.complain(f"{match.group(1)}: {match.group(2)}")
        elif match := re.match(r"clock ([\d.]+)$", line):
            self._clocks.append((float(match.group(1)), moment))
            if len(self._clocks) > 1:
                self._compare(self._clocks[-2], self._clocks[-1], 0.3, 0.02)

    def end(self, rows):
        for row in rows:
            if row not in self.values and row not in self._refused:
                self.complain(f"{row}: missing")
        if len(self._clocks) > 1:
            self._compare(self._clocks[0], self._clocks[-1], 0.1, 0.005)

    def _compare(self, first, last, seconds, share):
        guest, host = last[0] - first[0], last[1] - first[1]
        if abs(guest - host) > seconds + share * host:
            self.complain(f"its clock says {guest:.3f} s, the host's {host:.3f} s")
