"""Makes one file for train.c of several: texts, or the ids of their tokens.

    python3 dev/data/convert.py --out all.bin a.bin b.bin
    python3 dev/data/convert.py --out all.bin --train train.bin --val val.bin        as nanoGPT has them
    python3 dev/data/convert.py --out all.bin --train fineweb_train_*.bin --val fineweb_val_*.bin
    python3 dev/data/convert.py --out all.txt --train train.txt --val val.txt --test test.txt --rows

Where parts are named, it prints the shares to train with, such as --validation 0.1 --test 0.05: with them
train.c cuts the file exactly where the parts meet, to the token, or with --rows to the line.

Files of tokens are raw ids (nanoGPT, ./tokenizer encode --raw), or have one of llm.c's two headers, which
goes.  What is written is raw ids, as train.c reads them: 2 bytes each if the vocabulary has at most 65,536
tokens, otherwise 4.  A header says which vocabulary it is; for raw ids --vocab does.  A file with no header
whose name does not end in .bin is a text; several are joined, and without --rows the shares are exact for a
vocabulary of bytes only (encode the parts, then convert them, for a learned one).
"""
import argparse
import array
import os
import struct
import sys

HEADER = 256 * 4  # bytes: 256 numbers, of which the first three are magic number, version, number of tokens
HEADERS = {20240520: (1, "H", 50257), 20240801: (7, "I", 128256)}  # magic: version, type of an id, vocabulary
CHUNK = 1 << 20  # tokens, or bytes of text, that are in memory at a time
PARTS = ("train", "val", "test")


class Refused(Exception):
    pass


def id_type(vocab):
    return "H" if vocab <= 65536 else "I"


class Source:
    """A file to read: .kind is "text" or "tokens"; of tokens .start, .type and .vocab (None: not known)."""

    def __init__(self, path):
        self.path, self.start, self.type, self.vocab = path, 0, None, None
        try:
            self.size = os.path.getsize(path)
            with open(path, "rb") as file:
                head = file.read(HEADER)
        except OSError as error:
            raise Refused("%s: %s" % (path, error.strerror))
        magic, version, count = struct.unpack("<3I", head[:12].ljust(12, b"\0"))
        self.kind = "tokens" if path.endswith(".bin") or magic in HEADERS else "text"
        if magic in HEADERS:
            right, self.type, self.vocab = HEADERS[magic]
            self.start = HEADER
            if version != right or self.size != HEADER + count * struct.calcsize(self.type):
                raise Refused("%s: its header does not fit its %d bytes: damaged, not complete, or of another version"
                              % (path, self.size))

    def ids(self, vocab):
        """The ids in arrays of at most CHUNK, checked."""
        kind = self.type or id_type(vocab)
        width = struct.calcsize(kind)
        if (self.size - self.start) % width:
            raise Refused("%s: %d bytes of ids: not a multiple of %d" % (self.path, self.size - self.start, width))
        done = 0
        with open(self.path, "rb") as file:
            file.seek(self.start)
            for data in iter(lambda: file.read(CHUNK * width), b""):
                ids = array.array(kind, data)
                if sys.byteorder == "big":
                    ids.byteswap()
                if max(ids) >= vocab:
                    at = next(i for i, token in enumerate(ids) if token >= vocab)
                    raise Refused("%s: token %d is %d: the vocabulary has %d tokens (--vocab)"
                                  % (self.path, done + at, ids[at], vocab))
                done += len(ids)
                yield ids


def tokens_write(out, sources, vocab):
    """Appends their ids; returns how many there are."""
    count = 0
    for source in sources:
        for ids in source.ids(vocab):
            count += len(ids)
            if ids.typecode != id_type(vocab):
                ids = array.array(id_type(vocab), ids)
            if sys.byteorder == "big":
                ids.byteswap()
            out.write(ids.tobytes())
    return count


def text_write(out, sources, rows):
    """Appends texts, each of which ends with a line feed then; returns how many bytes, or lines, there are."""
    count = 0
    for source in sources:
        last = b"\n"
        with open(source.path, "rb") as file:
            for data in iter(lambda: file.read(CHUNK), b""):
                if b"\0" in data:
                    raise Refused("%s: holds a NUL byte: this is not a text" % source.path)
                out.write(data)
                count += data.count(b"\n") if rows else len(data)
                last = data[-1:]
        if last != b"\n":
            out.write(b"\n")
            count += 1
    return count


