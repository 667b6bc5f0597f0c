"""Whole training steps: train.c beside PyTorch, in turn, in one run.

    python3 dev/bench/step.py --settings nano,baby --rounds 5 --threads 2

Needs torch (dev/requirements.txt) and build/step (`make build/step`).  Both sides train the
same GPT-2 shape on random tokens in float32 (and, with --bf16, ours in bf16 besides) with the same number of threads.  PyTorch gets its
best: scaled_dot_product_attention, AdamW fused into one pass, gradients set to None, and a run
compiled by torch.compile beside the eager one.  Each contender is a process of its own, one
process at a time, and they take turns: eager, compiled, ours, and again for each round.  A
contender's figure is the median of all its timed steps over all rounds, so that a slow moment
of the machine falls on all of them.  Prints a table in Markdown.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

# name: layers, heads, channels, vocabulary, batch, time, timed steps in a round
SETTINGS = {
    "nano": (4, 4, 128, 65, 12, 64, 40),
    "baby": (6, 6, 384, 65, 8, 256, 4),
    "gpt2-64": (12, 12, 768, 50257, 4, 64, 3),
    "gpt2-256": (12, 12, 768, 50257, 4, 256, 2),
    "gpt2-1024": (12, 12, 768, 50257, 4, 1024, 1),
}
ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_torch(setting, compiled, threads):
    """The child process: trains, and prints the lines that build/step prints."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    layers, heads, C, V, B, T, steps = setting
    torch.set_num_threads(threads)
    torch.manual_seed(1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
            self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
            self.fc, self.out = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

        def forward(self, x):
            heads_first = lambda t: t.view(B, T, heads, C // heads).transpose(1, 2)
            q, k, v = (heads_first(t) for t in self.qkv(self.ln_1(x)).split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.ln_f, self.head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)
            self.head.weight = self.wte.weight  # tied, as in GPT-2
            for weight in self.parameters():
                if weight.dim() == 2:
                    nn.init.normal_(weight, 0.0, 0.02)

        def forward(self, tokens, targets):
            x = self.ln_f(self.blocks(self.wte(tokens) + self.wpe.weight))
            return F.cross_entropy(self.head(x).view(-1, V), targets.view(-1))

    model = Model()
    matrices = [w for w in model.parameters() if w.dim() == 2]
    others = [w for w in model.parameters() if w.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1},
              {"params": others, "weight_decay": 0.0}]
    try:
        optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    except (RuntimeError, ValueError):  # not on this processor or in this version
        optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), foreach=True)
    run = torch.compile(model) if compiled else model
    tokens, targets = torch.randint(V, (B, T)), torch.randint(V, (B, T))

    def step():
        loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):  # compilation and first touches
        step()
    for _ in range(steps):
        start = time.perf_counter()
        step()
        print(f"step {(time.perf_counter() - start) * 1e3:.4f}")
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            print(f"memory {int(line.split()[1]) * 1024}")


def run_child(command, environment):
    """Its lines as {name: [numbers]}; a failure as a string that says why."""
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    result = {}
    for line in done.stdout.splitlines():
        name, number = line.split()
        result.setdefault(name, []).append(float(number))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="nano,baby,gpt2-64,gpt2-256",
                        help="of " + ", ".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--bf16", action="store_true",
                        help="train.c with --precision bf16 as well (PyTorch stays in float32)")
    parser.add_argument("--program", default=str(ROOT / "build" / "step"))
    parser.add_argument("--torch", nargs=2, metavar=("SETTING", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch:
        run_torch(SETTINGS[options.torch[0]], options.torch[1] == "compiled", options.threads)
        return
    names = options.settings.split(",")
    for name in names:
        if name not in SETTINGS:
            parser.error(f"--settings: {name!r} is none of {', '.join(SETTINGS)}")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")

    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    environment.setdefault("GOMP_SPINCOUNT", "1000")  # as make run sets it
    modes = ["eager"] + ([] if options.no_compile else ["compiled"]) + ["train.c"]
    modes += ["train.c in bf16"] if options.bf16 else []
    print(f"{options.rounds} rounds, {options.threads} threads, milliseconds a step (median)\n")
    print("| setting | eager | compiled | train.c | ratio to the better | share of the peak "
          "| memory: eager, compiled, train.c (MB) |"
          + (" in bf16 | float32 / bf16 |" if options.bf16 else ""))
    print("|---" * (9 if options.bf16 else 7) + "|")
    failures = []
    for name in names:
        steps, memory, peaks, flops = {}, {}, [], 0.0
        for _ in range(options.rounds):
            for mode in modes:
                if mode.startswith("train.c"):
                    command = [options.program] + [str(n) for n in SETTINGS[name]]
                    command += ["bf16"] if mode == "train.c in bf16" else []
                else:
                    command = [sys.executable, __file__, "--threads", str(options.threads),
                               "--torch", name, mode]
                result = run_child(command, environment)
                if isinstance(result, str):
                    if mode.startswith("train.c"):
                        sys.exit(f"step.py: {options.program}: {result}")
                    failures.append(f"{name}, {mode}: {result}")
                    continue
                steps.setdefault(mode, []).extend(result["step"])
                memory[mode] = max(memory.get(mode, 0.0), result.get("memory", [0.0])[0])
                peaks += result.get("peak", [])
                flops = result.get("flops", [flops])[0]
        median = {mode: statistics.median(times) for mode, times in steps.items()}
        show = lambda table, mode, unit: f"{table[mode] / unit:.1f}" if mode in table else "-"
        theirs = [median[mode] for mode in median if not mode.startswith("train.c")]
        ours = median["train.c"]
        ratio = f"{min(theirs) / ours:.2f}" if theirs else "-"
        share = flops / (ours * 1e-3) / (max(peaks) * 1e9)
        print(f"| {name} | {show(median, 'eager', 1)} | {show(median, 'compiled', 1)} "
              f"| {ours:.1f} | {ratio} | {100 * share:.0f}% of {max(peaks):.0f} GFLOP/s | "
              + ", ".join(show(memory, mode, 1e6) for mode in ("eager", "compiled", "train.c"))
              + " |" + (f" {median['train.c in bf16']:.1f} "
                        f"| {ours / median['train.c in bf16']:.2f} |" if options.bf16 else ""),
              flush=True)
    for failure in sorted(set(failures)):
        print(f"\nNot measured: {failure}")


if __name__ == "__main__":
    main()
