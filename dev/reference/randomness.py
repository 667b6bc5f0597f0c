"""The counter-based random numbers of train.c, from their formula, in numpy.

A draw is a function of a key and an index and of nothing else: SplitMix64's finalizer over
key + (index + 1) times the golden ratio.  Masks made here are those that train.c makes.
"""
import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(key, index):
    """64 bits for each element of index; arithmetic is modulo 2^64."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + (np.asarray(index, np.uint64) + np.uint64(1)) * GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def random_uniform(key, index):
    """24 bits as a number in [0, 1): every one of them is a float32."""
    return (random_bits(key, index) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def dropout_mask(dropout, shape):
    """What each element is multiplied by, float64: 0, or 1 / (1 - rate).

    The rate is a float32 in train.c.  Both precisions must start from that number.
    """
    rate, key, first = np.float64(np.float32(dropout[0])), dropout[1], dropout[2]
    index = np.uint64(first) + np.arange(np.prod(shape), dtype=np.uint64)
    kept = random_uniform(key, index) >= rate
    return np.where(kept, 1.0 / (1.0 - rate), 0.0).reshape(shape)


def random_permutation(key, i, count):
    """The place to which a shuffle of 0..count-1 sends i: a Feistel network of four rounds on
    the smallest square of 2^bits x 2^bits that holds them, again and again until it is below
    count."""
    bits = 1
    while bits < 32 and 1 << 2 * bits < count:
        bits += 1
    mask = (1 << bits) - 1
    while True:
        left, right = i >> bits, i & mask
        for step in range(4):
            draw = int(random_bits(random_bits(key, step), right))
            left, right = right, left ^ (draw & mask)
        i = left << bits | right
        if i < count:
            return i


ORDER = 2  # what the draws for the order of the windows are for


def window_start(seed, number, tokens, T):
    """Where sequence `number` of a run begins in a split of so many tokens, with
    --order epochs."""
    last = tokens - T - 1
    windows = last // T + 1
    key = random_bits(random_bits(seed, ORDER), number // windows)
    shift = int(random_bits(key, 2**64 - 1)) % (last % T + 1)
    return shift + random_permutation(key, number % windows, windows) * T
