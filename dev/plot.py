"""Draws what log.csv says of one run or of several.

    python3 dev/plot.py out/first                          out/first/plot.png and plot.svg
    python3 dev/plot.py out/a out/b --out compare.svg      two runs, one picture
    python3 dev/plot.py out/a --x tokens --panels loss accuracy --log-x

Losses of single steps are shown with their moving mean; a circle marks the lowest validation
loss, which is the model in best/.  Where the validation line turns upwards and the training line
goes on falling, the model has begun to memorize its text.  Needs matplotlib.
"""
import argparse
import math
import os
import sys

try:
    import matplotlib
except ImportError:
    sys.exit("%s: matplotlib is not there: see Building in README.md"
             % os.path.basename(sys.argv[0]))

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "train"  # the same picture, the same bytes
matplotlib.rcParams["svg.fonttype"] = "none"  # text as text: smaller, and it can be searched
import matplotlib.pyplot as plt  # noqa: E402

PANELS = {"loss": "loss", "bits": "bits per byte", "accuracy": "rows right",
          "lr": "learning rate", "norm": "gradient norm"}


class Run:
    """A run's columns; a field that is empty or not a number is NaN."""

    def __init__(self, folder, label):
        self.folder, self.label = folder, label
        path = os.path.join(folder, "log.csv")
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read()
        except OSError as error:
            fail("%s: %s" % (path, error.strerror))
        names, *rows = [line.split(",") for line in text.split("\n")[:-1]] or [[]]
        # A number whose last digits are missing is still a number, so a cut row must not be drawn.
        cut = [i for i, row in enumerate(rows, 2) if len(row) != len(names)]
        if cut or not text.endswith("\n") and rows:
            fail("%s: line %d is cut short" % (path, (cut or [len(rows) + 2])[0]))
        if "step" not in names or not rows:
            fail("%s: no steps in it" % path)
        self.columns = {name: [number(row[i]) for row in rows] for i, name in enumerate(names)}

    def points(self, x, y):
        """The steps (or other x) at which both columns have a value."""
        pairs = [(a, b) for a, b in zip(self.columns.get(x, []), self.columns.get(y, []))
                 if not math.isnan(a) and not math.isnan(b)]
        return [a for a, _ in pairs], [b for _, b in pairs]

    def best(self, x="step"):
        """Place and value of the lowest validation loss after the start, or None."""
        xs, losses = self.points(x, "val_loss")
        learned = [(loss, at) for at, loss in zip(xs, losses) if at > 0]
        return min(learned)[::-1] if learned else None


def fail(message):
    sys.exit("%s: %s" % (os.path.basename(sys.argv[0]), message))


def runs_of(texts):
    """The runs in folders, each given as FOLDER or FOLDER=NAME.  Without a name it is the last
    part of the folder's, or all of it where two runs would have the same."""
    given = [(text.split("=", 1) + [""])[:2] for text in texts]
    last = [os.path.basename(os.path.abspath(folder)) for folder, _ in given]
    return [Run(folder, name or (part if last.count(part) == 1 else folder))
            for (folder, name), part in zip(given, last)]


