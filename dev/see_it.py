#!/usr/bin/env python3
"""Runs the commands that the book shows and checks what they print.

    make && python3 dev/see_it.py               every command of the documents below
    python3 dev/see_it.py --only "Perplexity"   one entry (may be given several times)
    python3 dev/see_it.py --update              also writes what is printed into them
    python3 dev/see_it.py --limit 600           seconds for a command, on a machine that is busy

The documents are the glossary and the chapters of DOCUMENTS.  An entry, under a heading, shows a
command in a ```sh block, some lines of what it prints in a ```text block, and mostly a claim in
an ```expect block.  Three things are checked:

  - The command ends with status 0 within three minutes (or --limit).
  - Every line of the ```text block was printed, in that order.  A number in it stands for any
    number, because times and losses differ between machines (but `step 60` at the beginning of
    a line is that step); `...` stands for lines left out.
  - Every line of the ```expect block: `holds EXPRESSION` must be true; any other line must be
    found in what was printed, after the position of the line before it.  In it,
    {name} stands for a number, and the expressions may use that name; {_} is any number.

Blanks count as one blank everywhere.  The first command of the glossary makes the model that
some entries use; it is always run.  Needs a built ./train and ./tokenizer and Python's standard
library.
"""
import argparse
import math
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "doc" / f"{name}.md" for name in ("glossary", "reading", "memory", "attention",
                                                     "checkpoints", "hardware", "many-machines")]
LIMIT = 180  # seconds: most take less than a minute, slow machines more
NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
NAMES = {name: getattr(math, name) for name in ("exp", "log", "sqrt", "pi", "inf")}
NAMES.update(abs=abs, max=max, min=min)


def blocks(lines):
    """(language, first line, end line, indent) of every fenced block."""
    found, at = [], 0
    while at < len(lines):
        fence = re.match(r"( *)```(\w*)\s*$", lines[at])
        if not fence:
            at += 1
            continue
        end = at + 1
        while lines[end].strip() != "```":
            end += 1
        found.append((fence[2], at + 1, end, len(fence[1])))
        at = end + 1
    return found


def line_pattern(line):
    """A shown line as a regular expression: numbers stand for any number, blanks for
    blanks; only the step at the beginning of a progress line must be that very step."""
    step, rest = re.match(r"((?:step [\d/]+)?)(.*)", " ".join(line.split())).groups()
    parts = re.split(f"({NUMBER})", rest)
    text = re.escape(step) + "".join(NUMBER if i % 2 else re.escape(part)
                                     for i, part in enumerate(parts))
    return re.compile(r"\s*" + text.replace(r"\ ", r"\s+") + r"\s*$")


def expect_pattern(line):
    parts = re.split(r"\{(\w+)\}", " ".join(line.split()))
    text = "".join(re.escape(part).replace(r"\ ", r"\s+") if i % 2 == 0 else
                   NUMBER if part == "_" else f"(?P<{part}>{NUMBER})"
                   for i, part in enumerate(parts))
    return re.compile(text)


def check_text(shown, output, indent):
    """Problems, and the lines as they should be shown now."""
    problems, now, at = [], [], 0
    for line in shown:
        if not line.strip() or line.strip() == "...":
            now.append(line)
            continue
        pattern, found = line_pattern(line), at
        while found < len(output) and not pattern.match(output[found]):
            found += 1
        if found == len(output):
            problems.append(f"not printed (or not here): {line.strip()}")
            now.append(line)
        else:
            now.append(" " * indent + output[found].rstrip())
            at = found + 1
    return problems, now


def check_expect(lines, output):
    problems, values, at = [], {}, 0
    for line in (line.strip() for line in lines):
        if line.startswith("holds "):
            try:
                if not eval(line[6:], {"__builtins__": {}}, {**NAMES, **values}):
                    shown = ", ".join(f"{name} = {value:g}" for name, value in values.items())
                    problems.append(f"does not hold: {line[6:]}   with {shown}")
            except NameError as error:
                problems.append(f"{line}: {error}")
        elif line:
            match = expect_pattern(line).search(output, at)
            if not match:
                problems.append(f"not found: {line}")
                continue
            at = match.end()
            values.update((name, float(text)) for name, text in match.groupdict().items())
    return problems


def run(command, limit):
    start = time.monotonic()
    try:
        done = subprocess.run(["sh", "-ec", command], cwd=ROOT, timeout=limit, text=True,
                              errors="replace", stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
        return "", f"took longer than {limit} s", limit
    status = done.returncode
    problem = f"ended with status {status}" if status else ""
    return done.stdout, problem, time.monotonic() - start


def entries_of(lines, name):
    """The commands of a document, each with the blocks that follow it."""
    starts = {i: line.lstrip("#").strip() for i, line in enumerate(lines) if re.match("#+ ", line)}
    entries = []
    for language, first, end, indent in blocks(lines):
        term = next(starts[i] for i in sorted(starts, reverse=True) if i < first)
        if language == "sh":
            entries.append({"term": term, "command": (first, end),
                            "text": None, "expect": None})
        elif language in ("text", "expect"):
            if not entries or entries[-1]["term"] != term or entries[-1][language]:
                sys.exit(f"{name}:{first}: a ```{language} block without its command")
            entries[-1][language] = (first, end, indent)
    return entries


def document_run(path, options):
    """Runs the commands of a document; returns how many passed and failed."""
    lines = path.read_text(encoding="utf-8").split("\n")
    passed, failed, replace = 0, 0, []
    for number, entry in enumerate(entries_of(lines, path.name)):
        first_model = path == DOCUMENTS[0] and number == 0
        if options.only and not first_model and entry["term"] not in options.only:
            continue
        first, end = entry["command"]
        output, problem, seconds = run("\n".join(line.strip() for line in lines[first:end]),
                                       options.limit)
        problems = [problem] if problem else []
        if entry["text"]:
            first, end, indent = entry["text"]
            found, now = check_text(lines[first:end], output.split("\n"), indent)
            problems += found
            replace.append((first, end, now))
        if entry["expect"]:
            first, end, _ = entry["expect"]
            problems += check_expect(lines[first:end], output)
        if not entry["text"] and not entry["expect"]:
            problems.append("the document shows nothing of what it prints")
        verdict = "FAIL" if problems else "ok  "
        print(f"{verdict}  {entry['term']}  ({seconds:.1f} s)", flush=True)
        for text in problems:
            print(f"      {text}")
        if problem:
            print("\n".join("      | " + line for line in output.split("\n")[-6:]))
        passed, failed = passed + (not problems), failed + bool(problems)
    if options.update:
        for first, end, now in reversed(replace):
            lines[first:end] = now
        path.write_text("\n".join(lines), encoding="utf-8")
    return passed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="TERM", default=[])
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="SECONDS")
    options = parser.parse_args()
    terms = {entry["term"] for path in DOCUMENTS
             for entry in entries_of(path.read_text(encoding="utf-8").split("\n"), path.name)}
    if not set(options.only) <= terms:
        sys.exit("no such entry, or it has no command: " + ", ".join(set(options.only) - terms))
    results = [document_run(path, options) for path in DOCUMENTS]
    passed, failed = (sum(counts) for counts in zip(*results))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
