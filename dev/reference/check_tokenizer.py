#!/usr/bin/env python3
"""Holds tokenizer.c against tiktoken, tokenizers and transformers, and writes the tables for its tests.

    python3 dev/reference/check_tokenizer.py --program build/tokenizer --gpt2 data/gpt2
    python3 dev/reference/check_tokenizer.py --gpt2 data/gpt2 --write

Without --write: random Unicode and byte strings (--rounds of them), and the texts named on the
command line, are encoded and decoded by all four; a tokenizer learned here is opened by the
others, and one of theirs here; merges learned on the same text are compared; and the tables in
tests/reference/ are made again and compared with what is committed.  Exit status 1 on any
difference.  With --write the tables are written.
"""
import argparse
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
import tiktoken
import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
# GPT-2's rule as tiktoken states it for the encoding "gpt2".
RULE = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
failures = 0


def check(ok, what):
    global failures
    print("ok    " if ok else "FAIL  ", what, sep="")
    failures += not ok


def byte_letters():
    """GPT-2's letter for each byte, as its vocab.json has them."""
    letters, spare = {}, 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            letters[chr(byte)] = byte
        else:
            letters[chr(256 + spare)] = byte
            spare += 1
    return letters


def tiktoken_gpt2(folder):
    letters = byte_letters()
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    special = {"<|endoftext|>": vocab.pop("<|endoftext|>")}
    ranks = {bytes(letters[c] for c in token): i for token, i in vocab.items()}
    return tiktoken.Encoding("gpt2", pat_str=RULE, mergeable_ranks=ranks, special_tokens=special)


def tokenizers_open(folder):
    t = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return t


class Ours:
    """tokenizer.c as a library."""

    def __init__(self, library, folder):
        self.lib = library
        library.tokenizer_load.restype = ctypes.c_void_p
        library.tokenizer_encode.restype = ctypes.c_size_t
        library.tokenizer_token.restype = ctypes.POINTER(ctypes.c_ubyte)
        library.free.argtypes = [ctypes.c_void_p]
        self.handle = ctypes.c_void_p(library.tokenizer_load(os.fsencode(folder)))

    def encode(self, data):
        ids = ctypes.POINTER(ctypes.c_uint32)()
        count = self.lib.tokenizer_encode(self.handle, ctypes.c_char_p(data), ctypes.c_size_t(len(data)),
                                          b"text", ctypes.byref(ids))
        result = ids[:count]
        self.lib.free(ids)
        return result

    def decode(self, ids):
        size, parts = ctypes.c_size_t(), []
        for i in ids:
            token = self.lib.tokenizer_token(self.handle, ctypes.c_uint32(i), ctypes.byref(size))
            parts.append(bytes(token[:size.value]))
        return b"".join(parts)


def library_build(folder):
    source = Path(folder) / "library.c"
    source.write_text(f'#define TOKENIZER_NO_MAIN\n#include "{ROOT / "tokenizer.c"}"\n')
    path = Path(folder) / "library.so"
    subprocess.run([os.environ.get("CC", "cc"), "-O3", "-shared", "-fPIC", "-o", path, source], check=True)
    return ctypes.CDLL(str(path))


PARTS = [" ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "a", "the", " The", "I'll", "'s", "'S", "'re",
         "'", "''ve", "'m", "'d", "'t", "'l", "7", "42", "2026", "!", "...", "?!", "-", "_", "\u00e9",
         "\u00a0", "\u3000", "\u2003", "\u65e5\u672c", "\u0416\u0438", "\U0001f600", "\u2167", "\u00bd",
         "e\u0301", "\u0085", "\x1c", "\v", "\0", "\u200d", "\ufeff", "\u0e20\u0e32", "\u0939\u093f"]


def random_text(rng):
    kind = rng.randrange(4)
    n = rng.randrange(1, 30)
    if kind == 0:
        return "".join(rng.choice(PARTS) for _ in range(n))
    if kind == 1:  # code points from anywhere
        points = (rng.randrange(0x110000 if rng.random() < 0.2 else 0x3000) for _ in range(n))
        return "".join(chr(c) for c in points if not 0xD800 <= c < 0xE000)
    if kind == 2:
        return "".join(rng.choice(PARTS) * rng.randrange(1, 5) for _ in range(n))
    start = rng.randrange(0x32400)  # neighbors, where the ends of ranges are
    points = (min(start + rng.randrange(40), 0x10FFFF) for _ in range(n))
    return "".join(chr(c) + rng.choice(["", "", " "]) for c in points if not 0xD800 <= c < 0xE000)