def number(text):
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def smoothed(values, width):
    """The mean over `width` values up to and with each one; over fewer at the start, where a
    long mean would lag behind a steep fall."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = []
    for end in range(1, len(sums)):
        count = max(1, min(width, end // 5))
        means.append((sums[end] - sums[end - count]) / count)
    return means


def stride(values, thin):
    """Which of them to draw so that at most `thin` are; 0 draws all."""
    return max(1, -(-len(values) // thin)) if thin else 1


def draw_loss(axis, run, x, color, shown, thin):
    steps, losses = run.points(x, "loss")
    means = smoothed(losses, max(10, len(losses) // 100)) if len(losses) > 40 else losses
    keep = stride(steps, thin)  # only now: the mean is over all steps
    steps, losses, means = steps[::keep], losses[::keep], means[::keep]
    if means != losses:
        axis.plot(steps, losses, color=color, alpha=0.15, linewidth=0.6)
    axis.plot(steps, means, color=color, linewidth=0.9, linestyle=":" if means == losses else "-",
              alpha=0.6, label=shown + "training")
    steps, losses = run.points(x, "val_loss")
    if losses:
        axis.plot(steps, losses, color=color, marker=".", linewidth=1.6, label=shown + "validation")
        best = run.best(x)
        if best:
            axis.plot(*best, "o", color=color, markersize=9, fillstyle="none",
                      label="%slowest: %.4f" % (shown, best[1]))


def draw_panel(axis, panel, runs, x, log_x, thin):
    if log_x:
        axis.set_xscale("log", nonpositive="mask")
    for i, run in enumerate(runs):
        color, shown = "C%d" % (i % 10), run.label + ", " if len(runs) > 1 else ""
        if panel == "loss":
            draw_loss(axis, run, x, color, shown, thin)
        elif panel == "accuracy":
            for column, style, name in (("train_accuracy", "--", "training"),
                                        ("val_accuracy", "-", "validation")):
                xs, values = run.points(x, column)
                axis.plot(xs, [100 * v for v in values], style, color=color, label=shown + name)
        else:
            column = {"bits": "val_bits_per_byte"}.get(panel, panel)
            xs, values = run.points(x, column)
            keep = stride(xs, thin)
            axis.plot(xs[::keep], values[::keep], color=color, linewidth=1, label=shown.rstrip(", "))
    axis.set_ylabel(PANELS[panel] + (" (%)" if panel == "accuracy" else ""))
    axis.set_xlabel({"step": "steps", "seconds": "seconds"}.get(x, x))
    axis.grid(alpha=0.3)
    if panel == "lr":
        axis.set_ylim(bottom=0)
    handles, labels = axis.get_legend_handles_labels()
    if any(labels):
        axis.legend(fontsize=7 if len(labels) > 6 else 8)


def has(run, panel, x):
    columns = {"loss": ["loss", "val_loss"], "accuracy": ["val_accuracy", "train_accuracy"],
               "bits": ["val_bits_per_byte"]}.get(panel, [panel])
    values = [value for column in columns for value in run.points(x, column)[1]]
    # Rows without a prompt cannot be written whole but by chance: nothing to see.
    return bool(values) and (panel != "accuracy" or max(values) >= 0.01)


def figure(runs, x="step", panels=None, log_x=False, thin=0):
    """A figure with the panels that the runs have anything for; `thin` is the most points that are drawn
    of what every step has, 0 draws all."""
    for run in runs:
        if not run.points(x, "step")[0]:
            fail("%s: log.csv has no values of %s" % (run.folder, x))
    panels = [panel for panel in panels or ("loss", "accuracy", "lr", "norm")
              if any(has(run, panel, x) for run in runs)]
    if not panels:
        fail("%s: nothing to draw against %s" % (", ".join(run.folder for run in runs), x))
    across = 1 if len(panels) == 1 else 2
    down = -(-len(panels) // across)
    fig, axes = plt.subplots(down, across, figsize=(6.4 * across, 4.0 * down), squeeze=False,
                             layout="constrained")
    for axis in axes.flat[len(panels):]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels):
        draw_panel(axis, panel, runs, x, log_x, thin)
    return fig


class Parser(argparse.ArgumentParser):
    def error(self, message):  # one line, where argparse would print all options before it
        self.exit(2, "plot.py: %s; --help shows the options\n" % message)


def main():
    p = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("runs", nargs="+", metavar="FOLDER", help="with a log.csv; FOLDER=NAME names it")
    p.add_argument("--out", nargs="+", metavar="FILE", help=".png, .svg or .pdf; default: plot.png\n"
                   "and plot.svg in the first folder")
    p.add_argument("--x", default="step", choices=["step", "tokens", "epoch", "seconds"])
    p.add_argument("--panels", nargs="+", choices=sorted(PANELS))
    p.add_argument("--log-x", action="store_true")
    p.add_argument("--thin", type=int, default=0, metavar="N", help="draw at most N points of what every step has")
    o = p.parse_args()
    if o.thin < 0:
        p.error("--thin must be at least 0, not %d" % o.thin)
    runs = runs_of(o.runs)
    fig = figure(runs, o.x, o.panels, o.log_x, o.thin)
    for path in o.out or [os.path.join(runs[0].folder, "plot." + kind) for kind in ("png", "svg")]:
        metadata = {"Date": None} if path.endswith(".svg") else None
        try:
            fig.savefig(path, dpi=110, metadata=metadata)
        except (OSError, ValueError) as error:
            fail("%s: %s" % (path, error.strerror if isinstance(error, OSError) else error))
        print(path)


if __name__ == "__main__":
    main()
