"""train.c and tokenizer.c as HTML: a line number and an anchor on each line, simple highlighting, and
links from names to where they are defined.

    #train-300         line 300 of train.c
    #train-s4          its section 4
    #fn-gpt_forward    the function of that name (#fn-tokenizer-main where train.c has one too)
    #opt-lr            --lr in train.c's table of options
"""
import bisect
import html
import re

KEYWORDS = set("""auto break case const continue default do else enum extern for goto if inline register return
sizeof static struct switch typedef union volatile while _Thread_local _Static_assert""".split())
TYPES = set("""void char short int long float double signed unsigned bool size_t ssize_t int8_t int32_t int64_t
uint8_t uint16_t uint32_t uint64_t FILE""".split())
TOKEN = re.compile(r"""
    (?P<comment>/\*.*?\*/|//[^\n]*)
  | (?P<directive>^[ ]*\#(?:[^\n/]|/(?!\*)|\\\n)*)
  | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
  | (?P<number>\b(?:0x[0-9a-fA-F]+(?:p[-+]?\d+)?|\d+\.?\d*(?:[eE][-+]?\d+)?)[uUlLfF]*\b)
  | (?P<word>[A-Za-z_]\w*)
""", re.X | re.S | re.M)


def escape(text):
    return html.escape(text, quote=False)


