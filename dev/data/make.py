"""Makes texts to train on: puzzles whose every line is a sequence of its own, and stories.

    python3 dev/data/make.py names      data/names.txt in makemore's order, to data/names-shuffled.txt:
                                        its last 1,000 lines are held out
    python3 dev/data/make.py sorting    201120=001122       20,000 lines, then 5,000 to test with
    python3 dev/data/make.py addition   8550=531            85 + 50 = 135, read from the right
    python3 dev/data/make.py modular    all (a + b) mod 97, each number one byte
    python3 dev/data/make.py stories --bytes 1000000 --words 200

dev/data/prose.txt, on which train.c trains where no text is named, is not made here.  It is the prose of this
project's chapters and comments, taken once without tables, formulas, code and markup, wrapped at 88 columns.
It is frozen, so that figures measured on it stay: no edit of a chapter goes into it.

The others go to data/NAME.txt, unless --out says otherwise.  The same seed gives the same bytes with
any version of Python: what is used of its generator is random(), whose values are promised to
stay, and for names the 32 bits of the Mersenne Twister, which a paper defines.
"""
import argparse
import bisect
import itertools
import os
import random
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def shuffled(items, rng):
    return [item for _, item in sorted(((rng.random(), item) for item in items),
                                       key=lambda pair: pair[0])]


def torch_permutation(n, seed):
    """What torch.randperm(n) is on a CPU after torch.manual_seed(seed), without PyTorch: Fisher and
    Yates' shuffle, from the front, with the Mersenne Twister.  PyTorch seeds that with the recurrence of
    its authors (Matsumoto and Nishimura, init_genrand of 2002); Python's random.seed has another."""
    state = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
    twister = random.Random()
    twister.setstate((3, tuple(state) + (624,), None))  # 624: all of the state is used up
    order = list(range(n))
    for i in range(n - 1):
        j = i + twister.getrandbits(32) % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


def names(o, rng):
    """In the order that makemore has with the same seed, which is 3407 there: so the names held out
    are those that it holds out.  On another 1,000 the loss can differ by more than seeds make."""
    try:
        with open(os.path.join(ROOT, "data", "names.txt")) as file:
            lines = file.read().split()
    except OSError:
        sys.exit("make.py: data/names.txt is not there: sh dev/data/fetch.sh names")
    return [lines[i] for i in torch_permutation(len(lines), o.seed)]


