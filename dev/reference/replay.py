"""Two published runs again: PyTorch, with the sources' settings and their random numbers, in the order in which
they draw them.  Beside logs of those programs it shows whether their settings were understood, and with
other seeds, how much of a published figure was the seed.

    python3 dev/reference/replay.py shakespeare          nanoGPT's run, with its seed, 1337
    python3 dev/reference/replay.py names                makemore's, with its seed, 3407
    python3 dev/reference/replay.py names-before         the same at commit 013af92
    python3 dev/reference/replay.py shakespeare --seeds 1337 1 2

With the source's own seed, a loss more than 0.0005 off the log (names: 0.002) ends in exit status 1; less can come
from sums in another order, in another version of PyTorch or on another processor.  Needs data/tinyshakespeare.txt or
data/names.txt (dev/data/fetch.sh).  The model is train_pytorch.py's; nothing of the sources is here but their
settings, what they draw, in which order, and what they printed.
"""
import argparse
import functools
import math
import os
import statistics
import sys

try:
    import torch
except ImportError:
    sys.exit("replay.py: PyTorch is not there: pip install -r dev/requirements.txt")
from torch import nn
from torch.utils import data

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from train_pytorch import Model, Rows, Windows, evaluate, learning_rate

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../data")

# Validation losses by step, from logs that users of the sources published.  nanoGPT's stand in many, makemore's in
# one, which was stopped after step 5,460.
PUBLISHED = {
    "shakespeare": {0: 4.1649, 250: 2.4447, 500: 2.3141, 750: 2.1905, 1000: 2.0528, 1250: 2.0089, 1500: 1.9225,
                    1750: 1.8921, 2000: 1.8857},
    "names": {500: 2.1971, 1000: 2.1338, 1500: 2.1065, 2000: 2.0846, 2500: 2.0630, 3000: 2.0528, 3500: 2.0302,
              4000: 2.0277, 4500: 2.0128, 5000: 2.0126},
}


def text(name):
    try:
        with open(os.path.join(DATA, name), "rb") as file:
            return file.read()
    except OSError as error:
        sys.exit(f"replay.py: data/{name}: {error.strerror}: sh dev/data/fetch.sh shakespeare names")


def mean_loss(model, part, batches):
    """As both sources have it: the mean over batches of their means."""
    with torch.no_grad():
        return statistics.mean(model(*part.read(starts)).item() for starts in batches)


def normal_weights(model):
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)


