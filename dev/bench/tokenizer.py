#!/usr/bin/env python3
"""Measures tokenizer.c beside tiktoken and tokenizers, one thread each.

    python3 dev/bench/tokenizer.py --gpt2 data/gpt2 --english FILE... [--code FILE...] [--other FILE...]
                                   [--large FILE] [--parts encode hard load learn]

Every figure is the median of --rounds rounds in which the programs take turns, so that a machine
that is fast for a while is fast for all of them; a ratio is the median of the rounds' ratios.
Seconds are the processor's (all threads of the process together), which other programs on the
machine disturb less than the clock on the wall.  tokenizer.c is called as a library from memory
to memory, tiktoken and tokenizers through their Python functions, the only way there is to them;
tokenizers gets pieces of 100 kB, which is kinder to it than one long text.  For the hard texts
the whole program is measured too: it reads GPT-2's files and the text, and writes ids.  Without --code it takes the sources of Python's own library,
without --other a made-up text in eight scripts.  --large trains on a file in a process of its
own and shows how much memory that took.
"""
import argparse
import ctypes
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))
import check_tokenizer as peers

import tiktoken
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=gnu11", "-O3", "-march=native"]


def build(folder):
    source = Path(folder) / "library.c"
    source.write_text(f'#define TOKENIZER_NO_MAIN\n#include "{ROOT / "tokenizer.c"}"\n')
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *FLAGS, "-shared", "-fPIC", "-o", f"{folder}/library.so", source], check=True)
    subprocess.run([compiler, *FLAGS, "-o", f"{folder}/tokenizer", ROOT / "tokenizer.c"], check=True)
    library = ctypes.CDLL(f"{folder}/library.so")
    library.tokenizer_load.restype = library.tokenizer_learn.restype = ctypes.c_void_p
    library.tokenizer_encode.restype = ctypes.c_size_t
    library.free.argtypes = library.tokenizer_destroy.argtypes = [ctypes.c_void_p]
    return library


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(rounds, works):
    """[[seconds of each round] for each work]"""
    times = [[] for _ in works]
    for _ in range(rounds):
        for i, work in enumerate(works):
            times[i].append(seconds(work))
    return times


def ratio(slow, fast):
    return statistics.median(a / b for a, b in zip(slow, fast))


def other_text(size):
    rng = random.Random(3)
    scripts = [(0x430, 32), (0x3B1, 25), (0x627, 28), (0x5D0, 27), (0x915, 37), (0xE01, 46), (0x4E00, 2500),
               (0xAC00, 1200)]
    text, total = [], 0
    while total < size:
        base, letters = rng.choice(scripts)
        long = base >= 0x4E00
        words = ["".join(chr(base + int(letters * rng.random() ** 2))
                         for _ in range(rng.randrange(1, 4 if long else 9))) for _ in range(300)]
        paragraph = ("" if base == 0x4E00 else " ").join(
            words[min(int(rng.expovariate(1 / 60)), 299)] + rng.choice(["", "", "", "", ",", ".", "\u3002"])
            for _ in range(600)) + "\n"
        text.append(paragraph)
        total += len(paragraph.encode())
    return "".join(text)


def code_text(size):
    parts, total = [], 0
    for path in sorted(Path(os.__file__).parent.glob("**/*.py")):
        if total < size and "site-packages" not in path.parts:
            parts.append(path.read_text(encoding="utf-8", errors="replace"))
            total += len(parts[-1])
    return "".join(parts)


def read_all(paths):
    return "".join(p.read_bytes().decode("utf-8", errors="replace") for p in paths)


def encoder(library, ours):
    def encode(raw):
        ids = ctypes.POINTER(ctypes.c_uint32)()
        library.tokenizer_encode(ours.handle, ctypes.c_char_p(raw), ctypes.c_size_t(len(raw)), b"text",
                                 ctypes.byref(ids))
        library.free(ids)

    return encode


def bench_encode(arguments, library, gpt2, hf):
    texts = {"English": read_all(arguments.english),
             "code": read_all(arguments.code) if arguments.code else code_text(4_000_000)}
    for path in arguments.other:
        texts[path.name] = read_all([path])
    if not arguments.other:
        texts["eight scripts"] = other_text(4_000_000)
    ours = peers.Ours(library, arguments.gpt2)
    encode = encoder(library, ours)

    print("\nencoding with GPT-2's merges, MB/s     tokenizer.c  tiktoken  tokenizers  x tiktoken  x tokenizers")
    for name, text in texts.items():
        raw = text.encode()
        assert ours.encode(raw) == gpt2.encode_ordinary(text)
        parts = [text[i:i + 100_000] for i in range(0, len(text), 100_000)]
        a, b, c = in_turn(arguments.rounds, [lambda: encode(raw), lambda: gpt2.encode_ordinary(text),
                                             lambda: [hf.encode(part).ids for part in parts]])
        ascii_share = sum(x < 128 for x in raw) / len(raw)
        mb = len(raw) / 1e6
        print(f"  {name:18} {mb:5.1f} MB, {ascii_share:4.0%} ASCII {mb / statistics.median(a):10.1f}"
              f" {mb / statistics.median(b):9.1f} {mb / statistics.median(c):11.2f} {ratio(b, a):11.1f}"
              f" {ratio(c, a):13.1f}")


