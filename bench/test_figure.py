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

    def test_nothing_measured(self):
        root = self.draw(figure.Panel("one", "s", ["a"], {"x": [None]}))
        self.assertEqual(bars_of(root, figure.COLOURS[0]), [])

    def test_steps(self):
        for most, step in ((1, 0.2), (5.5, 1), (17.8, 5), (93, 20), (100, 20), (120, 50)):
            self.assertAlmostEqual(figure.step_of(most), step)


if __name__ == "__main__":
    harness.main()