def hard_texts():
    """Single pieces, or nearly so, of a million bytes."""
    rng, million = random.Random(4), 1_000_000

    def draw(alphabet):
        return bytes(rng.choice(alphabet) for _ in range(million))

    return {"one letter": b"a" * million, "blanks": b" " * million, "one digit": b"7" * million,
            "digits in turn": b"0123456789" * (million // 10), "random digits": draw(b"0123456789"),
            "random letters": draw(b"abcdefghijklmnopqrstuvwxyz"), "common letters": draw(b"etaoinshrdlu"),
            "^": b"^" * million, "=": b"=" * million, "emoji": "\U0001f600".encode() * (million // 4),
            "random bytes": rng.randbytes(million)}


def tables_make(gpt2):
    """The three tables: {file name: contents}."""
    rng = random.Random(1)
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = ["Hello world", " ", "  ", "   a", "a   ", "\n\n\n x", "<|endoftext|>", "it's IT'S it'll 'tis",
             "x" * 300, " " * 300 + "y", "0123456789" * 20, "\U0001f600" * 40, "^" * 200]
    texts += [random_text(rng) for _ in range(600)]
    splits, ids = [], []
    for text in texts:
        raw = text.encode()
        # Offsets count characters; the letters of each piece count its bytes.
        lengths = [len(piece) for piece, _ in splitter.pre_tokenize_str(text)]
        assert sum(lengths) == len(raw), text
        splits.append(f"{raw.hex()}\t{' '.join(map(str, lengths))}\n")
        ids.append(f"{raw.hex()}\t{' '.join(map(str, gpt2.encode_ordinary(text)))}\n")
    # A text to learn from: made-up words, often the same ones, as in any language.
    syllables = ["ka", "to", "ri", "an", "el", "sh", "u", "ing", "ed", "aa", "bb", "\u00e9", "\u0436\u0438"]
    words = ["".join(rng.choice(syllables) for _ in range(rng.randrange(1, 5)))
             + rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(1500)]
    text = ""
    while len(text) < 24000:
        word = words[min(int(rng.expovariate(1 / 150)), 1499)]
        text += rng.choice([" ", " ", " ", " ", "\n", ", ", ". ", "'s ", " 19", "  "]) + word
    learned = learn(text, 1200)
    with tempfile.TemporaryDirectory() as folder:
        learned.model.save(folder)
        merges = (Path(folder) / "merges.txt").read_text(encoding="utf-8")
    return {"tokenizer_splits.txt": "".join(splits), "tokenizer_ids.txt": "".join(ids),
            "tokenizer_learn.txt": text, "tokenizer_learn_merges.txt": merges}


def learn(text, vocab):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator([text], trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def compare_live(arguments, gpt2, library):
    hf, ours = tokenizers_open(arguments.gpt2), Ours(library, arguments.gpt2)
    auto = transformers.GPT2TokenizerFast(vocab_file=str(arguments.gpt2 / "vocab.json"),
                                          merges_file=str(arguments.gpt2 / "merges.txt"))
    if len(auto) != 50257:
        auto = transformers.GPT2TokenizerFast(tokenizer_object=hf)
    rng = random.Random(arguments.seed)
    wrong = {"tiktoken": 0, "tokenizers": 0, "transformers": 0, "decoded": 0, "bytes": 0, "tiktoken bytes": 0}
    points, ids_seen = set(), 0
    for _ in range(arguments.rounds):
        text = random_text(rng)
        points.update(text)
        raw = text.encode()
        ids = ours.encode(raw)
        ids_seen += len(ids)
        wrong["tiktoken"] += ids != gpt2.encode_ordinary(text)
        wrong["tokenizers"] += ids != hf.encode(text).ids
        if "<|endoftext|>" not in text:  # which transformers never takes for text
            wrong["transformers"] += ids != auto(text)["input_ids"]
        wrong["decoded"] += ours.decode(ids) != raw or gpt2.decode_bytes(ids) != raw
        noise = rng.randbytes(rng.randrange(60))
        wrong["bytes"] += ours.decode(ours.encode(noise)) != noise
        wrong["tiktoken bytes"] += gpt2.decode_bytes(ours.encode(noise)) != noise
    for name, count in wrong.items():
        check(count == 0, f"{arguments.rounds} random strings, {name}: {count} differ")
    print(f"      ({len(points)} different characters, {ids_seen} ids)")
    wrong = 0
    for first in range(0, 0x110000, 64):  # every character there is, in places that show its class
        characters = [chr(c) for c in range(first, first + 64) if not 0xD800 <= c < 0xE000]
        text = "".join(f"a{c}1{c}! {c} \n{c}" for c in characters)
        wrong += ours.encode(text.encode()) != gpt2.encode_ordinary(text)
    check(wrong == 0, f"every character between others, tiktoken: {wrong} of 17408 groups of 64 differ")
    for name, raw in hard_texts().items():
        if name not in ("blanks", "random bytes"):  # of which tiktoken takes neither
            check(ours.encode(raw) == gpt2.encode_ordinary(raw.decode()), f"a million bytes of {name}, tiktoken")
    for path in arguments.texts:
        text = path.read_bytes().decode("utf-8", errors="replace")
        ids = ours.encode(text.encode())
        check(ids == gpt2.encode_ordinary(text), f"{path.name}, tiktoken: {len(ids)} ids")
        check(ids == hf.encode(text).ids, f"{path.name}, tokenizers")
        check(ours.decode(ids) == text.encode(), f"{path.name}, decoded")


def compare_models(library, texts):
    """What is learned here, the others open, and the other way round."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for path in texts:
            text = path.read_bytes().decode("utf-8", errors="replace")
            for vocab in (300, 2000, 20000):
                library.tokenizer_learn.restype = ctypes.c_void_p
                raw = text.encode()
                t = ctypes.c_void_p(library.tokenizer_learn(ctypes.c_char_p(raw), ctypes.c_size_t(len(raw)),
                                                            ctypes.c_size_t(vocab), ctypes.c_bool(False)))
                (folder / "ours").mkdir(exist_ok=True)
                (folder / "theirs").mkdir(exist_ok=True)
                library.tokenizer_save(t, os.fsencode(folder / "ours"))
                theirs = learn(text, vocab)
                theirs.model.save(str(folder / "theirs"))
                same = all(f(folder / "ours") == f(folder / "theirs") for f in (
                    lambda d: (d / "merges.txt").read_bytes(),
                    lambda d: json.loads((d / "vocab.json").read_text(encoding="utf-8"))))
                check(same, f"{path.name}: {vocab} tokens learned, merges and vocabulary of tokenizers")
                sample = text[:200000]
                ids = Ours(library, folder / "ours").encode(sample.encode())
                check(ids == tokenizers_open(folder / "ours").encode(sample).ids,
                      f"{path.name}: tokenizers opens ours, {len(ids)} ids")
                check(ids == Ours(library, folder / "theirs").encode(sample.encode()),
                      f"{path.name}: we open theirs")
                (folder / "ours" / "config.json").write_text('{"model_type": "gpt2"}')
                auto = transformers.AutoTokenizer.from_pretrained(str(folder / "ours"))
                check(ids[:5000] == auto(sample[:100000])["input_ids"][:5000],
                      f"{path.name}: transformers' AutoTokenizer opens ours")


def saved(gpt2_folder, folder):
    """Makes transformers' own folder of GPT-2's tokenizer; returns the tokenizer."""
    with tempfile.TemporaryDirectory() as plain:
        for name in ("vocab.json", "merges.txt"):
            (Path(plain) / name).write_bytes((gpt2_folder / name).read_bytes())
        (Path(plain) / "config.json").write_text('{"model_type": "gpt2"}')
        auto = transformers.AutoTokenizer.from_pretrained(plain)
        auto.save_pretrained(str(folder))
    return auto


def compare_saved(arguments, library):
    """What transformers and tokenizers save for GPT-2, with tokens that were added, we open."""
    with tempfile.TemporaryDirectory() as folder:
        folder, rng = Path(folder), random.Random(arguments.seed + 1)
        auto = saved(arguments.gpt2, folder / "saved")
        auto.add_special_tokens({"pad_token": "<|pad|>", "additional_special_tokens": ["<|\u00e9 \u65e5|>"]})
        auto.add_tokens(["two words"])
        auto.save_pretrained(str(folder / "added"))
        tokenizers_open(arguments.gpt2).save(str(folder / "bare.json"))
        text = json.loads((folder / "bare.json").read_text(encoding="utf-8"))
        text["model"]["merges"] = [" ".join(pair) for pair in text["model"]["merges"]]  # as it was until 2024
        (folder / "older").mkdir()
        (folder / "older" / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
        for name in ("saved", "added", "older"):
            ours = Ours(library, folder / name)
            hf = Tokenizer.from_file(str(folder / name / "tokenizer.json"))
            files = " ".join(sorted(path.name for path in (folder / name).iterdir()))
            texts = [random_text(rng).replace("<|", "") for _ in range(1000)]
            wrong = sum(ours.encode(text.encode()) != hf.encode(text).ids for text in texts)
            check(wrong == 0, f"{name} ({files}): {wrong} of {len(texts)} random strings differ")
        marked = "a<|pad|>b <|\u00e9 \u65e5|>two words<|endoftext|>"
        ids = subprocess.run([arguments.program, "encode", "--special", "--model", folder / "added"],
                             input=marked.encode(), capture_output=True, check=True).stdout.split()
        check([int(i) for i in ids] == auto(marked)["input_ids"] and len(ids) == 7, "tokens that were added")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gpt2", type=Path, required=True, help="folder with GPT-2's merges.txt and vocab.json")
    parser.add_argument("--program", type=Path, default=ROOT / "build/tokenizer")
    parser.add_argument("--rounds", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("texts", nargs="*", type=Path)
    arguments = parser.parse_args()
    gpt2 = tiktoken_gpt2(arguments.gpt2)
    tables = tables_make(gpt2)
    for name, contents in tables.items():
        path = ROOT / "tests" / "reference" / name
        if arguments.write:
            path.write_bytes(contents.encode())
            print(f"{path}: {len(contents.encode())} bytes")
        else:
            check(path.read_bytes() == contents.encode(), f"tests/reference/{name} is what the others give today")
    if not arguments.write:
        print(f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}, "
              f"transformers {transformers.__version__}")
        with tempfile.TemporaryDirectory() as folder:
            library = library_build(folder)
            compare_live(arguments, gpt2, library)
            compare_saved(arguments, library)
            compare_models(library, [ROOT / "tests/reference/tokenizer_learn.txt"] + arguments.texts)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