def sorting(o, rng):
    """Six digits 0, 1 or 2, and the same in order.  A quarter of the 729 inputs is never trained
    on: the last 5,000 lines are drawn from it, the others from the rest, uniformly."""
    inputs = shuffled(["".join(digits) for digits in itertools.product("012", repeat=6)], rng)
    held_out, trained = inputs[: len(inputs) // 4], inputs[len(inputs) // 4 :]
    draws = [(trained, 20000), (held_out, 5000)]
    return [text + "=" + "".join(sorted(text))
            for choices, count in draws
            for text in (choices[int(rng.random() * len(choices))] for _ in range(count))]


def addition(o, rng):
    """All 10,000 sums of two numbers below 100.  The sum is written with its ones first, because
    that is the order in which carries are found."""
    return shuffled(["%02d%02d=%s" % (a, b, ("%03d" % (a + b))[::-1])
                     for a in range(100) for b in range(100)], rng)


def modular(o, rng):
    """Number n is the byte 128 + n: a token of its own that has nothing to do with its digits,
    so that what a number is must be learned from the table alone."""
    p = o.modulus
    return shuffled([bytes([128 + a, 128 + b, ord("="), 128 + (a + b) % p])
                     for a in range(p) for b in range(p)], rng)


# Words are two open syllables: there are 14,400.
MOST_WORDS = 14400
ONSETS, VOWELS = "b d f g h k l m n p r s t v z br dr gr kl tr sh th pl st".split(), "aeiou"


def lexicon(count):
    """`count` different words, the same ones whatever the seed."""
    syllables = [onset + vowel for vowel in VOWELS for onset in ONSETS]
    words = [first + second for first in syllables for second in syllables]
    # A stride that shares no factor with their number spreads the choice over all syllables.
    return [words[i * 7919 % MOST_WORDS] for i in range(count)]


def stories(o, rng):
    """Endless small stories from a grammar.  Somebody with a property goes somewhere, meets
    somebody, and hands over a thing; who has the thing at the end can only be known from the
    sentences before, so a model must look back to predict the last line.  `words` invented nouns
    and adjectives are drawn with Zipf's law: word r is as likely as 1/r."""
    words = lexicon(o.words)
    third = len(words) // 3
    things, places, properties = words[:third], words[third : 2 * third], words[2 * third :]
    people = "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Klara Leo".split()

    # sums[n][r]: how likely the first r + 1 of n choices are together, but for a factor.
    sums = {len(part): list(itertools.accumulate(1 / (rank + 1) for rank in range(len(part))))
            for part in (things, places, properties, people)}

    def pick(choices, but=None):
        below = sums[len(choices)]
        while True:
            choice = choices[bisect.bisect_right(below, rng.random() * below[-1])]
            if choice != but:
                return choice

    size = 0
    while size < o.bytes:
        owner, thing = pick(people), pick(things)
        lines = ["%s had a %s %s." % (owner, pick(properties), thing)]
        while rng.random() < 0.75:
            place, other = pick(places), pick(people, but=owner)
            lines.append("%s went to the %s." % (owner, place))
            if rng.random() < 0.3:
                lines.append("The %s was %s." % (place, pick(properties)))
            lines.append("There %s met %s." % (owner, other))
            if rng.random() < 0.5:
                lines.append("%s gave %s the %s." % (owner, other, thing))
                owner = other
            else:
                lines.append("%s kept the %s." % (owner, thing))
        lines.append("In the end %s had the %s." % (owner, thing))
        story = " ".join(lines)
        size += len(story) + 1
        yield story


MAKERS = {maker.__name__: maker for maker in (names, sorting, addition, modular, stories)}


class Parser(argparse.ArgumentParser):
    def error(self, message):  # one line, where argparse would print all options before it
        self.exit(2, "make.py: %s; --help shows the options\n" % message)


def options():
    p = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("what", choices=sorted(MAKERS))
    p.add_argument("--seed", type=int, help="default 1; of names 3407")
    p.add_argument("--out", metavar="FILE", help="default: data/WHAT.txt (names: data/names-shuffled.txt)")
    p.add_argument("--modulus", type=int, default=97, help="of modular; default 97")
    p.add_argument("--bytes", type=int, default=1000000, help="of stories, about; default 1000000")
    p.add_argument("--words", type=int, default=200, help="of stories: invented words; default 200")
    o = p.parse_args()
    if o.seed is None:
        o.seed = 3407 if o.what == "names" else 1
    # The generator takes the absolute value of its seed: -1 would be 1 again.
    for name, low, high in (("seed", 0, 2**63), ("modulus", 2, 128), ("bytes", 1, 2**63),
                            ("words", 3, MOST_WORDS)):
        if not low <= getattr(o, name) <= high:
            p.error("--%s must be from %d to %d, not %d" % (name, low, high, getattr(o, name)))
    return o


def main():
    o = options()
    name = "names-shuffled" if o.what == "names" else o.what
    path = o.out or os.path.join(ROOT, "data", name + ".txt")
    lines = MAKERS[o.what](o, random.Random(o.seed))
    count, unfinished = 0, "%s.%d.part" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(unfinished, "wb") as file:
            for line in lines:
                file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
                count += 1
        os.replace(unfinished, path)
    except OSError as error:
        sys.exit("make.py: %s: %s" % (path, error.strerror))
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    print("%s: %d lines" % (os.path.relpath(path), count))


if __name__ == "__main__":
    main()
