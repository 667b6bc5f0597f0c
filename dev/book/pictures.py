#!/usr/bin/env python3
"""The pictures of the book: pictures/*.svg, drawn from formulas and from the worked numbers of the chapters.

    python3 dev/book/pictures.py            draws them
    python3 dev/book/pictures.py --check    draws them again and compares with the files; status 1 if one differs

The result is the same every time.  Numbers come from the ```numbers blocks of doc/, which tests/test_book.c
computes with train.c, so a picture cannot contradict the program.  Colors are variables with other values in
dark mode; a picture on its own defines them itself, in the page of the book those of the page apply.
"""
import argparse
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(__file__).resolve().parent / "pictures"
LIGHT = {"paper": "#ffffff", "ink": "#1f2328", "faint": "#656d76", "line": "#d8dee4", "pic-1": "#2f6fb4",
         "pic-2": "#c2571a", "pic-3": "#3c7f4a", "pic-4": "#8250a8", "pic-fill": "#eef3f8"}
DARK = {"paper": "#14171c", "ink": "#dfe4ea", "faint": "#97a1ad", "line": "#343b45", "pic-1": "#74b3f0",
        "pic-2": "#f0a46b", "pic-3": "#86c795", "pic-4": "#c6a4e6", "pic-fill": "#222a34"}


def numbers(chapter):
    """{name: values} of the worked numbers of a chapter."""
    text, found = (ROOT / "doc" / f"{chapter}.md").read_text(encoding="utf-8"), {}
    for block in re.findall(r"^```numbers\n(.*?)^```", text, re.M | re.S):
        for line in block.strip().split("\n"):
            name, values = line.split(" = ")
            found[name.strip()] = [float(value) for value in values.split()]
    return found


def color(name):
    return f"var(--{name})" if name != "none" else "none"


