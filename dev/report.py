"""One self-contained HTML page of a run: out/x/report.html.

    python3 dev/report.py out/x [MORE RUNS TO COMPARE IT WITH]      or: make report RUN=out/x

Settings, the evaluations, the curves, and the samples in the order in which they improved.  The
page needs no network and no other file.  Needs matplotlib.
"""
import html
import io
import json
import math
import os
import sys

import plot

STYLE = """body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } td, th { padding: .15rem .8rem .15rem 0; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left } pre { background: #f6f6f4; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere }
.best { background: #e8f3e8 } .columns { columns: 18rem; font-family: monospace } svg { max-width: 100%; height: auto }"""


def text_of(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def settings_of(folder):
    """The options that a run was started with, which train.c keeps beside its state."""
    try:
        with open(os.path.join(folder, "state.safetensors"), "rb") as file:
            header = file.read(int.from_bytes(file.read(8), "little"))
        known = json.loads(header).get("__metadata__", {})
    except (OSError, ValueError, OverflowError, MemoryError, AttributeError):  # damaged
        return []
    return ["%s %s" % (key.split(" ")[0], value) for key, value in known.items()
            if key.startswith("--")]


def shown(value, form="%.4f"):
    return "" if math.isnan(value) else form % value


def evaluations(run):
    columns = [("step", "%d"), ("epoch", "%.2f"), ("loss", "%.4f"), ("val_loss", "%.4f"),
               ("val_bits_per_byte", "%.4f"), ("val_accuracy", "%.4f"), ("train_accuracy", "%.4f"),
               ("norm", "%.3f"), ("tokens_per_second", "%.0f"), ("seconds", "%.1f")]
    columns = [(name, form) for name, form in columns if run.points("step", name)[0]]
    best = run.best()
    lines = ["<tr>" + "".join("<th>%s</th>" % name.replace("_", " ") for name, _ in columns) + "</tr>"]
    validated = run.points("step", "val_loss")[0]
    steps = run.columns["step"]
    rows = [i for i, step in enumerate(steps) if step in set(validated) or (not validated and i % 100 == 0)]
    for i in rows:
        mark = ' class="best"' if best and steps[i] == best[0] else ""
        lines.append("<tr%s>" % mark + "".join(
            "<td>%s</td>" % shown(run.columns[name][i], form) for name, form in columns) + "</tr>")
    return "<table>%s</table>" % "\n".join(lines)


def samples(folder):
    """The parts of samples.txt, which begin with a line `--- step N`."""
    parts, head = [], None
    for line in text_of(folder, "samples.txt").split("\n"):
        if line.startswith("--- step ") and line[9:].isdigit():
            head = line[4:]
            parts.append((head, []))
        elif head:
            parts[-1][1].append(line)
    return [(head, "\n".join(lines).strip("\n")) for head, lines in parts]


def picture(runs, x):
    stream = io.StringIO()
    plot.figure(runs, x, thin=1500).savefig(stream, format="svg", metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg"):]


def page(folders):
    runs = plot.runs_of(folders)
    run, parts = runs[0], []
    best, steps = run.best(), run.columns["step"]
    seconds = run.points("step", "seconds")[1]
    summary = "%d steps" % steps[-1]
    if seconds:
        summary += " in %.0f s" % seconds[-1]
    if best:
        summary += "; lowest validation loss %.4f at step %d" % (best[1], best[0])
        last = run.points("step", "val_loss")[1][-1]
        if last > best[1]:
            summary += ", %.4f at the end" % last
    parts.append("<h1>%s</h1><p>%s</p>" % (html.escape(run.folder), summary))
    parts.append("<h2>Curves</h2>" + picture(runs, "step"))
    parts.append("<h2>Evaluations</h2>" + evaluations(run))
    settings = settings_of(run.folder)
    if settings:
        parts.append('<h2>Settings</h2><div class="columns">%s</div>'
                     % "<br>".join(html.escape(line) for line in settings))
    written = samples(run.folder)
    if written:
        parts.append("<h2>Samples as they improved</h2>" + "".join(
            "<h3>%s</h3><pre>%s</pre>" % (head, html.escape(text)) for head, text in written))
    return ("<!DOCTYPE html><html lang=en><meta charset=utf-8><title>%s</title><style>%s</style>\n%s\n</html>\n"
            % (html.escape(run.label), STYLE, "\n".join(parts)))


def main():
    folders = sys.argv[1:]
    if "-h" in folders or "--help" in folders:
        print(__doc__.strip())
        return
    if not folders or any(folder.startswith("-") for folder in folders):
        print("usage: report.py FOLDER [MORE RUNS TO COMPARE IT WITH]", file=sys.stderr)
        sys.exit(2)
    text = page(folders)
    path = os.path.join(folders[0].split("=")[0], "report.html")
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        plot.fail("%s: %s" % (path, error.strerror))
    print("%s: %d KB" % (path, len(text) // 1000))


if __name__ == "__main__":
    main()
