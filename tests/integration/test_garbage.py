#!/usr/bin/env python3
"""Random bytes as a kernel, in every mode: a few here, with fixed seeds; `make soak` goes on.

    test_garbage.py --kernel GARBAGE.ELF
"""

import sys

import garbage
import harness

SEEDS = 6
ENGINES = ("translate", "interp")


class Garbage(harness.TestCase):
    pass


def add_test(kernel, mode, name):
    def test(self):
        for seed in range(SEEDS):
            engine = ENGINES[seed % len(ENGINES)]
            with self.subTest(seed=seed):
                failure = garbage.run(kernel, self.folder, seed, mode, 2, engine)
                self.assertIsNone(failure, f"mode {name}, seed {seed}, {engine}: {failure}")

    setattr(Garbage, f"test_{name.replace('-', '_')}", test)


if __name__ == "__main__":
    assert sys.argv[1] == "--kernel"
    for number, mode_name in enumerate(garbage.MODES):
        add_test(sys.argv[2], number, mode_name)
    del sys.argv[1:3]
    harness.main()