class Drawing:
    def __init__(self, width, height, title):
        self.size, self.title, self.parts = (width, height), title, []

    def add(self, tag, content=None, **given):
        given = {key.rstrip("_").replace("_", "-"): f"{value:g}" if isinstance(value, float) else value
                 for key, value in given.items() if value is not None}
        for key in ("fill", "stroke"):
            if key in given:
                given[key] = color(given[key])
        text = "".join(f' {key}="{value}"' for key, value in given.items())
        self.parts.append(f"<{tag}{text}/>" if content is None else f"<{tag}{text}>{content}</{tag}>")

    def text(self, x, y, words, anchor="middle", fill="ink", size=13, **more):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.add("text", words, x=float(x), y=float(y), text_anchor=anchor, fill=fill, font_size=size, **more)

    def box(self, x, y, width, height, words="", fill="pic-fill", stroke="faint", ink="ink", size=13, **more):
        self.add("rect", x=float(x), y=float(y), width=float(width), height=float(height), fill=fill, stroke=stroke,
                 **more)
        if words:
            self.text(x + width / 2, y + height / 2 + size * .35, words, fill=ink, size=size)

    def line(self, *points, stroke="faint", arrow=False, width=1.5, **more):
        path = "M" + "L".join(f"{x:g},{y:g}" for x, y in points)
        self.add("path", d=path, fill="none", stroke=stroke, stroke_width=float(width), **more)
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            length = math.hypot(x - x0, y - y0)
            a, b = (x - x0) / length, (y - y0) / length
            tip = [(x, y), (x - 8 * a - 4 * b, y - 8 * b + 4 * a), (x - 8 * a + 4 * b, y - 8 * b - 4 * a)]
            self.add("path", d="M" + "L".join(f"{p:g},{q:g}" for p, q in tip) + "Z", fill=stroke)

    def svg(self):
        width, height = self.size
        light, dark = (";".join(f"--{key}:{value}" for key, value in colors.items()) for colors in (LIGHT, DARK))
        style = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" role="img" font-family="Helvetica, Arial, Liberation Sans, sans-serif">'
                f"<title>{self.title}</title>\n{style}\n"
                f'<rect width="{width}" height="{height}" fill="var(--paper)"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def model():
    """The model: a stream to which two kinds of branches add, with the shape at each arrow."""
    d = Drawing(640, 760, "The model: a stream, and what each block adds to it")
    x, half = 150, 75

    def step(y, words, shape, where):
        d.box(x - half, y, 2 * half, 28, words, rx=5)
        d.text(x + half + 12, y + 18, where, "start", "faint", 12)
        d.text(x - 10, y + 44, shape, "end", "faint", 12)

    step(10, "tokens", "(B,T)", "batch_read")
    d.line((x, 38), (x, 62), arrow=True)
    step(62, "wte[token] + wpe[t]", "(B,T,C)", "gpt_embed")
    d.line((x, 90), (x, 590), arrow=True, width=3, stroke="pic-1")
    d.box(40, 118, 570, 448, fill="none", stroke="faint", stroke_dasharray="5 4", rx=8)
    d.text(600, 138, "block l, L times: gpt_block_forward", "end", "faint", 12)
    rows = ((152, (("norm", "(B,T,C)", "layernorm_forward"), ("q, k, v", "(B,T,3C)", "matmul_forward"),
                   ("attention", "(B,T,C)", "attention_forward"), ("projection", "(B,T,C)", "matmul_forward"))),
            (364, (("norm", "(B,T,C)", "layernorm_forward"), ("wide", "(B,T,4C)", "matmul_forward"),
                   ("GELU", "(B,T,4C)", "gelu_forward"), ("back to C", "(B,T,C)", "matmul_forward"))))
    for top, branch in rows:
        d.line((x, top - 4), (310, top - 4), (310, top + 6), arrow=True)
        for i, (words, shape, where) in enumerate(branch):
            y = top + 6 + 44 * i
            accent = "pic-2" if words == "attention" else "faint"
            d.box(250, y, 120, 26, words, rx=5, stroke=accent, stroke_width=2.0 if accent != "faint" else 1.0)
            d.text(384, y + 18, where, "start", "faint", 12)
            d.line((310, y + 26), (310, y + 50) if i < 3 else (310, y + 48), arrow=i < 3)
            d.text(302, y + 40, shape, "end", "faint", 11)
        y = top + 6 + 44 * 3 + 48
        d.line((310, y), (x + 13, y), arrow=True)
        d.add("circle", cx=float(x), cy=float(y), r=12.0, fill="paper", stroke="pic-1", stroke_width=2.0)
        d.text(x, y + 5, "+", size=16)
        d.text(x - 20, y + 4, "residual_forward", "end", "faint", 11)
    step(590, "norm", "(B,T,C)", "gpt_final_norm")
    d.line((x, 618), (x, 642), arrow=True)
    step(642, "times wte transposed", "(B,T,V)", "gpt_logits: the embedding, a second time")
    d.line((x, 670), (x, 694), arrow=True)
    step(694, "cross-entropy", "(B,T) losses", "gpt_head_forward, with the targets")
    return d


def tile():
    """The register tile between a strip of A and a panel of B."""
    d = Drawing(700, 300, "One tile of the matrix product")
    cell, k_at = 12, 5
    left, top = 20, 110
    d.text(left + 84, top - 12, "a packed strip of A: 14 rows")
    d.box(left, top, 14 * cell, 14 * cell, rx=2)
    d.box(left + k_at * cell, top, cell, 14 * cell, fill="pic-1", stroke="none", fill_opacity=.6)
    d.text(left + (k_at + .5) * cell, top + 14 * cell + 16, "k")
    right = 350
    d.text(right + 120, 20, "a packed panel of B: DEPTH rows of 2 vectors")
    for i in range(6):
        y = 30 + i * cell
        for j in range(2):
            fill = "pic-2" if i == 3 else "pic-fill"
            d.box(right + j * 120, y, 120, cell, fill=fill, fill_opacity=.6 if i == 3 else 1.0)
    d.text(right - 8, 30 + 3.9 * cell, "k", "end")
    d.text(right + 252, 30 + 3.9 * cell, "2 loads", "start", "faint", 12)
    for i in range(14):
        for j in range(2):
            d.box(right + j * 120, top + i * cell, 120, cell, fill="pic-3", fill_opacity=.35)
    d.text(right + 252, top + 80, "28 sums", "start")
    d.text(right + 252, top + 96, "that never leave", "start", "faint", 12)
    d.text(right + 252, top + 110, "the registers", "start", "faint", 12)
    d.line((left + (k_at + 1) * cell, top + 90), (right - 6, top + 90), arrow=True, stroke="pic-1")
    d.text((left + 14 * cell + right) / 2, top + 82, "14 loads, each broadcast", fill="faint", size=12)
    d.text((left + 14 * cell + right) / 2, top + 106, "to all elements of a vector", fill="faint", size=12)
    d.text(350, 295, "for each k: 16 loads, 28 multiply-adds on vectors of 16 floats", size=13)
    return d


