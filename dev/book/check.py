#!/usr/bin/env python3
"""Checks the page that build.py has made: every link, every anchor, every term; then how a browser shows it.

    make check-book                       builds the page, then all of this
    python3 dev/book/check.py PAGE

In the page: anchors are unique, every link has a target, nothing is fetched from elsewhere, every line of the
sources has an anchor, every tag links to its term, and every term whose home is train.c or tokenizer.c has its lines
of code and a command.  In Chromium, if it is installed: no script error, nothing wider than the screen, and for every
such term definition, code and command within one screen, at three widths.  Screenshots go to the folder of the page.
"""
import base64
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCREENS = [(390, 844, True), (900, 1200, False), (1600, 1000, False)]  # width, height, a phone?
SHOWN = ["", "gradient-accumulation", "self-attention", "train-s11", "derivations--layer-norm", "chapter-memory"]
counts = {True: 0, False: 0}


def check(good, text):
    counts[bool(good)] += 1
    print(("ok    " if good else "FAIL  ") + text, flush=True)


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.outside, self.open, self.wrong = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name in ("src", "srcset", "data", "poster"):
            if name in given and not given[name].startswith("data:"):
                self.outside.append(f"{tag} {name}={given[name]}")
        if tag == "link" and not given.get("href", "").startswith("data:"):
            self.outside.append(f"link {given.get('href')}")
        if tag not in ("meta", "link", "br", "hr", "img", "input", "col", "wbr") and "/" not in tag:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(f"</{tag}> at line {self.getpos()[0]}")


def terms():
    for line in (ROOT / "tests" / "glossary_terms.txt").read_text(encoding="utf-8").split("\n"):
        if line:
            name, home = line.split("\t")[:2]
            yield name, re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-"), home


def check_page(text):
    page = Page(text)
    ids = set(page.ids)
    doubled = {name for name in page.ids if page.ids.count(name) > 1} if len(ids) != len(page.ids) else set()
    check(not doubled, f"{len(ids)} anchors, each once {sorted(doubled)[:5] or ''}")
    inside = [link[1:] for link in page.links if link.startswith("#")]
    lost = sorted(set(inside) - ids)
    check(len(inside) > 5000 and not lost, f"{len(inside)} links inside the page have targets {lost[:5] or ''}")
    others = [link for link in page.links if not link.startswith(("#", "http"))]
    check(not others, f"no link to a file that does not exist {others[:5] or ''}")
    styles = re.findall(r"@import|url\((?!data:)[^)]*\)", "".join(re.findall(r"<style>(.*?)</style>", text, re.S)))
    check(not page.outside and not styles, f"nothing is fetched {page.outside[:3] or styles[:3] or ''}")
    check(not page.wrong and not page.open, f"every element is closed {page.wrong[:3] or page.open[:3] or ''}")
    for name in ("train", "tokenizer"):
        code = (ROOT / f"{name}.c").read_text(encoding="utf-8")
        lines = code.count("\n")
        check(all(f"{name}-{n}" in ids for n in range(1, lines + 1)) and f"{name}-{lines + 1}" not in ids,
              f"{name}.c: an anchor for each of {lines} lines")
        shown = re.findall(rf'<span class="l" id="{name}-\d+">(.*?)\n</span>', text, re.S)
        plain = [html.unescape(re.sub(r"<[^>]+>", "", re.sub(r'<a class="no".*?</a>', "", row))) for row in shown]
        check(plain == code.split("\n")[:-1], f"{name}.c: the text of the page is that of the file")
        tags = len(re.findall(r"\[glossary: ", code))
        check(tags > 0 and sum('class="term"' in row for row in shown) >= tags * 0.9,
              f"{name}.c: {tags} tags are links")
    entries = dict(re.findall(r'<section class="entry" id="([^"]+)"([^>]*)>', text))
    missing, bare = [], []
    for name, slug, home in terms():
        body = re.search(rf'<section class="entry" id="{re.escape(slug)}".*?</section>', text, re.S)
        if not body:
            missing.append(name)
        elif home in ("train.c", "tokenizer.c") and "Planned:" not in body[0]:
            code = re.search(r'<pre class="c" tabindex="0">(.*?)</pre>', body[0], re.S)
            if not (code and code[1].count('class="no"') >= 3 and '<pre class="sh">' in body[0]
                    and "data-code" in entries[slug]):
                bare.append(name)
    check(not missing, f"every term of tests/glossary_terms.txt has its entry {missing or ''}")
    check(not bare, f"every term of train.c and tokenizer.c has its lines and a command {bare or ''}")
    return [slug for name, slug, home in terms() if home in ("train.c", "tokenizer.c") and slug in entries
            and "data-code" in entries[slug]]