def shakespeare(seed):
    """Before the weights nothing is drawn; then a batch, which is trained on after the first evaluation; and
    after each step the next one.  An evaluation is the mean over 20 batches of each part, drawn like the
    others.  GELU is the exact one."""
    tokens = text("tinyshakespeare.txt")
    ids = {byte: i for i, byte in enumerate(sorted(set(tokens)))}
    tokens = torch.tensor([ids[byte] for byte in tokens])
    border = int(len(tokens) * 0.9)
    training, validation = Windows(tokens[:border], 64), Windows(tokens[border:], 64)
    size = argparse.Namespace(layers=4, heads=4, channels=128, context=64, dropout=0.0, bias=False,
                              untied=False, initial="pytorch", gelu="none")
    rate = argparse.Namespace(lr=1e-3, min_lr=1e-4, warmup=100, steps=2000, schedule="cosine")

    torch.manual_seed(seed)
    model = Model(size, len(ids))
    normal_weights(model)  # the embedding's are drawn twice: they are the head's too
    for name, p in model.named_parameters():
        if name.endswith("_out.weight"):
            nn.init.normal_(p, std=0.02 / math.sqrt(2 * size.layers))
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
         {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}], betas=(0.9, 0.99))
    next_batch = training.draw(12)
    for step in range(rate.steps + 1):
        if step % 250 == 0:
            mean_loss(model, training, (training.draw(12) for _ in range(20)))  # it draws too
            measured = mean_loss(model, validation, (validation.draw(12) for _ in range(20)))
            yield step, measured, evaluate(model, validation, torch.ones(len(ids)))[0]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rate, step)
        loss = model(*training.read(next_batch))
        next_batch = training.draw(12)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def names(seed, before=False):
    """First which names are held out (as dev/data/make.py names does without PyTorch), then the weights, which
    stay as torch.nn makes them; the batches come from a generator of their own.  Everything decays, nothing
    is clipped, and there is no last step.  `before`: all matrices start with deviation 0.02, and gradients are
    clipped.  Left out is that the source also evaluates on names that it trains on, and lets the model write: only
    the order of the test names hangs on that, and so the fourth digit of the mean over batches of them."""
    lines = text("names.txt").split()
    torch.manual_seed(seed)
    order = torch.randperm(len(lines)).tolist()
    lines = [lines[i] for i in order]
    ids = {byte: i for i, byte in enumerate(sorted(set(b"\n".join(lines))))}
    training, test = (Rows(part, ids, 16, None) for part in (lines[:-1000], lines[-1000:]))
    model = Model(argparse.Namespace(layers=4, heads=4, channels=64, context=16, dropout=0.0, bias=True,
                                     untied=True, initial="pytorch", gelu="tanh"), len(ids))
    if before:
        normal_weights(model)
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.99), weight_decay=0.01)
    rows = range(training.count)
    sampler = data.RandomSampler(rows, replacement=True, num_samples=10**10)
    for step, drawn in enumerate(data.DataLoader(rows, batch_size=32, sampler=sampler)):
        loss = model(*training.read(drawn))
        optimizer.zero_grad()
        loss.backward()
        if before:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step > 0 and step % 500 == 0:
            batches = data.DataLoader(range(test.count), batch_size=100, shuffle=True)
            yield step, mean_loss(model, test, batches), evaluate(model, test, torch.ones(len(ids)))[0]


RUNS = {  # its own seed, its last step, how far off its log it may be
    "shakespeare": (shakespeare, 1337, 2000, 0.0005),
    "names": (names, 3407, 25000, 0.002),
    "names-before": (functools.partial(names, before=True), 3407, 25000, 0.002),
}


def main():
    p = argparse.ArgumentParser(description="Repeat a published run with the random numbers of its source.")
    p.add_argument("run", choices=RUNS)
    p.add_argument("--seeds", type=int, nargs="+", help="default: the source's, 1337 or 3407")
    p.add_argument("--steps", type=int, help="end with the first evaluation from this step on, in the schedule of the"
                   " whole run; default 2000, of names 25000")
    o = p.parse_args()
    replay, own, last, allowed = RUNS[o.run]
    o.steps = last if o.steps is None else o.steps
    if o.steps < 0:
        p.error(f"--steps must be at least 0, not {o.steps}")
    if o.seeds and not all(0 <= seed < 2**63 for seed in o.seeds):
        p.error("--seeds must be from 0 to 2^63 - 1")
    torch.set_num_threads(1)  # so that the sums have the same order every time
    lowest, off = [], []
    for seed in o.seeds or [own]:
        results = []
        for step, measured, whole in replay(seed):
            logged = PUBLISHED.get(o.run, {}).get(step) if seed == own else None
            if not results:
                print(f"{o.run}, seed {seed}, PyTorch {torch.__version__}")
                print("   step  validation loss  its log  over the whole part")
            print(f"{step:7d}  {measured:15.4f}  {f'{logged:.4f}' if logged else '':>7}  {whole:19.4f}", flush=True)
            results.append((measured, whole))
            if logged and not abs(measured - logged) <= allowed:  # nor is a NaN
                off.append(step)
            if step >= o.steps:
                break
        lowest.append([min(column) for column in zip(*results)])
        print(f"lowest: {lowest[-1][0]:.4f} as the source measures, {lowest[-1][1]:.4f} over the whole part")
    if len(lowest) > 1:
        for what, column in zip(("as the source measures", "over the whole part"), zip(*lowest)):
            print(f"lowest {what}, {len(lowest)} seeds: mean {statistics.mean(column):.4f},"
                  f" deviation {statistics.stdev(column):.4f}")
    if off:
        sys.exit(f"replay.py: not as in the source's log at steps {off}")


if __name__ == "__main__":
    main()
