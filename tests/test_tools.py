"""The tools of dev/ that need Python: what dev/data/make.py writes is what it says, train.c cuts what
dev/data/convert.py joins where its parts meet, dev/plot.py and dev/report.py show what is in log.csv, and
dev/data/fetch.sh goes on with a download from a server.

    python3 tests/test_tools.py [--programs FOLDER]       or: make check-tools

Trains for a few steps with build/train.  Everything is written to a scratch folder.  Without matplotlib the
pictures are left out; nothing else but Python's standard library is needed.
"""
import argparse
import collections
import contextlib
import csv
import functools
import hashlib
import html.parser
import http.server
import io
import os
import random
import re
import shutil
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
counts = collections.Counter()


def row(good, name, shown=""):
    counts["passed" if good else "failed"] += 1
    print("%-5s %s%s" % ("ok" if good else "FAIL", name, ": %s" % shown if shown != "" else ""), flush=True)


def skip(reason):
    counts["skipped"] += 1
    print("skip  %s" % reason)


def run(*command, cwd=None, env=None):
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, errors="replace",
                          timeout=120, env=dict(os.environ, **(env or {})), stdin=subprocess.DEVNULL)


def called(function, program, *arguments):
    """As run(), for the main() of a tool that was imported: matplotlib is loaded once, not for every row."""
    ended, kept = argparse.Namespace(returncode=0), sys.argv
    out, err, sys.argv = io.StringIO(), io.StringIO(), [program, *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            function()
        except SystemExit as end:
            ended.returncode = end.code if isinstance(end.code, int) else 1 if end.code else 0
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
    sys.argv, ended.stdout, ended.stderr = kept, out.getvalue(), err.getvalue()
    return ended


def refused(name, status, words, *command, **more):
    """The command must fail with this status and a single line that holds the words."""
    ended = (called if callable(command[0]) else run)(*command, **more)
    lines = ended.stderr.splitlines()
    row(ended.returncode == status and len(lines) == 1 and words in lines[0] and not ended.stdout,
        name, "exit %d: %s" % (ended.returncode, (lines or ["nothing on stderr"])[-1][:110]))


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(place, name), folder)
                  for place, _, names in os.walk(folder) for name in names)


def read(path, mode="r"):
    with open(path, mode) as file:
        return file.read()


# --- make.py -------------------------------------------------------------------------------------------------

def made(folder, what, *options, seed=1):
    path = os.path.join(folder, "made.txt")
    ended = run(sys.executable, os.path.join(folder, "dev/data/make.py"), what, "--seed", seed, "--out", path, *options)
    if ended.returncode:
        row(False, "make.py %s" % what, ended.stderr.strip())
        return b""
    return read(path, "rb")


def seeds_matter(folder, what, text, *options):
    row(made(folder, what, *options) == text, "%s: the same seed gives the same bytes" % what)
    row(made(folder, what, *options, seed=2) != text, "%s: another seed gives others" % what)


def check_sorting(folder):
    text = made(folder, "sorting")
    lines = text.decode().splitlines()
    row(len(lines) == 25000 and text.endswith(b"\n"), "sorting: 20,000 lines and 5,000", len(lines))
    pairs = [line.split("=") for line in lines]
    row(all(re.fullmatch("[012]{6}", a) and b == "".join(sorted(a)) for a, b in pairs), "sorting: every line is sorted")
    trained, held_out = ({a for a, _ in part} for part in (pairs[:20000], pairs[20000:]))
    row(not trained & held_out, "sorting: no input that is tested with is trained on", len(trained & held_out))
    # Each of the 547 inputs has 37 draws of 20,000, and each of the 182 has 27 of 5,000: that one is never drawn
    # has a chance of 1e-13 and less.
    row((len(trained), len(held_out)) == (547, 182), "sorting: a quarter of the 729 inputs is held out",
        "%d and %d" % (len(trained), len(held_out)))
    seeds_matter(folder, "sorting", text)


def check_addition(folder):
    text = made(folder, "addition")
    lines = text.decode().splitlines()
    parts = [re.fullmatch(r"(\d\d)(\d\d)=(\d{3})", line) for line in lines]
    row(len(lines) == 10000 and all(parts), "addition: 10,000 lines of one form", len(lines))
    row(all(int(a) + int(b) == int(c[::-1]) for a, b, c in (part.groups() for part in parts if part)),
        "addition: every sum is right, its ones first")
    row(len(set(lines)) == 10000, "addition: each sum once, so that any part held out is not in the rest")
    # In no order: among the last 500, each tens digit of the first number occurs about 50 times (deviation 6.5).
    tens = collections.Counter(line[0] for line in lines[-500:])
    row(len(tens) == 10 and max(tens.values()) < 90, "addition: shuffled", dict(sorted(tens.items())))
    seeds_matter(folder, "addition", text)


