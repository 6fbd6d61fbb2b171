"""What a terminal of type vt100 shows after the bytes that a program has written to it: as much of one
as ncurses uses. Anything else is an error, so that no test passes for want of understanding."""

import re

ESCAPE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|\x1b([=>78MDEHc])|\x1b[()]([AB012])")


class Screen:
    def __init__(self, rows, columns):
        self.resize(rows, columns)

    def resize(self, rows, columns):
        self.rows, self.columns = rows, columns
        self.top, self.bottom = 0, rows - 1
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.saved = (0, 0)
        self.rest = ""
        self.modes = set()  # the private ones that are on

    def lines(self):
        return ["".join(cells).rstrip() for cells in self.cells]

    def text(self):
        return "\n".join(self.lines())

    def feed(self, data):
        text = self.rest + data.decode("ascii")
        self.rest = ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self.put(text[at])
                at += 1
                continue
            match = ESCAPE.match(text, at)
            if match is None:
                if len(text) - at > 20:
                    raise ValueError(f"a terminal is sent {text[at:at + 20]!r}")
                self.rest = text[at:]  # its end is yet to come
                return
            at = match.end()
            if match[3] is not None:
                self.control(match[1], match[2], match[3])
            elif match[4] is not None:
                self.simple(match[4])

    def put(self, character):
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.down()
        elif character == "\b":
            self.column = max(self.column - 1, 0)
        elif character in "\x0e\x0f\x07\0":
            pass
        elif character.isprintable():
            if self.column == self.columns:  # it wraps when the next one comes
                self.column = 0
                self.down()
            self.cells[self.row][self.column] = character
            self.column += 1
        else:
            raise ValueError(f"a terminal is sent {character!r}")

    def down(self):
        if self.row == self.bottom:
            del self.cells[self.top]
            self.cells.insert(self.bottom, [" "] * self.columns)
        elif self.row < self.rows - 1:
            self.row += 1

    def up(self):
        if self.row == self.top:
            del self.cells[self.bottom]
            self.cells.insert(self.top, [" "] * self.columns)
        elif self.row > 0:
            self.row -= 1

    def simple(self, character):
        if character == "M":
            self.up()
        elif character == "D":
            self.down()
        elif character == "7":
            self.saved = (self.row, self.column)
        elif character == "8":
            self.row, self.column = self.saved

    def control(self, private, numbers, name):
        values = [int(number) if number else 0 for number in numbers.split(";")]
        first = max(values[0], 1)
        if private:  # modes of the keyboard and of the cursor
            (self.modes.update if name == "h" else self.modes.difference_update)(values)
            return
        if name == "m":  # colours
            return
        if name == "H":
            self.row = min(first, self.rows) - 1
            self.column = min(max(values[1] if len(values) > 1 else 1, 1), self.columns) - 1
        elif name == "A":
            self.row = max(self.row - first, 0)
        elif name == "B":
            self.row = min(self.row + first, self.rows - 1)
        elif name == "C":
            self.column = min(self.column + first, self.columns - 1)
        elif name == "D":
            self.column = max(self.column - first, 0)
        elif name == "K":
            self.erase_line(values[0])
        elif name == "J":
            self.erase_screen(values[0])
        elif name == "r":
            self.top = first - 1
            self.bottom = (values[1] if len(values) > 1 and values[1] else self.rows) - 1
            self.row = self.column = 0
        elif name not in "lhg":
            raise ValueError(f"a terminal is sent CSI {numbers}{name}")

    def erase_line(self, which):
        cells = self.cells[self.row]
        first = 0 if which else self.column
        last = min(self.column, self.columns - 1) + 1 if which == 1 else self.columns
        cells[first:last] = [" "] * (last - first)

    def erase_screen(self, which):
        self.erase_line(which)
        first = 0 if which else self.row + 1
        last = self.row if which == 1 else self.rows
        for row in range(first, last):
            self.cells[row] = [" "] * self.columns
