"""Tests of what is read of guests' memory: contents.py."""

import ctypes
import mmap
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import contents  # noqa: E402

PAGE = contents.PAGE


def page(number):
    return number.to_bytes(4, "little") * (PAGE // 4)


class Memfds(unittest.TestCase):
    def setUp(self):
        self.descriptors = []
        self.tally = contents.Tally()

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

    def add(self, descriptor):
        """How many pages came to the tally."""
        before = self.tally.pages
        contents.add_memfd(self.tally, f"/proc/self/fd/{descriptor}")
        return self.tally.pages - before

    def test_equal_pages_count_once(self):
        self.assertEqual(self.add(self.memory({0: 7, 5: 8, 2999: 7})), 3)
        self.assertEqual(self.add(self.memory({1: 8, 2: 9})), 2)
        self.assertEqual((self.tally.pages, self.tally.distinct), (5, 3))

    def test_zeros_do_not_count(self):
        self.assertEqual(self.add(self.memory({})), 0)
        self.assertEqual(self.add(self.memory({3: 0, 4: 1})), 1)

    def test_all_of_a_long_run(self):
        pages = {index: index + 1 for index in range(1000)}
        self.assertEqual(self.add(self.memory(pages)), 1000)
        self.assertEqual(self.tally.distinct, 1000)

    def test_a_process_is_read_by_the_names_of_its_files(self):
        ram = self.memory({0: 1, 1: 2}, "test-ram")
        self.descriptors.append(os.dup(ram))  # the same file: once
        self.memory({0: 2, 1: 3}, "test-pool")
        self.memory({0: 4}, "test-other")
        found = contents.of_memfds([os.getpid()], "test-ram", "test-pool")
        self.assertEqual((found.pages, found.distinct), (4, 3))


def page_of(byte):
    return bytes([byte]) * PAGE


class Contents(unittest.TestCase):
    def test_pages_are_told_by_what_is_in_them(self):
        tally = contents.Tally()
        for page, frame in ((page_of(1), 10), (page_of(2), 11), (page_of(1), 10), (page_of(0), 12)):
            tally.add(page, frame)
        self.assertEqual((tally.pages, tally.distinct, tally.zero), (3, 2, 1))
        self.assertEqual((tally.frames, tally.zero_frames), ({10, 11}, {12}))

    def test_holes_of_a_file_are_not_counted(self):
        number = os.memfd_create("aerostat-test")
        try:
            os.ftruncate(number, 1000 * PAGE)
            for index, byte in ((3, 1), (4, 1), (900, 2), (999, 0)):
                os.pwrite(number, page_of(byte), index * PAGE)
            paths = contents.memfds([os.getpid()], "aerostat-test")
            self.assertEqual(len(paths), 1)
            tally = contents.Tally()
            contents.add_memfd(tally, paths[0])
            self.assertEqual((tally.pages, tally.distinct, tally.zero), (3, 2, 1))
        finally:
            os.close(number)

    def test_a_process_is_read_as_far_as_it_has_touched_its_memory(self):
        size = 1237 * PAGE  # of no other mapping
        # Apart from its neighbours, or the kernel makes one mapping of two.
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            try:
                found = contents.mapping_of(os.getpid(), size)
            except RuntimeError:
                self.skipTest("the kernel has put it beside another mapping")
            self.assertEqual(found, base)
            memory[7 * PAGE:9 * PAGE] = page_of(5) + page_of(6)
            memory[1000 * PAGE:1001 * PAGE] = page_of(5)
            tally = contents.Tally()
            contents.add_anonymous(tally, os.getpid(), size)
            self.assertEqual((tally.pages, tally.distinct), (3, 2))


if __name__ == "__main__":
    unittest.main()