def check_modular(folder):
    for modulus in (97, 113, 2, 128):
        text = made(folder, "modular", "--modulus", modulus)
        lines = text.split(b"\n")
        row(len(lines) == modulus ** 2 + 1 and lines.pop() == b"" and
            all(len(line) == 4 and line[2:3] == b"=" for line in lines), "modular: %d squared lines" % modulus)
        numbers = [(line[0] - 128, line[1] - 128, line[3] - 128) for line in lines]
        row({(a, b) for a, b, _ in numbers} == {(a, b) for a in range(modulus) for b in range(modulus)},
            "modular: the whole table of %d, each pair once" % modulus)
        row(all(c == (a + b) % modulus for a, b, c in numbers), "modular: every sum modulo %d is right" % modulus)
        if modulus == 97:
            # The first 30% are trained on, as dev/runs/grokking.sh does: all 97 numbers occur there, on both sides.
            first = numbers[: round(0.3 * len(numbers))]
            row(all(len({line[i] for line in first}) == 97 for i in range(3)), "modular: shuffled")
            seeds_matter(folder, "modular", text)


def check_names(folder):
    script = os.path.join(folder, "dev/data/make.py")
    refused("names: not fetched yet", 1, "fetch.sh names", sys.executable, script, "names")
    row(files_below(os.path.join(folder, "data")) == [], "names: and nothing is left")
    os.makedirs(os.path.join(folder, "data"), exist_ok=True)
    names = ["".join(chr(97 + (i * j) % 26) for j in range(1, 4 + i % 5)) for i in range(2000)]
    with open(os.path.join(folder, "data/names.txt"), "w") as file:
        file.write("\n".join(names) + "\n")
    text = made(folder, "names")
    lines = text.decode().splitlines()
    row(sorted(lines) == sorted(names) and lines != names, "names: all of them, in another order", len(lines))
    seeds_matter(folder, "names", text)
    run(sys.executable, script, "names")
    shuffled = read(os.path.join(folder, "data/names-shuffled.txt"), "rb")
    row(shuffled == made(folder, "names", seed=3407), "names: seed 3407 and data/names-shuffled.txt are the defaults")
    # What torch.manual_seed(seed); torch.randperm(n).tolist()[:6] prints (PyTorch 2.13.0).
    sys.path.insert(0, os.path.join(folder, "dev/data"))
    import make
    for n, seed, first in ((32033, 3407, [18545, 10853, 360, 10522, 2312, 27407]), (10, 1, [5, 6, 1, 2, 0, 8]),
                           (2000, 3407, [459, 1898, 0, 1257, 1483, 875]), (1, 5, [0]),
                           (700, 2**32 + 5, [211, 166, 33, 503, 306, 395]), (5, 2**63 - 1, [1, 3, 4, 2, 0])):
        order = make.torch_permutation(n, seed)
        row(order[:6] == first and sorted(order) == list(range(n)), "names: torch.randperm(%d), seed %d" % (n, seed))
    order = make.torch_permutation(len(names), 3407)
    row([names[i] for i in order] == shuffled.decode().splitlines(), "names: its line i is the name that the order has there")
    shutil.rmtree(os.path.join(folder, "data"))


def story_holds(story, nouns):
    """Whether a story's last sentence follows from those before it; its invented words go to `nouns`."""
    sentences = story.rstrip(".").split(". ")
    owner, thing = None, None
    for i, sentence in enumerate(sentences):
        words = sentence.split()
        if i == 0:
            owner, thing = words[0], words[4]
            nouns.update(words[3:])
            good = words[1:3] == ["had", "a"] and len(words) == 5
        elif i == len(sentences) - 1:
            return words == ["In", "the", "end", owner, "had", "the", thing]
        elif words[1] == "went":
            nouns.add(words[4])
            good = words[:4] == [owner, "went", "to", "the"]
        elif words[0] == "The":
            nouns.update((words[1], words[3]))
            good = words[2] == "was"
        elif words[0] == "There":
            met = words[3]
            good = words[:3] == ["There", owner, "met"] and met != owner
        elif words[1] == "gave":
            good = words == [owner, "gave", met, "the", thing]
            owner = met
        else:
            good = words == [owner, "kept", "the", thing]
        if not good:
            return False
    return False


