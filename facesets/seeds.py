"""Random streams: a random number depends on a purpose and a place, never on what ran before."""

import zlib

import numpy as np


def rng(*key: int | str) -> np.random.Generator:
    """The random stream of a key, such as ``rng("augment", seed, epoch, position)``.

    The parts (names or non-negative integers) are hashed together, never summed, so that two
    keys hardly ever share a stream.
    """
    words = [len(key)]  # SeedSequence treats (1, 2) and (1, 2, 0) alike; the length differs
    for part in key:
        if isinstance(part, str):
            part = zlib.crc32(part.encode())  # hash() of a text differs from process to process
        words.append(int(part))  # also numpy's integers
    return np.random.default_rng(words)


def torch_seed(*key: int | str) -> int:
    """A 63-bit seed for ``torch.manual_seed``, hashed from the key as in :func:`rng`."""
    seed_sequence = rng(*key).bit_generator.seed_seq
    (state,) = seed_sequence.generate_state(1, np.uint64)  # one number of 64 bits
    return int(state) >> 1  # so that it also fits into 64 bits with a sign
