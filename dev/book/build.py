#!/usr/bin/env python3
"""The book as one HTML page: doc/ next to the annotated sources; nothing is fetched from the network.

    make book                       writes build/book/index.html
    python3 dev/book/build.py --out FILE

doc/README.md says which chapters there are and in what order.  pandoc turns Markdown into HTML and formulas into
MathML; everything else is done here: anchors, links between terms, chapters and lines of code, the lines of code
shown with each term, the index of the search box.  Needs pandoc and Python's standard library.
"""
import argparse
import base64
import html
import json
import re
import subprocess
import sys
from pathlib import Path

from source import Source, escape

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DOC = ROOT / "doc"
PANDOC = ["pandoc", "-f", "gfm+tex_math_dollars", "-t", "html5", "--mathml", "--no-highlight", "--wrap=preserve"]


class Links:
    """Everything that can be linked to, and its anchor."""

    def __init__(self):
        self.terms, self.chapters, self.functions, self.options = {}, {}, {}, {}

    def term(self, name):
        """The anchor of a term, named in full or without the part in parentheses."""
        return self.terms.get(name) or next((slug for full, slug in self.terms.items()
                                             if full.split(" (")[0] == name), None)

    def chapter(self, stem):
        return self.chapters.get(stem)


def slug_of(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def plain(text):
    return html.unescape(re.sub(r"<[^>]+>", "", text)).strip()


def chapter_order():
    """[(stem, group)] in the order of doc/README.md; chapters not listed there (an error for check.py) come last."""
    order, group = [], ""
    for line in (DOC / "README.md").read_text(encoding="utf-8").split("\n"):
        if line.startswith("## "):
            group = line[3:]
        for stem in re.findall(r"^- \[[^\]]+\]\(([\w-]+)\.md\)", line):
            order.append((stem, group))
    there = {path.stem for path in DOC.glob("*.md")} - {"README"} - {stem for stem, _ in order}
    return order + [(stem, group) for stem in sorted(there)]


def picture(path):
    """An SVG as part of the page.  Those that pictures.py draws take the colors of the page; one from elsewhere, whose
    styles and ids could collide with the page's, is embedded as an image."""
    svg = path.read_text(encoding="utf-8")
    if "<style>:root" not in svg:
        data = base64.b64encode(svg.encode()).decode()
        return f'<img alt="" src="data:image/svg+xml;base64,{data}">'
    svg = re.sub(r"<\?xml.*?\?>|<!--.*?-->", "", svg, flags=re.S)
    return re.sub(r"<style>:root.*?</style>", "", svg, flags=re.S).strip()


def anchor_of(stem, slug, links):
    if stem == "glossary" and slug in links.terms.values():
        return slug
    return f"{stem}--{slug}"


def pandoc(path):
    """A file as HTML.  A warning of pandoc, such as of a formula that it does not know, ends the program."""
    done = subprocess.run(PANDOC + ["--fail-if-warnings", str(path)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if done.returncode or done.stderr:
        sys.exit(f"{path}: {done.stderr.strip()}")
    return done.stdout


def chapter_html(stem, links):
    """A chapter, with the anchors and links of the page."""
    body = pandoc(DOC / f"{stem}.md")
    body = re.sub(r'<h([1-6]) id="([^"]*)">', lambda m: f'<h{m[1]} id="{anchor_of(stem, m[2], links)}">'
                  if m[1] != "1" else "<h1>", body)

    def link(m):
        target = html.unescape(m[1])
        if target.startswith("http"):
            return f'<a href="{m[1]}">'
        file, _, slug = target.partition("#")
        other = Path(file).stem if file else stem
        if file.startswith("../"):
            name = file[3:]
            sources = {"train.c": "#train-s1", "tokenizer.c": "#tokenizer-s1"}
            return f'<a href="{sources[name]}">' if name in sources else "<a>"
        return f'<a href="#{anchor_of(other, slug, links) if slug else links.chapters.get(other, "top")}">'

    body = re.sub(r'<a href="([^"]*)">', link, body)
    body = re.sub(r'<p><img src="([^"]+)" alt="([^"]*)" */></p>',
                  lambda m: f'<figure>{picture(DOC / m[1])}<figcaption>{m[2]}</figcaption></figure>', body)

    def code(m):
        text = html.unescape(m[1])
        function = re.fullmatch(r"(\w+)\(\)", text)
        option = re.fullmatch(r"--([\w-]+)", text)
        if function and function[1] in links.functions:
            return f'<a href="#fn-{function[1]}"><code>{m[1]}</code></a>'
        if option and option[1] in links.options:
            return f'<a href="#opt-{option[1]}"><code>{m[1]}</code></a>'
        return m[0]

    parts = re.split(r"(<pre.*?</pre>|<a [^>]*>.*?</a>)", body, flags=re.S)
    parts[::2] = [re.sub(r"<code>([^<]*)</code>", code, part) for part in parts[::2]]
    body = "".join(parts)
    body = re.sub(r'<pre class="expect">(.*?)</pre>', r'<details class="expect"><summary>what must be true of '
                  r'these numbers</summary><pre>\1</pre></details>', body, flags=re.S)
    body = re.sub(r"<table>.*?</table>", lambda m: f'<div class="table">{m[0]}</div>', body, flags=re.S)
    return body


def where_links(where):
    """Links in a Where part: "section N" is one of the file named last."""
    out, stem = [], "train"
    for piece in re.split(r"(train\.c|tokenizer\.c|section \d+(?!\.\d))", where):
        if piece in ("train.c", "tokenizer.c"):
            stem = piece[:-2]
            piece = f'<a href="#{stem}-s1">{piece}</a>'
        elif piece.startswith("section "):
            piece = f'<a href="#{stem}-s{piece[8:]}">{piece}</a>'
        out.append(piece)
    return "".join(out)


def excerpt(entry_name, where, sources, rows):
    """The lines of code of a term: a function that its Where names, preferably one under the term's tag."""
    named, stem = [], "train"
    for m in re.finditer(r"(train|tokenizer)\.c|#fn-(\w+)\"", where):
        stem = m[1] or stem
        if m[2]:
            named.append(m[2])
    places = [(source, name) for name in named for source in sources if name in source.functions]
    if not places:
        return "", None
    best = places[0]
    for source, name in reversed(places):
        comment, _, last = source.functions[name]
        for term, start, _ in source.tags:
            if (term == entry_name or term == entry_name.split(" (")[0]) and comment <= source.line_of(start) <= last:
                best = (source, name)
    source, name = best
    comment, first, last = source.functions[name]
    lines = [f'<a class="no" href="#{source.stem}-{n}">{n}</a>{rows[source.stem][n - 1]}'
             for n in range(first, last + 1)]
    more = "".join(f' <a href="#fn-{other}">{other}</a>' for other in dict.fromkeys(named) if other != name)
    head = f'<a href="#fn-{name}">{source.name}, lines {first} to {last}</a>'
    if more:
        head += f'<span class="more">also{more}</span>'
    return (f'<figure class="excerpt"><figcaption>{head}</figcaption><pre class="c" tabindex="0">'
            + "\n".join(lines) + "</pre></figure>"), (source.stem, comment, first, last)


def glossary_html(body, links, sources, rows, functions_of):
    """Each entry as a section, with its lines of code after its Where."""
    pieces = re.split(r'(?=<h[23] id=)', body)
    out = []
    for piece in pieces:
        heading = re.match(r'<h3 id="([^"]+)">(.*?)</h3>', piece, re.S)
        if not heading:
            out.append(piece)
            continue
        slug, name = heading[1], plain(heading[2])
        where = re.search(r"<li>(?:<p>)?<strong>Where:</strong>(.*?)(?:</p>)?\s*</li>", piece, re.S)
        for function in dict.fromkeys(re.findall(r'#fn-(\w+)"', where[1])):
            functions_of.setdefault(function, []).append((slug, name))
        code, lines = excerpt(name, where[1], sources, rows)
        piece = piece.replace(where[0], f'<li class="where"><strong>Where:</strong>{where_links(where[1])}{code}</li>')
        for label in ("See it", "Claim", "Source"):
            piece = re.sub(rf"<li>(?=(<p>)?<strong>{label}:)", f'<li class="{label.lower().replace(" ", "-")}">', piece)
        data = f' data-code="{",".join(map(str, lines))}"' if lines else ""
        piece = piece.replace(heading[0], f'<h3><a href="#{slug}">{heading[2]}</a></h3>')
        out.append(f'<section class="entry" id="{slug}"{data}>{piece}</section>\n')
    return "".join(out)


def source_html(source, rows, links, functions_of):
    """All lines of a file, by section; above a function, the terms that it implements."""
    at_line, strips = {}, {}
    for name, (comment, first, _) in source.functions.items():
        at_line[first] = f' id="{source.anchor(name, links)}"'
        if name in functions_of and links.functions[name][0] is source:
            chips = "".join(f'<a href="#{slug}">{escape(term)}</a>' for slug, term in functions_of[name])
            strips[comment] = f'<span class="terms">{chips}</span>'
    for name, line in source.options.items():
        at_line[line] = f' id="opt-{name}"'
    starts = [line for _, _, line in source.sections] + [len(source.lines) + 1]
    out = [f'<h2 class="file" id="{source.name}">{source.name}</h2>']
    for (number, title, first), end in zip(source.sections, starts[1:]):
        label = f"{number}. {title}" if number else title
        out.append(f'<section id="{source.stem}-s{number or 0}"><h3>{source.name} <span>{escape(label)}</span></h3>'
                   '<pre class="c">')
        for n in range(first, end):
            mark = f"<u{at_line[n]}></u>" if n in at_line else ""
            out.append(f'{strips.get(n, "")}<span class="l" id="{source.stem}-{n}">{mark}'
                       f'<a class="no" href="#{source.stem}-{n}">{n}</a>{rows[n - 1]}\n</span>')
        out.append("</pre></section>")
    return "".join(out)


def contents_html(order, bodies, titles, sources):
    """The list on the left: chapters with their parts, then the sections of the sources."""
    out, group = [], None
    for stem, chapter_group in order:
        if chapter_group != group:
            group = chapter_group
            out.append(f"<h2>{escape(group)}</h2>")
        parts = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', bodies[stem], re.S)
        inner = "".join(f'<li><a href="#{slug}">{plain(text)}</a></li>' for slug, text in parts)
        out.append(f'<details><summary><a href="#chapter-{stem}">{titles[stem]}</a></summary><ul>{inner}</ul></details>')
    out.append("<h2>The sources</h2>")
    for source in sources:
        inner = "".join(f'<li><a href="#{source.stem}-s{number}">{number or ""}{". " if number else ""}'
                        f'{escape(title)}</a></li>' for number, title, _ in source.sections)
        out.append(f'<details><summary><a href="#{source.name}">{source.name}</a></summary><ul>{inner}</ul></details>')
    return "".join(out)


def search_index(order, bodies, titles, links, sources):
    """[label, kind, anchor]: terms, headings, functions, options."""
    rows = [[name, "term", slug] for name, slug in links.terms.items()]
    for stem, _ in order:
        rows.append([titles[stem], "chapter", f"chapter-{stem}"])
        for slug, text in re.findall(r'<h[23] id="([^"]+)">(.*?)</h[23]>', bodies[stem], re.S):
            rows.append([plain(text), titles[stem], slug])
    rows += [[name + "()", source.name, "fn-" + name] for name, (source, _) in sorted(links.functions.items())]
    rows += [["--" + name, "option of train.c", "opt-" + name] for name in links.options]
    rows += [[f"section {number}: {title}", source.name, f"{source.stem}-s{number}"]
             for source in sources for number, title, _ in source.sections]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book" / "index.html")
    out = parser.parse_args().out
    links = Links()
    order = chapter_order()
    links.chapters = {stem: f"chapter-{stem}" for stem, _ in order}
    for name in re.findall(r"^### (.+)$", (DOC / "glossary.md").read_text(encoding="utf-8"), re.M):
        links.terms[name] = slug_of(name)
    sources = [Source(ROOT / "train.c", "train"), Source(ROOT / "tokenizer.c", "tokenizer")]
    for source in sources:
        for name, place in source.functions.items():
            links.functions.setdefault(name, (source, place))
        links.options.update(source.options)
        source.find_tags(links.term)
    rows = {source.stem: source.highlight(links) for source in sources}
    functions_of, bodies, titles = {}, {}, {}
    for stem, _ in order:
        bodies[stem] = chapter_html(stem, links)
        titles[stem] = plain(re.search(r"<h1>(.*?)</h1>", bodies[stem], re.S)[1])
    index = search_index([row for row in order if row[0] != "glossary"],
                         bodies, titles, links, sources)
    index.insert(0, [titles["glossary"], "chapter", "chapter-glossary"])
    bodies["glossary"] = glossary_html(bodies["glossary"], links, sources, rows, functions_of)
    book = f'<section class="chapter" id="top">{pandoc(HERE / "front.md")}</section>' + "".join(
        f'<section class="chapter" id="chapter-{stem}">{bodies[stem]}</section>' for stem, _ in order)
    code = "".join(source_html(source, rows[source.stem], links, functions_of) for source in sources)
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for place, text in (("STYLE", (HERE / "style.css").read_text(encoding="utf-8")),
                        ("CONTENTS", contents_html(order, bodies, titles, sources)),
                        ("BOOK", book), ("SOURCE", code),
                        ("INDEX", json.dumps(index, separators=(",", ":")).replace("</", "<\\/")),
                        ("SCRIPT", (HERE / "script.js").read_text(encoding="utf-8"))):
        page = page.replace("{{" + place + "}}", text)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    print(f"{out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}: {len(page.encode()) / 1e6:.1f} MB, "
          f"{len(order)} chapters, {len(links.terms)} terms, {sum(len(s.lines) for s in sources)} lines of code")


if __name__ == "__main__":
    main()