def check_stories(folder):
    used = {}
    for words in (3, 30, 100):
        text = made(folder, "stories", "--words", words, "--bytes", 300000)
        row(300000 <= len(text) < 310000, "stories: about as many bytes as asked for", len(text))
        stories, used[words] = text.decode().splitlines(), set()
        wrong = [story for story in stories if not story_holds(story, used[words])]
        row(stories and not wrong, "stories: who has the thing at the end follows from the rest",
            wrong[0][:60] if wrong else "%d stories" % len(stories))
        row(len(used[words]) == words, "stories: --words %d are %d different ones" % (words, words), len(used[words]))
    row(used[30] < used[100], "stories: a larger vocabulary holds the smaller one")
    things = collections.Counter(story.split()[4].rstrip(".") for story in stories)
    ordered = [count for _, count in things.most_common()]
    row(1.5 < ordered[0] / ordered[1] < 2.7 and 2.2 < ordered[0] / ordered[2] < 4,
        "stories: Zipf's law, the second and third thing 1/2 and 1/3 as often", ordered[:3])
    short = made(folder, "stories", "--words", 100, "--bytes", 2000)
    row(short and text.startswith(short), "stories: endless, a shorter text is the start of a longer one")
    seeds_matter(folder, "stories", text, "--words", 100, "--bytes", 300000)
    book = read(os.path.join(ROOT, "doc/reproduction.md"))
    [options] = re.findall(r"make\.py stories (.*) --seed 2\n", book)
    [story] = re.findall(r"\n    ([A-Z][a-z]+ had a [^`]*?\.)\n\n", book)
    row(" ".join(story.split()) in made(folder, "stories", *options.split(), seed=2).decode().splitlines(),
        "stories: the one in doc/reproduction.md is one of its command's")


def check_make_refuses(folder):
    script, before = os.path.join(folder, "dev/data/make.py"), files_below(folder)
    for words, *options in (("invalid choice", "nonsense"), ("required", ), ("--modulus", "modular", "--modulus", 129),
                            ("--modulus", "modular", "--modulus", 1), ("--words", "stories", "--words", 2),
                            ("--words", "stories", "--words", 14401), ("--bytes", "stories", "--bytes", 0),
                            ("--seed", "sorting", "--seed", -1), ("--seed", "sorting", "--seed", "x"),
                            ("--nonsense", "sorting", "--nonsense")):
        refused("make.py %s" % " ".join(map(str, options)), 2, words, sys.executable, script, *options)
    refused("make.py --out in a folder that cannot be", 1, "make.py/x", sys.executable, script, "sorting", "--out", script + "/x")
    refused("make.py --out is a folder", 1, "dev/data", sys.executable, script, "sorting", "--out", os.path.dirname(script))
    row(files_below(folder) == before, "make.py: what is refused leaves nothing", set(files_below(folder)) - set(before) or "")


# --- convert.py ----------------------------------------------------------------------------------------------

CONVERT = os.path.join(ROOT, "dev/data/convert.py")


def check_shares():
    """The shares that are printed cut exactly the parts, by the arithmetic of corpus_split(); that train.c does
    the same is checked below, on some of them."""
    sys.path.insert(0, os.path.dirname(CONVERT))
    import convert
    rng = random.Random(5)
    for rows in (False, True):
        wrong, longest = [], 0
        for _ in range(5000):
            most = 10 ** rng.choice((0, 1, 2, 3, 5, 7, 9, 10))
            sizes = [rng.randrange(1, most + 2)] + [rng.choice((0, 1, rng.randrange(most + 1))) for _ in range(2)]
            try:
                texts = convert.shares(sizes, rows)
                longest = max(longest, *map(len, texts))
            except AssertionError:
                wrong.append(sizes)
        row(not wrong and longest <= 23, "convert.py: 5,000 choices of parts of up to 10^10 %s are cut exactly"
            % ("rows" if rows else "tokens"), wrong[:3] or "")
    row(convert.shares([900, 50, 50], False) == ["0.05", "0.05"] and convert.shares([31033, 1000, 0], True) == ["0.03122", "0"],
        "convert.py: shares have as few digits as will do")


def ids_save(path, ids, width=2, header=None):
    """header: magic number, version, number of tokens."""
    with open(path, "wb") as file:
        if header:
            file.write(struct.pack("<256i", *(list(header) + [0] * 253)))
        file.write(b"".join(i.to_bytes(width, "little") for i in ids))
    return path


