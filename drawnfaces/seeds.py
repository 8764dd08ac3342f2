"""Random streams: a random number depends on a purpose and a place, never on what ran before."""

import zlib

import numpy as np

# The last parts of the keys of random streams. Most keys are (seed, dataset, person, video,
# purpose), with one of the purposes below. The key of a person's looks is (seed, dataset, person,
# LOOKS). In the place of LOOKS the other keys have the number of a video, which is at most 25 for a
# drawn person, so none of them begins like a key of looks.
LOOKS = 29
# The purposes:
SCENE = 0  # head motion and backdrop
EXPRESSION = 1  # with the light
CAMERA = 2
FORGERY = 4  # the same for all methods; so those that forge films can be compared
DELIVERY = (3, 5)  # of the real video, and of the forged ones
MARK = (6, 7)  # likewise
CROP = 8
PLACE = 9  # of the forged region, or part of the face, the same for all methods


def rng(*key: int | str) -> np.random.Generator:
    """The random stream of a key, such as ``rng(seed, dataset, person, video, purpose)``.

    The parts (texts or non-negative integers) are hashed together, never summed, so that two keys
    hardly ever share a stream. The pixels of all datasets depend on how this is done.
    """
    words = [len(key)]  # SeedSequence treats (1, 2) and (1, 2, 0) alike; the length differs
    for part in key:
        if isinstance(part, str):
            part = zlib.crc32(part.encode())  # hash() of a text differs from process to process
        words.append(int(part))  # also numpy's integers
    return np.random.default_rng(words)