def check_front():
    listed = (ROOT / "doc" / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "doc").glob("*.md") if f"]({path.name})" not in listed]
    check(missing == ["README.md"], f"doc/README.md lists every chapter {missing if len(missing) > 1 else ''}")
    for front in (ROOT / "README.md", ROOT / "doc" / "README.md"):
        links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", front.read_text(encoding="utf-8"))
                 if not link.startswith("http")]
        lost = [link for link in links if not (front.parent / link).exists()]
        check(len(links) > 5 and not lost, f"{front.relative_to(ROOT)}: {len(links)} links lead to files {lost or ''}")


class Browser:
    """Chromium, controlled over a pipe (its --remote-debugging-pipe: JSON, a zero byte after each message)."""

    def __init__(self, program):
        self.folder = tempfile.mkdtemp()
        to_read, self.to_write = os.pipe()
        self.from_read, from_write = os.pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--no-first-run", "--disable-extensions", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
                   f"--user-data-dir={self.folder}", "--remote-debugging-pipe", "about:blank"]

        def descriptors():
            a, b = os.dup(to_read), os.dup(from_write)  # above 3 and 4, which they are copied to
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(command, close_fds=False, preexec_fn=descriptors, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(to_read)
        os.close(from_write)
        self.count, self.rest, self.session, self.errors = 0, b"", None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(domain + ".enable")

    def message(self):
        while b"\0" not in self.rest:
            data = os.read(self.from_read, 1 << 20)
            if not data:
                raise SystemExit("Chromium has exited")
            self.rest += data
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:300])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] in ("error", "warning"):
            self.errors.append(message["params"]["entry"]["text"])
        if message.get("method") == "Runtime.consoleAPICalled":
            self.errors.append("console: " + json.dumps(message["params"]["args"])[:300])
        return message

    def ask(self, method, **parameters):
        self.count += 1
        request = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.to_write, json.dumps(request).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]

    def value(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression[:80]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, address):
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=address)
        self.value("new Promise(done => { const ready = () => document.readyState === 'complete' && document.querySelector("
                   "'#book') ? done(1) : setTimeout(ready, 30); ready(); })")

    def screen(self, width, height, phone, scheme="light"):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.session = None
        try:
            self.ask("Browser.close")
        except SystemExit:
            pass
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)


# Which entries are not visible without scrolling, after their address was opened.
IN_VIEW = """(slugs => { const missing = [];
for (const slug of slugs) {
  location.hash = slug; go();
  const entry = document.getElementById(slug), top = document.querySelector("header").getBoundingClientRect().bottom;
  const seen = (part, all) => { const box = part.getBoundingClientRect();
    return box.top >= top - 2 && (all ? box.bottom : box.top + 30) <= innerHeight && box.left >= -1; };
  const first = entry.querySelector("p"), code = entry.querySelector(".excerpt pre"), shell = entry.querySelector("pre.sh");
  if (!(seen(entry.querySelector("h3"), true) && seen(first, true) && seen(code, true) && seen(shell, false)))
    missing.push(slug + " " + Math.round(shell.getBoundingClientRect().top));
  const [stem, , line] = entry.dataset.code.split(","), source = document.getElementById(stem + "-" + line);
  const box = source.getBoundingClientRect();
  if (!source.classList.contains("hit")) missing.push(slug + ": lines not marked");
  if (wide.matches && !(box.top >= top && box.bottom <= innerHeight)) missing.push(slug + ": lines not in view");
} return missing; })"""