def check_convert(scratch, program):
    check_shares()
    folder = os.path.join(scratch, "convert")
    os.makedirs(folder)
    at = functools.partial(os.path.join, folder)
    gpt2, llama3 = 20240520, 20240801  # llm.c's magic numbers
    ids = [i * 37 % 96 for i in range(5000)]
    text = at("words.txt")
    with open(text, "wb") as file:
        file.write(bytes(range(32, 128)) * 40)
    train(program, at("tokenizer"), text, "--steps", 4)  # its vocabulary: 96 bytes

    def converted(name, *arguments):
        ended = run(sys.executable, CONVERT, "--out", at(name), *arguments)
        if ended.returncode:
            row(False, "convert.py --out %s" % name, ended.stderr.strip())
        return ended.stdout

    def parts_of(printed, sizes, name, *more):
        """Trains with the options that were printed; the parts must have the sizes that were put in."""
        options = printed.splitlines()[-1].split()
        ended = run(program, *options, *more, "--layers", 1, "--heads", 1, "--channels", 8, "--context", 10, "--batch", 2,
                    "--steps", 1, "--warmup", 0, "--sample", 0, "--threads", 1, "--overwrite", "--out", at("run"))
        kind = " in (\\d+) rows" if "--rows" in options else ""
        found = [int(re.search(r"^%s +\d+ tokens%s" % (part, kind), ended.stderr, re.M)[1]) if kind else
                 int(re.search(r"^%s +(\d+) tokens" % part, ended.stderr, re.M)[1])
                 for part in ("train", "validation", "test")] if ended.returncode == 0 else ended.stderr[-100:]
        row(found == list(sizes), "convert.py: %s, as train.c cuts it" % name, "%s: %s" % (" ".join(options[2:]), found))

    # nanoGPT: raw ids, a part in a file; llm.c: ids after a header, a part in several files.
    tokenizer = ("--tokenizer", at("tokenizer"))
    for sizes in ((4000, 1000, 0), (4963, 37, 0), (3333, 999, 668), (4987, 12, 1), (4000, 0, 1000), (5000, 0, 0)):
        a, b, _ = sizes
        named = [("--train", ids[:a]), ("--val", ids[a : a + b]), ("--test", ids[a + b :])]
        options = [x for option, part in named if part
                   for x in (option, ids_save(at(option[2:] + ".bin"), part))]
        printed = converted("all.bin", *options)
        row(read(at("all.bin"), "rb") == bytes(x for i in ids for x in (i, 0)), "convert.py: raw ids of %s are joined" % (sizes,))
        parts_of(printed, sizes, "nanoGPT's files of %d, %d and %d tokens" % sizes, *tokenizer)
    shards = [ids_save(at("x_train_%d.bin" % i), ids[1500 * i : 1500 * (i + 1)], header=(gpt2, 1, 1500)) for i in range(3)]
    held_out = ids_save(at("x_val"), ids[4500:], header=(gpt2, 1, 500))  # a header tells, whatever the name
    printed = converted("all.bin", "--train", *shards, "--val", held_out)
    row(read(at("all.bin"), "rb") == bytes(x for i in ids for x in (i, 0)), "convert.py: llm.c's headers go, its ids stay")
    parts_of(printed, (4500, 500, 0), "llm.c's four files", *tokenizer)

    # Widths: what is written is as wide as train.c reads it.
    wide = ids_save(at("wide.bin"), [0, 65535, 65536, 128255], 4, (llama3, 7, 4))
    converted("all.bin", wide)
    row(read(at("all.bin"), "rb") == b"".join(i.to_bytes(4, "little") for i in (0, 65535, 65536, 128255)), "convert.py: Llama 3's ids have 4 bytes")
    converted("all.bin", ids_save(at("narrow.bin"), ids, 4, (llama3, 7, 5000)), "--vocab", 65536)
    row(os.path.getsize(at("all.bin")) == 10000, "convert.py: with a vocabulary of 65,536 they are written as 2")
    converted("all.bin", ids_save(at("raw.bin"), [5, 65536], 4), "--vocab", 65537)
    row(os.path.getsize(at("all.bin")) == 8, "convert.py: raw ids of 4 bytes are read and written with a larger vocabulary")

    # Texts: to the byte, or to the line.
    lines = ["%d=%d" % (i, i * i) for i in range(101)]
    texts = {"train.txt": "\n".join(lines[:70]), "val.txt": "\n".join(lines[70:81]) + "\n", "test.txt": "\n".join(lines[81:])}
    for name, text in texts.items():
        with open(at(name), "w") as file:
            file.write(text)
    named = [x for part in ("train", "val", "test") for x in ("--" + part, at(part + ".txt"))]
    for rows in (False, True):
        printed = converted("all.txt", *named, *["--rows"] * rows)
        row(read(at("all.txt")) == "\n".join(lines) + "\n", "convert.py: texts are joined line by line")
        parts_of(printed, (70, 11, 20) if rows else [sum(len(line) + 1 for line in part) for part in (lines[:70], lines[70:81], lines[81:])],
                 "texts, by %s" % ("line" if rows else "byte"))

    # What is refused, in one line, and leaves nothing.
    for path, header, count, width, words in (("fewer", (gpt2, 1, 11), 10, 2, "its header does not fit"), ("version", (gpt2, 2, 10), 10, 2, "its header"),
                                              ("most", (gpt2, 1, -1), 10, 2, "its header"), ("odd.bin", None, 3, 3, "not a multiple of 2"),
                                              ("beyond.bin", None, 10, 2, "token 2 is 50257"), ("half", (llama3, 7, 10), 10, 2, "its header")):
        ids_save(at(path), range(50255, 50255 + count), width, header)
        before = files_below(folder)
        refused("convert.py of %s" % path, 1, words, sys.executable, CONVERT, "--out", at("bad.bin"), at(path))
        row(files_below(folder) == before, "convert.py: nothing is left of it", set(files_below(folder)) - set(before) or "")
    for status, words, *arguments in ((1, "one is a text", "--out", at("bad.bin"), at("raw.bin"), at("words.txt")), (1, "ends in .bin", "--out", at("bad.bin"), at("train.txt")),
                                      (1, "ends in .bin", "--out", at("bad.txt"), at("raw.bin")), (1, "No such file", "--out", at("bad.bin"), at("none.bin")),
                                      (1, "needs a text", "--rows", "--out", at("bad.bin"), at("train.bin")), (1, "NUL", "--out", at("bad.txt"), at("all.bin.txt")),
                                      (1, "to be read and to be written", "--out", at("all.bin"), at("all.bin")),
                                      (2, "--train", "--out", at("bad.bin")), (2, "--train", "--out", at("bad.bin"), "--val", at("val.bin")),
                                      (2, "--vocab", "--out", at("bad.bin"), at("raw.bin"), "--vocab", 0), (2, "--out", at("raw.bin"))):
        shutil.copy(at("all.bin"), at("all.bin.txt"))
        refused("convert.py %s" % " ".join(os.path.basename(str(argument)) for argument in arguments), status, words, sys.executable, CONVERT, *arguments)
        row(not [name for name in files_below(folder) if name.startswith("bad") or name.endswith(".part")], "convert.py: and nothing is left")


