"""Bars and curves as SVG, by hand: that is a page of text, and no library for a benchmark to depend
on.

    write_svg(path, "Title", [Panel("measured", "MB/s", ["128", "160"],
                                    {"configured": [11.5, 13.7], "ballooned": [11.0, None]}),
                              Lines("over time", "MiB", {"web": [(0, 12), (1, 15.5)]}, "seconds")])
"""

import html
import math
from dataclasses import dataclass, field

COLOURS = ("#8c8c8c", "#2f6fab", "#c9772b", "#4c9f70", "#8e5ea2", "#c0392b")
WIDTH, HEIGHT = 460, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 64, 44


@dataclass
class Panel:
    """Groups of bars beside each other, a bar of each series; None is no bar."""
    title: str
    unit: str
    groups: list
    series: dict  # name: a value for each group
    across: str = ""  # what the groups are


@dataclass
class Lines:
    """Curves over a number; None is a gap. Where y has names, its values are 0, 1, ..."""
    title: str
    unit: str
    series: dict  # name: [(x, y)]
    across: str = ""
    names: tuple = ()
    marks: list = field(default_factory=list)  # [(x, word)]: a line upright


def step_of(most):
    """The distance of lines that are 1, 2 or 5 times a power of ten, some five of them."""
    power = 10 ** math.floor(math.log10(most / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5.5 >= most)


def text(x, y, words, anchor="middle", size=12, extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{extra}>'
            f"{html.escape(words)}</text>")


def frame(panel, x0, y0, most):
    """Titles, legend, lines across. Gives the lines, and where the curves go: left, bottom, width,
    height."""
    bottom, height = y0 + HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    left, width = x0 + LEFT, WIDTH - LEFT - RIGHT
    lines = [text(x0 + WIDTH / 2, y0 + 18, panel.title, size=14)]
    for index, name in enumerate(panel.series):
        x = left + index * width / max(len(panel.series), 1)
        lines.append(f'<rect x="{x:.1f}" y="{y0 + 30}" width="11" height="11"'
                     f' fill="{COLOURS[index % len(COLOURS)]}"/>')
        lines.append(text(x + 16, y0 + 40, name, "start"))
    names = getattr(panel, "names", ())
    step = 1 if names else step_of(most)
    for count in range(len(names) or int(most / step) + 1):
        y = bottom - count * step / most * height
        lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"'
                     ' stroke="#ddd"/>')
        lines.append(text(left - 6, y + 4, names[count] if names else f"{count * step:g}", "end"))
    if panel.unit:
        lines.append(text(x0 + 14, bottom - height / 2, panel.unit,
                          extra=f' transform="rotate(-90 {x0 + 14} {bottom - height / 2:.1f})"'))
    lines.append(text(left + width / 2, bottom + 34, panel.across))
    return lines, left, bottom, width, height


def draw_bars(panel, x0, y0):
    values = [value for series in panel.series.values() for value in series if value is not None]
    most = max(values, default=1) * 1.08 or 1
    lines, left, bottom, width, height = frame(panel, x0, y0, most)
    group_width = width / len(panel.groups)
    bar = group_width * 0.8 / len(panel.series)
    for place, group in enumerate(panel.groups):
        middle = left + (place + 0.5) * group_width
        lines.append(text(middle, bottom + 16, group))
        for index, series in enumerate(panel.series.values()):
            if series[place] is None:
                continue
            tall = series[place] / most * height
            x = middle + (index - len(panel.series) / 2) * bar
            lines.append(f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{bar * 0.92:.1f}"'
                         f' height="{tall:.1f}" fill="{COLOURS[index % len(COLOURS)]}"/>')
    return lines


def pieces_of(points):
    """Points without the gaps, in pieces."""
    pieces = [[]]
    for x, y in points:
        if y is not None:
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def draw_curves(panel, x0, y0):
    points = [point for series in panel.series.values() for point in series]
    values = [y for _, y in points if y is not None]
    most = len(panel.names) - 0.5 if panel.names else max(values, default=1) * 1.08 or 1
    first = min((x for x, _ in points), default=0)
    span = max((x for x, _ in points), default=1) - first or 1
    lines, left, bottom, width, height = frame(panel, x0, y0, most)
    step = step_of(span)
    for count in range(math.ceil(first / step), int((first + span) / step) + 1):
        lines.append(text(left + (count * step - first) / span * width, bottom + 16,
                          f"{count * step:g}"))
    for x, word in panel.marks:
        at = left + (x - first) / span * width
        lines.append(f'<line x1="{at:.1f}" y1="{bottom - height}" x2="{at:.1f}" y2="{bottom}"'
                     ' stroke="#999" stroke-dasharray="4 3"/>')
        lines.append(text(at + 4, bottom - height + 10, word, "start", 11))
    for index, series in enumerate(panel.series.values()):
        for piece in pieces_of(series):
            path = " ".join(f"{left + (x - first) / span * width:.1f},"
                            f"{bottom - y / most * height:.1f}" for x, y in piece)
            lines.append(f'<polyline points="{path}" fill="none" stroke-width="1.6"'
                         f' stroke="{COLOURS[index % len(COLOURS)]}"/>')
    return lines


def draw(panel, x0, y0):
    return (draw_curves if isinstance(panel, Lines) else draw_bars)(panel, x0, y0)


def svg(title, panels):
    """The picture as text: panels from left to right."""
    width = WIDTH * len(panels)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT + 30}"'
             ' font-family="sans-serif">',
             f"<title>{html.escape(title)}</title>",
             f'<rect width="{width}" height="{HEIGHT + 30}" fill="white"/>',
             text(width / 2, 22, title, size=16)]
    for index, panel in enumerate(panels):
        lines += draw(panel, index * WIDTH, 30)
    return "\n".join([*lines, "</svg>", ""])


def write_svg(path, title, panels):
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(svg(title, panels))