def attention():
    """Which blocks of the scores are computed: blocks of 64 queries and 64 keys."""
    d = Drawing(640, 330, "Blocks of attention's scores")
    T, block, left, top = 256, 64, 90, 50
    counted = 0
    for t0 in range(0, T, block):
        for s0 in range(0, T, block):
            visited, edge = s0 <= t0, s0 == t0
            counted += visited
            d.box(left + t0, top + s0, block, block, fill="pic-1" if visited else "none",
                  stroke="paper" if visited else "line", fill_opacity=.35 if edge else .75)
    d.line((left, top), (left + T, top + T), stroke="pic-2", width=2)
    d.text(left + T / 2, 22, f"query t: blocks of {block}")
    d.text(left + T / 2, 40, "each block goes down its keys", fill="faint", size=12)
    for s0 in range(0, T, block):
        d.text(left - 8, top + s0 + 36, f"keys {s0}..", "end", "faint", 12)
    x = left + T + 30
    for y, words, opacity, fill in ((70, "computed", .75, "pic-1"), (100, "on the diagonal: shares of the", .35, "pic-1"),
                                    (145, "never computed", 1.0, "none")):
        d.box(x, y, 18, 18, fill=fill, stroke="line", fill_opacity=opacity)
        d.text(x + 28, y + 14, words, "start")
    d.text(x + 28, 130, "future are 0", "start")
    d.line((x, 190), (x + 18, 190), stroke="pic-2", width=2)
    d.text(x + 28, 194, "s = t", "start")
    d.text(x, 240, f"T = {T}: {counted} of {(T // block) ** 2} blocks", "start")
    d.text(x, 262, f"a block: {block} x {block} floats, {4 * block * block // 1024} KB", "start", "faint", 12)
    d.text(x, 280, "stored for each query: lse, one float", "start", "faint", 12)
    return d