# --- plot.py and report.py -------------------------------------------------------------------------------------

class Balance(html.parser.HTMLParser):
    """Every element that is opened is closed, in the right order; what a browser would fetch is noted."""

    def __init__(self, text):
        super().__init__()
        self.open, self.problems, self.fetched, self.tables = [], [], [], 0
        self.best, self.text = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.fetched.append(value)
            if (name, value) == ("class", "best"):
                self.best.append([])
        if tag not in ("meta", "br", "hr", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append("</%s> at %s" % (tag, self.getpos()))

    def handle_data(self, data):
        self.text.append(data)
        if self.best and "tr" in self.open and not self.best[-1] and data.strip():
            self.best[-1].append(data)


def evaluated(folder):
    """Steps and validation losses of a run's log.csv, read by another reader than the tools'."""
    with open(os.path.join(folder, "log.csv"), newline="") as file:
        return [(int(line["step"]), float(line["val_loss"])) for line in csv.DictReader(file) if line["val_loss"]]


def lowest(folder):
    return min((loss, step) for step, loss in evaluated(folder) if step > 0)


def drawn(path):
    """The texts of an SVG file, and its root's name."""
    root = xml.etree.ElementTree.parse(path).getroot()
    return root.tag.rpartition("}")[2], ["".join(part.itertext()) for part in root.iter() if part.tag.endswith("}text")]


def train(program, folder, data, *options):
    ended = run(program, "--data", data, "--layers", 1, "--heads", 2, "--channels", 16, "--context", 16, "--batch", 8,
                "--warmup", 2, "--eval-every", 4, "--eval-batches", 2, "--sample", 30, "--threads", 1, "--out", folder, *options)
    row(ended.returncode == 0, "a run of a few steps: %s" % os.path.relpath(folder, ROOT), ended.stderr.strip()[-100:] if ended.returncode else "")


def check_plot(scratch, program):
    plot, report = (os.path.join(ROOT, "dev", name) for name in ("plot.py", "report.py"))
    sys.path.insert(0, os.path.join(ROOT, "dev"))
    import plot as plot_module
    import report as report_module
    plot_here, report_here = (plot_module.main, "plot.py"), (report_module.main, "report.py")
    a, b, turned = (os.path.join(scratch, *place) for place in (("one", "run"), ("two", "run"), ("<three> & more",)))
    text = os.path.join(scratch, "text.txt")
    with open(text, "w") as file:
        file.writelines("line %d of <b>some</b> & all, %s\n" % (i, "abcdefgh"[i % 8] * (i % 5)) for i in range(300))
    train(program, a, text, "--steps", 20)
    train(program, b, text, "--steps", 20, "--seed", 2, "--rows", "--answer-after", ",", "--context", 48)
    # A rate that grows far too high, after the best model: its best step is not its last.
    train(program, turned, text, "--steps", 24, "--lr", 1, "--min-lr", 1, "--warmup", 23)
    best_steps = [lowest(folder)[1] for folder in (a, b, turned)]
    row(best_steps[2] < evaluated(turned)[-1][0], "the third run is best before its end", best_steps)

    ended = run(sys.executable, plot, a)
    row(ended.returncode == 0 and not ended.stderr and ended.stdout.split() == [a + "/plot.png", a + "/plot.svg"],
        "plot.py of one run: a PNG and an SVG in its folder", ended.stderr.strip()[-100:])
    row(os.path.exists(a + "/plot.png") and read(a + "/plot.png", "rb").startswith(b"\x89PNG\r\n\x1a\n"), "the PNG is one")
    tag, texts = drawn(a + "/plot.svg")
    row(tag == "svg" and {"loss", "learning rate", "gradient norm", "steps", "training", "validation"} <= set(texts),
        "the SVG parses; its panels and lines have names")
    row("lowest: %.4f" % lowest(a)[0] in texts, "it tells the lowest validation loss", "%.4f" % lowest(a)[0])
    first = read(a + "/plot.svg", "rb")
    run(sys.executable, plot, a)
    row(read(a + "/plot.svg", "rb") == first, "the same log, the same bytes")

    out = os.path.join(scratch, "several.svg")
    ended = called(*plot_here, a, b, turned + "=a third", "--out", out, "--x", "tokens")
    _, texts = drawn(out) if ended.returncode == 0 else ("", [])
    want = ["%s, %s" % (name, what) for name, folder in ((a, a), (b, b), ("a third", turned))
            for what in ("training", "validation", "lowest: %.4f" % lowest(folder)[0])]
    row(set(want) <= set(texts) and "tokens" in texts, "three runs in one picture, each with its name, two of the same name with their folders",
        ended.stderr.strip()[-100:] or [name for name in want if name not in texts] or "")
    row("rows right (%)" not in texts or max(float(line["val_accuracy"] or 0) for line in csv.DictReader(open(b + "/log.csv"))) >= 0.01,
        "rows that are right are drawn only where there are some")
    called(*plot_here, a, "--out", out, "--panels", "norm", "--x", "epoch", "--log-x", "--thin", 5)
    _, texts = drawn(out)
    row("gradient norm" in texts and "epoch" in texts and "loss" not in texts, "--panels, --x, --log-x and --thin")

    # What is where: the lines that matplotlib was given.
    for x, column in (("step", 0), ("tokens", 2)):
        [one] = plot_module.runs_of([turned])
        axis = plot_module.figure([one], x, ["loss"]).axes[0]
        [circle] = [line for line in axis.lines if line.get_marker() == "o" and line.get_fillstyle() == "none"]
        [curve] = [line for line in axis.lines if line.get_marker() == "."]
        loss, step = lowest(turned)
        with open(turned + "/log.csv", newline="") as file:
            places = {int(line[0]): float(line[column]) for line in csv.reader(file) if line[0] != "step"}
        place, curve_places = places[step], [places[at] for at, _ in evaluated(turned)]
        row((list(circle.get_xdata()), list(circle.get_ydata())) == ([place], [loss]),
            "the circle is at the lowest validation loss, over %ss" % x.rstrip("s"), "%g, %.4f" % (place, loss))
        row((list(curve.get_xdata()), list(curve.get_ydata())) == (curve_places, [value for _, value in evaluated(turned)]),
            "every evaluation is on the curve")
        color = circle.get_color()
        row(color == curve.get_color(), "in the curve's color", color)
    values = plot_module.smoothed([float(i) for i in range(1, 17)], 2)
    row(values == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15.5], "the moving mean", values)

    ended = run(sys.executable, report, turned, a, b)
    path = turned + "/report.html"
    row(ended.returncode == 0 and not ended.stderr and ended.stdout.startswith(path), "report.py of a run beside two others",
        ended.stderr.strip()[-100:])
    text = read(path) if os.path.exists(path) else ""
    page = Balance(text)
    shown = "".join(page.text)
    row(text.startswith("<!DOCTYPE html>") and not page.open and not page.problems, "every element is closed", page.problems[:3] or "")
    row(not page.fetched and "@import" not in text and "url(http" not in text, "it needs no other file", page.fetched or "")
    xml.etree.ElementTree.fromstring(text[text.index("<svg"): text.index("</svg>") + 6])
    row("<three> & more" in shown and "<three>" not in text, "the run's name is in it, as text")
    row(all(name in shown for name in (a, b)), "so do the names of the two others")
    loss, step = lowest(turned)
    row("lowest validation loss %.4f at step %d, %.4f at the end" % (loss, step, evaluated(turned)[-1][1]) in shown,
        "and its lowest and last loss", "%.4f at step %d" % (loss, step))
    row(page.best == [[str(step)]], "the best evaluation is marked, and no other", page.best)
    row(all("<td>%.4f</td>" % value in text for _, value in evaluated(turned)), "all evaluations are in its table")
    row("--channels 16" in shown and "--lr 1" in shown, "the settings are there")
    samples = read(turned + "/samples.txt")
    heads = re.findall(r"^--- (step \d+)", samples, re.M)
    row(heads and [head for head in re.findall(r"<h3>(.*?)</h3>", text)] == heads, "a sample of each evaluation, in order", len(heads))
    for tool in (plot, report):
        refused("%s without matplotlib" % os.path.basename(tool), 1, "Building in README.md", sys.executable, "-S", tool, a)
    refused("report.py without a folder", 2, "usage", *report_here)
    refused("report.py with an option that it does not know", 2, "usage", *report_here, "--nonsense", a)

    # Logs that are none, or not whole.
    log = read(a + "/log.csv")
    end = log.rindex("\n", 0, -1) + 1
    broken = {"missing": (None, "No such file"), "empty": ("", "no steps"), "only its header": (log[: log.index("\n") + 1], "no steps"),
              "half a header": ("step,ep", "no steps"), "cut in the last number": (log[:end] + log[end:].rstrip("\n")[:-3], "cut short"),
              "cut in the middle": (log[: len(log) // 2], "cut short"), "a line with too few fields": ("step,loss\n1,2\n3\n4,5\n", "line 3"),
              "another table": ("a,b\n1,2\n", "no steps"), "bytes of anything": ("\0\1\xff\n\xfe\n\n", "log.csv")}
    for name, (text, words) in broken.items():
        folder = os.path.join(scratch, "broken", name.replace(" ", "-"))
        os.makedirs(folder)
        if text is not None:
            with open(folder + "/log.csv", "w", encoding="latin-1") as file:
                file.write(text)
        before = files_below(folder)
        for tool in (plot_here, report_here):
            refused("%s, log.csv: %s" % (tool[1], name), 1, words, *tool, folder)
        refused("plot.py, the same beside a good run: %s" % name, 1, words, *plot_here, a, folder, "--out", folder + "/x.svg")
        row(files_below(folder) == before, "nothing is drawn: %s" % name)
    refused("plot.py --x with a column that no run has", 2, "--x", *plot_here, a, "--x", "nonsense")
    refused("plot.py without a folder", 2, "required", *plot_here)
    refused("plot.py --thin -1", 2, "--thin", *plot_here, a, "--thin", -1)
    refused("plot.py --out in no folder", 1, "nowhere", *plot_here, a, "--out", os.path.join(scratch, "nowhere/x.svg"))
    refused("plot.py --out with an unknown ending", 1, "xyz", *plot_here, a, "--out", os.path.join(scratch, "x.xyz"))
    short = os.path.join(scratch, "short")
    os.makedirs(short)
    with open(short + "/log.csv", "w") as file:
        file.write("step,loss\n1,2\n2,1\n")
    ended = called(*report_here, short)
    row(ended.returncode == 0 and os.path.exists(short + "/report.html"), "a log without validation has a page too", ended.stderr.strip()[-100:])
    refused("plot.py --x tokens of a log without them", 1, "no values of tokens", *plot_here, short, "--x", "tokens")


# --- fetch.sh and a server -----------------------------------------------------------------------------------

class Server(http.server.BaseHTTPRequestHandler):
    """Serves one content; in ranges, or not, and not all of it when it is to stop early."""
    content, ranges, stop = b"", True, None
    asked = []

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted.group(1)) if wanted and self.ranges else 0
        self.asked.append(int(wanted.group(1)) if wanted else 0)
        if self.path != "/names.txt":
            self.send_error(404)
            return
        if start >= len(self.content):
            self.send_response(416)
            self.send_header("Content-Range", "bytes */%d" % len(self.content))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if wanted and self.ranges else 200)
        if wanted and self.ranges:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (start, len(self.content) - 1, len(self.content)))
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : self.stop])

    def log_message(self, *_):
        pass