# Elements that make the page wider than the screen.
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(part => { const box = part.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1) return false;
  for (let up = part.parentElement; up; up = up.parentElement)
    if (/auto|hidden|scroll/.test(getComputedStyle(up).overflowX) && up !== document.body) return false;
  return true; }).slice(0, 5).map(part => part.tagName + "." + part.className + " " + part.id + " " +
  part.textContent.slice(0, 40))"""


def check_browser(program, page, slugs):
    browser = Browser(program)
    address, folder = page.resolve().as_uri(), page.parent
    try:
        for width, height, phone in SCREENS:
            browser.screen(width, height, phone)
            for anchor in SHOWN:
                browser.open(f"{address}#{anchor}")
                browser.picture(folder / f"{width}-{anchor or 'top'}.png")
            browser.open(address)
            wide = browser.value(TOO_WIDE)
            check(not wide, f"{width} x {height}: nothing is wider than the screen {wide or ''}")
            missing = browser.value(f"{IN_VIEW}({json.dumps(slugs)})")
            check(not missing, f"{width} x {height}: {len(slugs)} terms with definition, code and command within one "
                  f"screen {missing or ''}")
            browser.open(f"{address}#train-s4")
            side = browser.value("getComputedStyle(source).display !== 'none' && "
                                 "document.getElementById('train-s4').getBoundingClientRect().top < innerHeight")
            check(side, f"{width} x {height}: an address in the sources shows them")
        browser.open(address)
        browser.value("box.value = 'clipp', box.dispatchEvent(new Event('input')), 1")
        first = browser.value("results.querySelector('a').getAttribute('href')")
        check(first == "#gradient-clipping", f"search: 'clipp' finds {first}")
        browser.picture(folder / "1600-search.png")
        browser.value("box.value = 'gradient_norm', box.dispatchEvent(new Event('input')), 1")
        first = browser.value("results.querySelectorAll('a')[1].getAttribute('href')")
        check(first == "#fn-gradient_norm", f"search: 'gradient_norm' finds the term, then {first}")
        browser.screen(1600, 1000, False, "dark")
        browser.open(f"{address}#gradient-accumulation")
        browser.picture(folder / "1600-dark.png")
        colors = "[getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(book).color]"
        dark = browser.value(colors)
        browser.value("document.getElementById('theme').click(), 1")
        light = browser.value(colors)
        check(dark != light and dark[0] == "rgb(20, 23, 28)", f"dark as the system asks, {dark}; the button changes it")
        browser.value("localStorage.removeItem('theme'), 1")
        browser.open(address)
        pdf = base64.b64decode(browser.ask("Page.printToPDF", printBackground=True, paperWidth=8.27,
                                           paperHeight=11.69)["data"])
        (folder / "book.pdf").write_bytes(pdf)
        pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
        check(pages > 100, f"on paper: {pages} pages")
        check(not browser.errors, f"no script error, no warning {browser.errors[:3] or ''}")
    finally:
        browser.close()


def main():
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "book" / "index.html"
    slugs = check_page(page.read_text(encoding="utf-8"))
    check_front()
    program = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if program:
        check_browser(program, page, slugs)
        print(f"{counts[True]} passed, {counts[False]} failed")
    else:
        print("no Chromium: how the page looks was not checked")
        print(f"{counts[True]} passed, {counts[False]} failed, 1 skipped")
    return 1 if counts[False] or not counts[True] else 0


if __name__ == "__main__":
    sys.exit(main())
