#!/usr/bin/env python3
"""figure.py: the pictures are XML, and bars are as tall as their values say."""

import os
import sys
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests",
                                "integration"))

import figure  # noqa: E402
import harness  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def bars_of(root, colour):
    """Heights of a colour's bars; the small square is the legend's."""
    return [float(bar.get("height")) for bar in root.iter(SVG + "rect")
            if bar.get("fill") == colour and bar.get("height") != "11"]


class Figure(harness.TestCase):
    def draw(self, *panels):
        return ElementTree.fromstring(figure.svg("A & B <title>", panels))

    def test_bars(self):
        root = self.draw(figure.Panel("one", "MB/s", ["a", "b", "c"],
                                      {"x": [10, 20, 40], "y": [5, None, 20]}, "sizes"))
        first, second = (bars_of(root, colour) for colour in figure.COLOURS[:2])
        self.assertEqual((len(first), len(second)), (3, 2))
        self.assertAlmostEqual(first[2] / first[0], 4, places=1)
        self.assertAlmostEqual(first[1] / second[0], 4, places=1)
        words = [text.text for text in root.iter(SVG + "text")]
        for word in ("A & B <title>", "one", "MB/s", "a", "b", "c", "x", "y", "sizes", "0", "40"):
            self.assertIn(word, words)

    def test_panels_have_scales_of_their_own(self):
        root = self.draw(figure.Panel("one", "s", ["a"], {"x": [3]}),
                         figure.Panel("two", "s", ["a"], {"x": [3000]}))
        left, right = bars_of(root, figure.COLOURS[0])
        self.assertAlmostEqual(left, right, places=1)

    def curves_of(self, root):
        return [[tuple(map(float, point.split(","))) for point in line.get("points").split()]
                for line in root.iter(SVG + "polyline")]

    def test_curves(self):
        root = self.draw(figure.Lines("use", "MiB", {
            "a": [(10, 0), (20, 50), (30, None), (40, 100), (50, 100)], "b": [(10, 25)]},
            "seconds", marks=[(20, "here")]))
        first, second, other = self.curves_of(root)
        self.assertEqual((len(first), len(second), len(other)), (2, 2, 1))
        self.assertAlmostEqual(first[1][0] - first[0][0], second[1][0] - second[0][0], places=0)
        self.assertAlmostEqual((first[0][1] - first[1][1]) * 2, first[0][1] - second[0][1],
                               places=0)
        words = [text.text for text in root.iter(SVG + "text")]
        for word in ("use", "MiB", "seconds", "here", "a", "b", "20", "100"):
            self.assertIn(word, words)

    def test_curves_over_names(self):
        root = self.draw(figure.Lines("state", "", {"host": [(0, 0), (1, 2)]},
                                      names=("high", "soft", "hard", "low")))
        (low, high), = self.curves_of(root)
        self.assertGreater(low[1], high[1])
        self.assertIn("hard", [text.text for text in root.iter(SVG + "text")])

    def test_no_curve(self):
        self.assertEqual(self.curves_of(self.draw(figure.Lines("x", "y", {"a": []}))), [])

    def test_nothing_measured(self):
        root = self.draw(figure.Panel("one", "s", ["a"], {"x": [None]}))
        self.assertEqual(bars_of(root, figure.COLOURS[0]), [])

    def test_steps(self):
        for most, step in ((1, 0.2), (5.5, 1), (17.8, 5), (93, 20), (100, 20), (120, 50)):
            self.assertAlmostEqual(figure.step_of(most), step)


if __name__ == "__main__":
    harness.main()
