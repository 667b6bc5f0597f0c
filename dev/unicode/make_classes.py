#!/usr/bin/env python3
"""Writes the tables of letters, numbers and white space that tokenizer.c cuts texts by.

    python3 dev/unicode/make_classes.py            prints the C text of the tables
    python3 dev/unicode/make_classes.py --check    exit status 1 if tokenizer.c holds another text

The tables follow Unicode 16.0: letters are the general categories L*, numbers N*, white space is
the property White_Space, which is Z* and the controls U+0009 to U+000D and U+0085.  The database
comes from the package unicodedata2, because the one inside Python has the age of that Python.
"""
import sys
from pathlib import Path

import unicodedata2

TABLES = [("letter_runs", "letters", lambda c, kind: kind[0] == "L"),
          ("number_runs", "numbers", lambda c, kind: kind[0] == "N"),
          ("white_runs", "white space",
           lambda c, kind: kind[0] == "Z" or 0x09 <= c <= 0x0D or c == 0x85)]


def runs_of(belongs):
    """The class as numbers in turn: so many code points outside it, so many inside."""
    numbers, inside, start, members = [], False, 0, 0
    for c in range(0x110000):
        now = belongs(c, unicodedata2.category(chr(c)))
        members += now
        if now != inside:
            numbers.append(c - start)
            inside, start = now, c
    assert not inside and len(numbers) % 2 == 0
    return numbers, members


def base26(number):
    """Its digits: capital letters, and a small one for the last."""
    text = chr(97 + number % 26)
    while number >= 26:
        number //= 26
        text = chr(65 + number % 26) + text
    return text


def numbers_wrap(numbers):
    text = "".join(map(base26, numbers))
    return "\n".join(f'    "{text[i:i + 88]}"' for i in range(0, len(text), 88))


def tables_text():
    parts = []
    for name, title, belongs in TABLES:
        numbers, members = runs_of(belongs)
        parts.append(f"/* {title}: {len(numbers) // 2} ranges, {members:,} code points */\n"
                     f"static const char {name}[] =\n" + numbers_wrap(numbers) + ";\n")
    return "".join(parts)


def main():
    assert unicodedata2.unidata_version == "16.0.0", unicodedata2.unidata_version
    text = tables_text()
    if sys.argv[1:] == ["--check"]:
        source = Path(__file__).resolve().parents[2] / "tokenizer.c"
        if text not in source.read_text(encoding="ascii"):
            sys.exit(f"{source}: the tables are not those of Unicode {unicodedata2.unidata_version}")
        print("the tables in tokenizer.c are those of Unicode", unicodedata2.unidata_version)
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