class Source:
    """A C file: the positions of its sections, functions, options and glossary tags."""

    def __init__(self, path, stem):
        self.stem = stem  # of its anchors
        self.name = path.name
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)
        self.sections = self.find_sections()
        self.functions = self.find_functions()
        self.tags = []  # (name as written, first offset, end), in the order of the text
        self.options = {}
        table = self.text.find(" OPTIONS[] = {")
        for row in re.finditer(r'^    [A-Z]+\((\w+), "[a-z]+"', self.text, re.M):
            if 0 <= table < row.start():
                self.options[row[1].replace("_", "-")] = self.line_of(row.start())

    def line_of(self, offset):  # counts from 1
        return bisect.bisect_right(self.starts, offset)

    def find_sections(self):
        """[(number, title, first line)]; the opening essay is section 1 of train.c."""
        found = []
        for banner in re.finditer(r"^/\* =+\n \* (\d+)\. ([^\n\[]+)", self.text, re.M):
            found.append((int(banner[1]), banner[2].strip(), self.line_of(banner.start())))
        if found[0][0] == 2:
            found.insert(0, (1, "This page", 1))
        elif found[0][2] > 1:
            found.insert(0, (0, "What this file is", 1))
        return found

    def find_functions(self):
        """{name: (line of its comment, line of its definition, last line)}"""
        found = {}
        for start in re.finditer(r"^(?=[A-Za-z])(?!typedef|enum|struct \w+ \{)[^;={}#\n]*?\b(\w+)\(", self.text,
                                 re.M):
            # An attribute has brackets of its own before the name.
            at, depth, name = start.end() - 1, 0, start[1]
            if name == "__attribute__":
                real = re.compile(r"\)\)\s+(?:[\w\s*]*?)\b(\w+)\(").search(self.text, at)
                at, name = real.end() - 1, real[1]
            while True:
                depth += {"(": 1, ")": -1}.get(self.text[at], 0)
                at += 1
                if depth == 0:
                    break
            if not re.compile(r"\s*\{").match(self.text, at):
                continue
            first, brace = self.line_of(start.start()), self.text.index("{", at)
            one_line = self.lines[self.line_of(brace) - 1].rstrip().endswith("}")
            last = self.line_of(brace if one_line else self.text.index("\n}", brace) + 1)
            comment = first
            if self.lines[first - 2].rstrip().endswith("*/"):
                comment -= 1
                while not self.lines[comment - 1].lstrip().startswith("/*"):
                    comment -= 1
            found.setdefault(name, (comment, first, last))
        return found

    def anchor(self, function, links):
        """The anchor of a function as this file sees it: its own before the other's."""
        mine = function in self.functions and links.functions[function][0] is not self
        return f"fn-{self.stem}-{function}" if mine else f"fn-{function}"

    def find_tags(self, resolve):
        """resolve(name) is the anchor of a term, or None: a term may have a comma in its name."""
        for tag in re.finditer(r"\[glossary: ([^\]]*)\]", self.text):
            at, end = tag.start(1), tag.end(1)
            while at < end:
                stops = [m.start() for m in re.finditer(",", self.text[at:end])] + [end - at]
                for stop in reversed(stops):  # the longest name that is a term
                    raw = self.text[at:at + stop]
                    name = re.sub(r"\s*\n\s*\*?\s*", " ", raw).strip()
                    if resolve(name):
                        break
                else:
                    raise SystemExit(f"{self.name}:{self.line_of(at)}: no term in '{self.text[at:end]}'")
                lead = len(raw) - len(re.sub(r"^[\s*]+", "", raw))
                self.tags.append((name, at + lead, at + len(raw)))
                at += stop + 1

    def overlays(self, links):
        """(start, end, href, class) of everything inside comments that leads somewhere."""
        found = [(start, end, "#" + links.term(name), "term") for name, start, end in self.tags]
        for comment in re.finditer(r"/\*.*?\*/", self.text, re.S):
            inside, offset = comment[0], comment.start()
            for m in re.finditer(r"doc/(\w[\w-]*)\.md", inside):
                if links.chapter(m[1]):
                    found.append((offset + m.start(), offset + m.end(), "#" + links.chapter(m[1]), "chapter"))
            for m in re.finditer(r"\b([a-z]\w+_\w+)\b", inside):
                if m[1] in links.functions:
                    found.append((offset + m.start(), offset + m.end(), "#fn-" + m[1], "f"))
            if offset == 0 and self.stem == "train":  # the index and the list of the first page
                for m in re.finditer(r"\((\d+)(?:, (\d+))?\)$|^ \* +(\d+)\. ", inside, re.M):
                    for g in (1, 2, 3):
                        if m[g]:
                            found.append((m.start(g), m.end(g), f"#train-s{m[g]}", "chapter"))
        found.sort()
        clean, end = [], 0
        for row in found:
            if row[0] >= end:
                clean.append(row)
                end = row[1]
        return clean

    def highlight(self, links):
        """HTML of each line."""
        spans = []  # (start, end, open, close), in order, covering what is not plain
        overlays = self.overlays(links)
        for token in TOKEN.finditer(self.text):
            kind, (start, end), word = token.lastgroup, token.span(), token[0]
            if kind == "word":
                called = self.text[end:end + 1] == "("
                if word in KEYWORDS:
                    spans.append((start, end, '<b class="k">', "</b>"))
                elif word in TYPES:
                    spans.append((start, end, '<b class="t">', "</b>"))
                elif word in links.functions and (called or word in self.functions):
                    here = word in self.functions and self.line_of(start) == self.functions[word][1]
                    spans.append((start, end, f'<a class="{"d" if here else "f"}" href="#{self.anchor(word, links)}">',
                                  "</a>"))
                continue
            mark = {"comment": "c", "directive": "p", "string": "s", "number": "n"}[kind]
            at = start
            for left, right, href, name in overlays:
                if left < start or right > end:
                    continue
                spans.append((at, left, f'<i class="{mark}">', "</i>"))
                spans.append((left, right, f'<a class="{name}" href="{href}">', "</a>"))
                at = right
            spans.append((at, end, f'<i class="{mark}">', "</i>"))
        rows, row, at = [], [], 0

        def put(text, opening="", closing=""):
            for i, piece in enumerate(text.split("\n")):
                if i:
                    rows.append("".join(row))
                    row.clear()
                    lead = re.match(r"\s*\*?\s*", piece)[0] if "term" in opening else ""
                    row.append(lead)
                    piece = piece[len(lead):]
                if piece:
                    row.append(opening + escape(piece) + closing)

        for start, end, opening, closing in spans:
            put(self.text[at:start])
            put(self.text[start:end], opening, closing)
            at = end
        put(self.text[at:])
        if row:
            rows.append("".join(row))
        return rows[:len(self.lines)]
