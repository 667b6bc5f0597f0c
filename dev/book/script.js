"use strict";
const root = document.documentElement, byId = (id) => document.getElementById(id);
const book = byId("book"), source = byId("source"), wide = matchMedia("(min-width: 1100px)");

/* Two sides: both on a wide screen, one at a time on a narrow one. */
const kept = { book: 0, source: 0 }; // where each side was left
function sideNow() { return root.classList.contains("show-source") ? "source" : "book"; }
function sideShow(side) {
  if (side === sideNow()) return;
  if (!wide.matches) kept[sideNow()] = scrollY;
  root.classList.toggle("show-source", side === "source");
  for (const tab of document.querySelectorAll("#tabs button")) tab.setAttribute("aria-pressed", tab.dataset.side === side);
  if (!wide.matches) scrollTo(0, kept[side]);
}
for (const tab of document.querySelectorAll("#tabs button")) tab.onclick = () => sideShow(tab.dataset.side);

function linesMark(stem, first, last) {
  for (const line of source.querySelectorAll(".hit")) line.classList.remove("hit");
  for (let n = first; n <= last; n++) byId(`${stem}-${n}`).classList.add("hit");
}

/* What an address leads to is shown; with a term, its lines of code as well. */
function go() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  menuShow(false);
  const inSource = source.contains(target);
  sideShow(inSource ? "source" : "book");
  if (inSource && target.tagName === "U") { // a function or an option: its lines
    const line = target.parentElement, [, stem, number] = line.id.match(/(\w+)-(\d+)/);
    let last = +number;
    if (target.id.startsWith("fn-")) while (!byId(`${stem}-${last}`).textContent.slice(String(last).length).startsWith("}") &&
                                            last - number < 400 && byId(`${stem}-${last + 1}`)) last++;
    linesMark(stem, +number, last);
  }
  if (target.dataset.code) {
    const [stem, comment, first, last] = target.dataset.code.split(",");
    linesMark(stem, +first, +last);
    if (wide.matches) byId(`${stem}-${first - comment > 25 ? first : comment}`).scrollIntoView();
  }
  else if (wide.matches && /^H[2-4]$/.test(target.tagName)) { // the first function that this part names
    let next = target, link = null;
    while (!link && (next = next.nextElementSibling) && !/^H[2-4]$/.test(next.tagName))
      link = next.querySelector('a[href^="#fn-"]');
    if (link) byId(link.getAttribute("href").slice(1)).parentElement.scrollIntoView();
  }
  target.scrollIntoView();
}
addEventListener("hashchange", go);
document.addEventListener("click", (event) => { // the same address a second time
  const link = event.target.closest('a[href^="#"]');
  if (link && link.getAttribute("href") === location.hash) { event.preventDefault(); go(); }
});

/* The list of contents. */
function menuShow(open) {
  root.classList.toggle("menu", open);
  byId("menu").setAttribute("aria-expanded", open);
}
byId("menu").onclick = () => menuShow(!root.classList.contains("menu"));

/* Dark or light: as the system says, until somebody chooses. */
byId("theme").onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch {}
};

/* Search: names first, those that begin with what was typed before others; then the text of the book. */
const names = JSON.parse(byId("index").textContent), box = byId("search"), results = byId("results");
let texts = null;
function textsRead() {
  texts = [];
  for (const part of book.querySelectorAll(".entry, .chapter")) {
    let heading = part.id, label = "", body = "";
    if (part.classList.contains("entry")) {
      texts.push([part.querySelector("h3").textContent, part.id, part.textContent]);
      continue;
    }
    for (const child of part.children) {
      if (/^H[1-3]$/.test(child.tagName)) {
        if (body) texts.push([label, heading, body]);
        heading = child.id || part.id, label = child.textContent, body = "";
      } else if (!child.classList.contains("entry")) body += child.textContent + " ";
    }
    if (body) texts.push([label, heading, body]);
  }
}
function find(words) {
  const asked = words.trim().toLowerCase();
  if (!asked) return [];
  const found = [];
  for (const [label, kind, anchor] of names) {
    const text = label.toLowerCase(), at = text.replaceAll("_", " ").indexOf(asked.replaceAll("_", " "));
    if (at < 0) continue;
    const start = at === 0 || /[^a-z0-9]/.test(text[at - 1]);
    found.push([(text === asked ? 0 : at === 0 ? 1 : start ? 2 : 3) - (kind === "term" ? 1.5 : 0), label, kind, anchor]);
  }
  found.sort((a, b) => a[0] - b[0] || a[1].length - b[1].length);
  const rows = found.slice(0, 14), seen = new Set(rows.map((row) => row[3]));
  if (asked.length > 2) {
    if (!texts) textsRead();
    for (const [label, anchor, body] of texts) {
      if (rows.length >= 24) break;
      const at = body.toLowerCase().indexOf(asked);
      if (at < 0 || seen.has(anchor)) continue;
      rows.push([9, label, "… " + body.slice(Math.max(0, at - 30), at + 50).replace(/\s+/g, " ") + " …", anchor]);
    }
  }
  return rows;
}
function resultsShow() {
  const rows = find(box.value);
  results.replaceChildren(...rows.map(([, label, kind, anchor], i) => {
    const item = document.createElement("li"), link = document.createElement("a"), note = document.createElement("span");
    link.href = "#" + anchor;
    link.textContent = label;
    note.textContent = kind;
    link.append(note);
    if (i === 0) link.className = "at";
    item.append(link);
    return item;
  }));
  if (!rows.length && box.value.trim()) results.textContent = "nothing found";
  results.hidden = !box.value.trim();
}
function resultsClose() { results.hidden = true; box.blur(); }
box.addEventListener("input", resultsShow);
box.addEventListener("focus", resultsShow);
box.addEventListener("keydown", (event) => {
  const links = [...results.querySelectorAll("a")], at = links.findIndex((link) => link.className === "at");
  if (event.key === "Escape") resultsClose();
  else if (event.key === "Enter" && at >= 0) { links[at].click(); resultsClose(); }
  else if (/^Arrow(Up|Down)$/.test(event.key) && links.length) {
    event.preventDefault();
    links[at].className = "";
    const next = links[(at + (event.key === "ArrowDown" ? 1 : links.length - 1)) % links.length];
    next.className = "at";
    next.scrollIntoView({ block: "nearest" });
  }
});
document.addEventListener("click", (event) => {
  if (!byId("find").contains(event.target) || event.target.closest("#results a")) results.hidden = true;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { event.preventDefault(); box.focus(); }
  if (event.key === "Escape") menuShow(false);
});

/* Commands can be copied. */
for (const block of document.querySelectorAll("pre.sh")) {
  const button = document.createElement("button"), text = block.textContent;
  button.textContent = "copy";
  button.onclick = async () => {
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; }
    catch { getSelection().selectAllChildren(block.querySelector("code")); }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  };
  block.append(button);
}
go();