def parts_cut(count, validation, test, rows):
    """The sizes of the parts as corpus_split() of train.c computes them, in the same arithmetic."""
    train = int(count * (1.0 - validation - test) + (0.5 if rows else 1e-6))
    if rows:
        end = int(count * (1.0 - test) + 0.5)
    else:
        end = count if test == 0 else train + int(count * validation + 1e-6)
    return [train, end - train, count - end]


def shares(sizes, rows):
    """Two numbers as text, for --validation and --test, that cut exactly these sizes.  Running text is cut
    downward, to whole tokens: so the aim is the middle of the range that gives the right number, and as few
    digits are taken as it allows."""
    count, (_, validation, test) = sum(sizes), sizes
    if rows:
        aims = [validation / count, test / count]
    elif not test:
        aims = [(validation - 0.5) / count if validation else 0, 0]
    else:
        aims = [(validation + 0.25) / count if validation else 0,
                (test - (0.75 if validation else 0.5)) / count]
    exact = [validation / count, test / count]
    for digits in range(1, 18):
        for goal in (exact, aims):
            texts = ["%.*g" % (digits, share) for share in goal]
            if parts_cut(count, *map(float, texts), rows) == sizes:
                return texts
    raise AssertionError("no share cuts %s" % sizes)


class Parser(argparse.ArgumentParser):
    def error(self, message):  # one line, where argparse would print all options before it
        self.exit(2, "convert.py: %s; --help shows the options\n" % message)


def options():
    p = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("files", nargs="*", metavar="FILE", help="files to join, without parts")
    p.add_argument("--out", required=True, metavar="FILE", help="ends in .bin for tokens, and not for text")
    for part in PARTS:
        p.add_argument("--" + part, nargs="+", default=[], metavar="FILE", help="files of this part, in order")
    p.add_argument("--vocab", type=int, metavar="N", help="tokens in the vocabulary; default: what a header says, or 50257")
    p.add_argument("--rows", action="store_true", help="of texts: for training with --rows, line by line")
    o = p.parse_args()
    if bool(o.files) == bool(o.train):
        p.error("name files, or --train with --val or --test")
    if o.files and (o.val or o.test):
        p.error("FILE has no part: name --train")
    if o.vocab is not None and not 1 <= o.vocab <= 2**32:
        p.error("--vocab must be from 1 to 2^32, not %d" % o.vocab)
    return o


def convert(o, out):
    """Writes to `out`; returns the sizes of the parts, and the name of what was counted."""
    parts = [[Source(path) for path in paths] for paths in (o.files or o.train, o.val, o.test)]
    sources = sum(parts, [])
    first = sources[0]
    for other in sources:
        if os.path.exists(o.out) and os.path.samefile(o.out, other.path):
            raise Refused("%s: is to be read and to be written" % o.out)
        if other.kind != first.kind:
            raise Refused("%s and %s: one is a text, the other a file of tokens" % (first.path, other.path))
    if (first.kind == "tokens") != o.out.endswith(".bin"):
        raise Refused("%s: train.c takes a name that ends in .bin for tokens, any other for a text" % o.out)
    if first.kind == "text":
        return [text_write(out, part, o.rows) for part in parts], "lines" if o.rows else "bytes"
    if o.rows:
        raise Refused("%s: --rows needs a text, not tokens" % first.path)
    vocab = o.vocab or max(source.vocab or 50257 for source in sources)
    return [tokens_write(out, part, vocab) for part in parts], "tokens"


def main():
    o = options()
    unfinished = "%s.%d.part" % (o.out, os.getpid())
    try:
        with open(unfinished, "wb") as file:
            sizes, unit = convert(o, file)
        if not sum(sizes):
            raise Refused("there is nothing in the files")
        if o.train and not sizes[0]:
            raise Refused("there is nothing in the files of --train")
        os.replace(unfinished, o.out)
    except Refused as problem:
        sys.exit("convert.py: %s" % problem)
    except OSError as error:
        sys.exit("convert.py: %s: %s" % (error.filename or o.out, error.strerror))
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    print("%s: %d %s" % (o.out, sum(sizes), unit))
    if o.train:
        print("train %d, validation %d, test %d; train with" % tuple(sizes))
        print("  --data %s%s --validation %s --test %s" % ((o.out, " --rows" if o.rows else "") + tuple(shares(sizes, o.rows))))


if __name__ == "__main__":
    main()