def schedule(kind, step, lr=1.0, low=.1, warmup=2, steps=12, cooldown=4):
    """learning_rate() of train.c."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    start = steps - cooldown if kind == "trapezoid" else warmup
    if kind == "constant" or step < start:
        return lr
    p = (step - start) / (steps - start)
    return low + (lr - low) * .5 * (1 + math.cos(math.pi * p)) if kind == "cosine" else lr + (low - lr) * p


def schedules():
    d = Drawing(640, 300, "Four learning-rate schedules")
    worked = numbers("optimizer")
    kinds = ("constant", "trapezoid", "cosine", "linear")
    for kind in kinds:  # the formula here is that of the chapter, which is that of train.c
        for step, rate in enumerate(worked[f"schedule.{kind}"]):
            if abs(schedule(kind, step) - rate) > 6e-5:
                sys.exit(f"schedules: {kind} at step {step} is {rate} in doc/optimizer.md")
    steps, left, top, width, height = 1000, 60, 20, 440, 230
    for value, label in ((0, "0"), (.1, "min_lr"), (1, "lr")):
        y = top + height * (1 - value)
        d.line((left, y), (left + width, y), stroke="line", width=1)
        d.text(left - 8, y + 4, label, "end", "faint", 12)
    d.text(left + width / 2, top + height + 34, "step")
    for step, label in ((0, "0"), (100, "warmup"), (800, "steps - cooldown"), (1000, "steps")):
        d.text(left + width * step / steps, top + height + 16, label, fill="faint", size=12)
    for i, kind in enumerate(kinds):
        points = [(left + width * step / steps,
                   round(top + height * (1 - schedule(kind, step, 1, .1, 100, steps, 200)), 1))
                  for step in list(range(0, steps, 20)) + [799, 800, 999]]
        points.sort()
        dash = (None, "7 4", None, "2 4")[i]
        d.line(*points, stroke=f"pic-{i + 1}", width=2, stroke_dasharray=dash)
        y = 60 + 24 * i
        d.line((left + width + 20, y), (left + width + 48, y), stroke=f"pic-{i + 1}", width=2, stroke_dasharray=dash)
        d.text(left + width + 56, y + 4, kind, "start")
    return d


def merges():
    """How merges learned from low, lower, newest and widest encode `lowest`."""
    text = "low " * 5 + "lower " * 2 + "newest " * 6 + "widest " * 3
    words = [list(word) for word in text.split()]
    ranks = []
    while len(ranks) < 4:  # GPT-2's order of bytes is that of ASCII for letters; of equal counts, the smaller pair
        counts = {}
        for word in words:
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + 1
        order = [chr(c) for c in range(33, 127)] + ["".join(pair) for pair in ranks]
        best = min(counts, key=lambda pair: (-counts[pair], order.index(pair[0]), order.index(pair[1])))
        ranks.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i:i + 2] = ["".join(best)]
                i += 1
    glossary = (ROOT / "doc" / "glossary.md").read_text(encoding="utf-8")
    for i, (a, b) in enumerate(ranks):
        if f"merge {i}: {a} {b} -> {a}{b}, " not in glossary:
            sys.exit(f"merges: the glossary does not show merge {i} as {a} {b}")
    d = Drawing(640, 260, "The merges that build the word lowest")
    pieces = [(letter, 110 + 84 * i, 200) for i, letter in enumerate("lowest")]
    for letter, x, y in pieces:
        d.box(x - 20, y, 40, 30, letter, rx=4, size=15)
    level = 200
    for rank, (a, b) in enumerate(ranks):
        i = next((i for i in range(len(pieces) - 1) if (pieces[i][0], pieces[i + 1][0]) == (a, b)), None)
        if i is None:
            continue
        level -= 44
        x = (pieces[i][1] + pieces[i + 1][1]) / 2
        for _, from_x, from_y in pieces[i:i + 2]:
            d.line((from_x, from_y), (x, level + 30), stroke="faint")
        d.box(x - 28, level, 56, 30, a + b, rx=4, size=15, stroke="pic-1", stroke_width=2.0)
        d.text(x - 36, level + 20, f"merge {rank}", "end", "faint", 12)
        pieces[i:i + 2] = [(a + b, x, level)]
    d.text(20, 220, "bytes", "start", "faint", 12)
    d.text(320, 252, "the tokens of lowest: " + " and ".join(word for word, _, _ in pieces), size=13)
    return d


def memory():
    worked = numbers("memory")
    d = Drawing(640, 250, "Memory of three models during training")
    names = ("weights", "gradients", "Adam's two moments", "activations")
    left, width = 70, 540
    for row, model_name in enumerate(("nano", "baby", "gpt2")):
        bars = worked[f"memory.{model_name}.bars"]
        total, x, y = sum(bars), float(left), 50 + 58 * row
        d.text(left - 10, y + 21, model_name, "end")
        for i, bar in enumerate(bars):
            length = width * bar / total
            d.box(x, y, length, 32, fill=f"pic-{i + 1}", stroke="paper", fill_opacity=.75)
            if length > 46:
                d.text(x + length / 2, y + 21, f"{bar:g}", size=12)
            x += length
        d.text(left + width, y + 48, f"{total:.1f} MB in all", "end", "faint", 12)
    for i, name in enumerate(names):
        x = (70, 170, 280, 450)[i]
        d.box(x, 15, 14, 14, fill=f"pic-{i + 1}", stroke="none", fill_opacity=.75)
        d.text(x + 20, 27, name, "start", size=12)
    d.text(left, 242, "MB; each bar is scaled to the total of its model", "start", "faint", 12)
    return d


def ring():
    """Three processes; what each holds after every step."""
    d = Drawing(640, 330, "Ring all-reduce of three processes")
    held = [[1, 2, 3], [10, 20, 30], [100, 200, 300]]
    n, worked = 3, numbers("many-machines")
    for p in range(n):
        d.text(180 + 180 * p, 22, f"process {p}")
    labels = ("at the start", "reduce-scatter 1", "reduce-scatter 2", "all-gather 1", "all-gather 2")
    for step in range(5):
        y = 36 + 60 * step
        d.text(8, y + 20, labels[step], "start", "faint", 12)
        for p in range(n):
            for part in range(n):
                whole = held[p][part] == (111, 222, 333)[part]
                d.box(120 + 180 * p + 40 * part, y, 40, 28, str(held[p][part]), size=12,
                      fill="pic-3" if whole else "pic-fill", fill_opacity=.45 if whole else 1.0)
        if step == 2:
            for p in range(n):
                if held[p] != worked[f"ring.process_{p}"]:
                    sys.exit(f"ring: process {p} has {held[p]}, the chapter something else")
        if step == 4:
            break
        moving = [(p, (p - step) % n, held[p][(p - step) % n]) for p in range(n)]
        for p, part, value in moving:
            to = (p + 1) % n
            x0, x1 = 140 + 180 * p + 40 * part, 140 + 180 * to + 40 * part
            d.line((x0, y + 28), (x1, y + 60), arrow=True, stroke="pic-2" if step < n - 1 else "pic-1", width=1.3)
            held[to][part] = held[to][part] + value if step < n - 1 else value
    return d


def pipeline():
    """Four stages, six micro-batches; a backward pass takes twice as long as a forward one."""
    p, m, unit = 4, 6, 21
    d = Drawing(640, 200, "A pipeline: forward, then backward")
    ready, free, left = [0] * m, [0] * p, 60
    for kind in (0, 1):
        for i in range(p):
            stage = p - 1 - i if kind else i
            for b in range(m):
                start = max(ready[b], free[stage])
                length = 2 if kind else 1
                ready[b] = free[stage] = start + length
                d.box(left + unit * start, 20 + 34 * stage, unit * length, 28, str(b + 1), size=12,
                      fill="pic-2" if kind else "pic-1", fill_opacity=.55, stroke="paper")
    end = max(free)
    for stage in range(p):
        d.text(left - 8, 38 + 34 * stage, f"stage {stage + 1}", "end", size=12)
    d.line((left, 166), (left + unit * end, 166), arrow=True)
    d.text(left + unit * end, 184, "time", "end", "faint", 12)
    idle = 1 - 3 * m / end
    if abs(idle - (p - 1) / (m + p - 1)) > 1e-9:
        sys.exit("pipeline: the idle share is not that of the formula")
    d.text(left, 190, f"idle: {100 * idle:.0f}% = (4 - 1)/(6 + 4 - 1)", "start", size=13)
    return d


PICTURES = {"model": model, "tile": tile, "attention": attention, "schedules": schedules, "merges": merges,
            "memory": memory, "ring": ring, "pipeline": pipeline}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check, wrong = parser.parse_args().check, 0
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        path, text = FOLDER / f"{name}.svg", draw().svg()
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {len(text)} bytes")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"FAIL  {path.relative_to(ROOT)} is not what dev/book/pictures.py draws")
            wrong += 1
        else:
            print(f"ok    {path.relative_to(ROOT)}")
    extra = {path.stem for path in FOLDER.glob("*.svg")} - set(PICTURES)
    if extra:
        print(f"FAIL  no function draws: {sorted(extra)}")
    return 1 if wrong or extra else 0


if __name__ == "__main__":
    sys.exit(main())
