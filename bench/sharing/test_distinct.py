"""Tests of the lower bound: bench/sharing/distinct.py."""

import os
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import distinct  # noqa: E402

PAGE = distinct.PAGE


def page(number):
    return number.to_bytes(4, "little") * (PAGE // 4)


class Contents(unittest.TestCase):
    def setUp(self):
        self.descriptors = []
        self.contents = distinct.Contents()

    def tearDown(self):
        for descriptor in self.descriptors:
            os.close(descriptor)

    def memory(self, pages, name="test-ram"):
        """A sparse memfd with pages {index: number}."""
        descriptor = os.memfd_create(name)
        self.descriptors.append(descriptor)
        os.ftruncate(descriptor, 3000 * PAGE)
        for index, number in pages.items():
            os.pwrite(descriptor, page(number), index * PAGE)
        return descriptor

    def test_equal_pages_count_once(self):
        self.assertEqual(self.contents.add(self.memory({0: 7, 5: 8, 2999: 7})), 3)
        self.assertEqual(self.contents.add(self.memory({1: 8, 2: 9})), 2)
        self.assertEqual((self.contents.pages, len(self.contents.distinct)), (5, 3))

    def test_zeros_do_not_count(self):
        self.assertEqual(self.contents.add(self.memory({})), 0)
        self.assertEqual(self.contents.add(self.memory({3: 0, 4: 1})), 1)

    def test_all_of_a_long_run(self):
        pages = {index: index + 1 for index in range(1000)}
        self.assertEqual(self.contents.add(self.memory(pages)), 1000)
        self.assertEqual(len(self.contents.distinct), 1000)

    def test_a_process_is_read_by_the_names_of_its_files(self):
        ram = self.memory({0: 1, 1: 2}, "test-ram")
        self.descriptors.append(os.dup(ram))  # the same file: once
        self.memory({0: 2, 1: 3}, "test-pool")
        self.memory({0: 4}, "test-other")
        found = distinct.contents_of([os.getpid()], "test-ram", "test-pool")
        self.assertEqual((found.pages, len(found.distinct)), (4, 3))


if __name__ == "__main__":
    unittest.main()