def check_fetch(scratch):
    """With curl, and with wget where curl is hidden."""
    folder = os.path.join(scratch, "fetched")
    os.makedirs(os.path.join(folder, "dev/data"))
    Server.content = b"".join(b"name %d\n" % (i * i) for i in range(20000))
    script = read(os.path.join(ROOT, "dev/data/fetch.sh"))
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = "http://127.0.0.1:%d/names.txt" % server.server_address[1]
    script, changed = re.subn(r"(?m)^names names.txt \S+ \S+$", "names names.txt %s %s"
                              % (hashlib.sha256(Server.content).hexdigest(), address), script)
    row(changed == 1, "fetch.sh: its table has names.txt")
    with open(os.path.join(folder, "dev/data/fetch.sh"), "w") as file:
        file.write(script)
    target, part = (os.path.join(folder, "data", name) for name in ("names.txt", "names.txt.part"))
    fetch = functools.partial(run, "sh", "dev/data/fetch.sh", "names", cwd=folder)

    def whole(name, ended, asked):
        good = os.path.exists(target) and read(target, "rb") == Server.content and files_below(folder + "/data") == ["names.txt"]
        row(ended.returncode == 0 and good and Server.asked == asked, name, "asked from byte %s" % Server.asked)
        if os.path.exists(target):
            os.remove(target)

    for tool in ("curl", "wget"):
        if not shutil.which(tool):
            skip("%s is not here" % tool)
            continue
        env = {"no_proxy": "*", "NO_PROXY": "*"}
        if tool == "wget":  # a PATH with all that the script calls but curl
            hidden = os.path.join(scratch, "without-curl")
            os.makedirs(hidden)
            for name in ("sh", "wget", "sha256sum", "shasum", "cut", "dirname", "mkdir", "mv", "cp", "rm", "cat", "tr", "awk", "grep", "chmod"):
                if shutil.which(name):
                    os.symlink(shutil.which(name), os.path.join(hidden, name))
            env["PATH"] = hidden
        Server.ranges, Server.stop = True, None
        Server.asked.clear()
        whole("%s: a whole download" % tool, fetch(env=env), [0])
        Server.asked.clear()
        Server.stop = 30000  # the server breaks off; wget would try again for long, so its part is laid out
        if tool == "curl":
            ended = fetch(env=env)
            row(ended.returncode == 1 and ended.stderr.splitlines()[-1].startswith("fetch.sh: names.txt: http"),
                "curl: a server that breaks off: exit %d" % ended.returncode, ended.stderr.splitlines()[-1][:110])
        else:
            with open(part, "wb") as file:
                file.write(Server.content[:30000])
        row(not os.path.exists(target) and os.path.exists(part) and os.path.getsize(part) == 30000, "%s: what has come stays as a part" % tool)
        Server.stop = None
        Server.asked.clear()
        whole("%s: goes on where it stopped" % tool, fetch(env=env), [30000])
        with open(part, "wb") as file:
            file.write(Server.content + b"and more\n")
        Server.asked.clear()
        ended = fetch(env=env)
        if tool == "curl":
            whole("curl: a part that is too long is fetched again", ended, [len(Server.content) + 9, 0])
        else:
            row(ended.returncode == 1 and files_below(folder + "/data") == [], "wget: a part that is too long is not taken",
                ended.stderr.splitlines()[-1][:110])
        if tool == "curl":
            Server.ranges = False
            with open(part, "wb") as file:
                file.write(Server.content[:30000])
            Server.asked.clear()
            whole("curl: a server that cannot begin in the middle is asked for all", fetch(env=env), [30000, 0])
    server.shutdown()
    server.server_close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--programs", default=os.path.join(ROOT, "build"), metavar="FOLDER", help="with train; default: build")
    o = p.parse_args()
    program = os.path.join(os.path.abspath(o.programs), "train")
    if not os.path.exists(program):
        sys.exit("test_tools.py: %s is not there: make" % program)
    os.makedirs(os.path.join(ROOT, "build"), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.join(ROOT, "build"), prefix="test_tools_py.") as scratch:
        project = os.path.join(scratch, "project")
        os.makedirs(os.path.join(project, "dev/data"))
        shutil.copy(os.path.join(ROOT, "dev/data/make.py"), os.path.join(project, "dev/data"))
        for check in (check_sorting, check_addition, check_modular, check_names, check_stories, check_make_refuses):
            check(project)
        check_convert(scratch, program)
        check_fetch(scratch)
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            skip("matplotlib is not here: plot.py and report.py are not tried; pip install -r dev/requirements.txt")
        else:
            check_plot(scratch, program)
    print("%d passed, %d failed%s" % (counts["passed"], counts["failed"], ", %d skipped" % counts["skipped"] if counts["skipped"] else ""))
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