def program_seconds(arguments, folder, path):
    """The processor time of `tokenizer encode` as a whole."""
    child = subprocess.Popen([f"{folder}/tokenizer", "encode", "--model", arguments.gpt2, "--raw", path],
                             stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return usage.ru_utime + usage.ru_stime


def bench_hard(arguments, library, gpt2, folder):
    encode = encoder(library, peers.Ours(library, arguments.gpt2))
    print("\na million bytes of                 tokenizer.c s  whole program s  tiktoken s")
    for name, raw in peers.hard_texts().items():
        path = Path(folder) / "hard.txt"
        path.write_bytes(raw)
        own = statistics.median(in_turn(arguments.rounds, [lambda: encode(raw)])[0])
        whole = statistics.median(program_seconds(arguments, folder, path) for _ in range(arguments.rounds))
        text = raw.decode("utf-8", errors="replace")
        try:
            theirs = f"{seconds(lambda: gpt2.encode_ordinary(text)):11.3f}"
        except BaseException as error:  # a panic in Rust is not an Exception
            theirs = f"    {type(error).__name__}"
        note = " (read as U+FFFD where not UTF-8)" if name == "random bytes" else ""
        print(f"  {name:32} {own:13.3f} {whole:16.3f} {theirs}{note}")


def bench_load(arguments, library, folder):
    one_file = Path(folder) / "one_file"
    peers.saved(arguments.gpt2, one_file)
    print()
    for name, model in (("merges.txt and vocab.json", arguments.gpt2), ("tokenizer.json", one_file)):
        times = []
        for _ in range(max(arguments.rounds, 10)):
            handle = []
            times.append(seconds(lambda: handle.append(library.tokenizer_load(os.fsencode(model)))))
            library.tokenizer_destroy(handle[0])
        print(f"loading GPT-2's {name}: {1e3 * statistics.median(times):.1f} ms")


def bench_learn(arguments, library):
    text = read_all(arguments.english)[:1_000_000]
    raw = text.encode()
    print(f"\nlearning from {len(raw) / 1e6:.2f} MB of English, seconds   tokenizer.c  tokenizers  x tokenizers")
    for vocab in (512, 4096, 32768):
        def learn():
            library.tokenizer_destroy(library.tokenizer_learn(
                ctypes.c_char_p(raw), ctypes.c_size_t(len(raw)), ctypes.c_size_t(vocab), ctypes.c_bool(False)))

        def theirs():
            t = tokenizers.Tokenizer(models.BPE())
            t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            t.train_from_iterator([text], trainers.BpeTrainer(
                vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))

        a, b = in_turn(arguments.rounds, [learn, theirs])
        print(f"  {vocab:6} tokens {statistics.median(a):39.4f} {statistics.median(b):11.3f} {ratio(b, a):13.1f}")


def bench_large(arguments, folder):
    start = time.perf_counter()
    child = subprocess.Popen([f"{folder}/tokenizer", "train", "--vocab", "32768", "--out", f"{folder}/model",
                              arguments.large], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    print(f"\nlearning 32768 tokens from {arguments.large.name}, {arguments.large.stat().st_size / 1e6:.0f} MB:"
          f" {time.perf_counter() - start:.2f} s, {usage.ru_maxrss / 1024:.0f} MB of memory, status {status}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpt2", type=Path, required=True)
    parser.add_argument("--english", type=Path, nargs="+", required=True)
    parser.add_argument("--code", type=Path, nargs="*", default=[])
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--large", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parts = ["encode", "hard", "load", "learn"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = build(folder)
        compiler = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True)
        print(f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}, "
              f"{compiler.stdout.splitlines()[0]}, {' '.join(FLAGS)}")
        gpt2 = peers.tiktoken_gpt2(arguments.gpt2)
        if "encode" in arguments.parts:
            bench_encode(arguments, library, gpt2, peers.tokenizers_open(arguments.gpt2))
        if "hard" in arguments.parts:
            bench_hard(arguments, library, gpt2, folder)
        if "load" in arguments.parts:
            bench_load(arguments, library, folder)
        if "learn" in arguments.parts:
            bench_learn(arguments, library)
        if arguments.large:
            bench_large(arguments, folder)


if __name__ == "__main__":
    main()
