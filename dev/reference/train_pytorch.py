"""The same training in PyTorch, to compare validation losses with train.c.

Everything that could make the two differ is an option with train.c's name for it: the split,
the architecture, the schedule and the optimizer.  What remains different is the random numbers
(initial weights, windows, masks), and the spread over seeds measures just that.

    python3 dev/reference/train_pytorch.py --data FILE --seeds 1 2 3 --no-bias

--untied gives the output head a matrix of its own, --initial pytorch leaves all weights as
torch.nn makes them, --gelu none is the exact GELU: things in which other programs differ from
train.c.

The model is written with torch.nn's own layers, nothing of train.c is looked at, so that a
misreading of the architecture would show as a different loss.
"""
import argparse
import math
import os
import statistics
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("train_pytorch.py: PyTorch is not there: pip install -r dev/requirements.txt")
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm: each branch reads a normalized copy, and is added to the stream as it was."""

    def __init__(self, channels, heads, dropout, bias, gelu):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.gelu = gelu
        self.ln_1 = nn.LayerNorm(channels, bias=bias)
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.attention_out = nn.Linear(channels, channels, bias=bias)
        self.ln_2 = nn.LayerNorm(channels, bias=bias)
        self.hidden = nn.Linear(channels, 4 * channels, bias=bias)
        self.mlp_out = nn.Linear(4 * channels, channels, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        qkv = self.qkv(self.ln_1(x)).unflatten(-1, (3, self.heads, -1))  # (B,T,3,H,D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # three of (B,H,T,D)
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate)
        x = x + self.drop(self.attention_out(y.transpose(1, 2).flatten(2)))
        inner = F.gelu(self.hidden(self.ln_2(x)), approximate=self.gelu)
        return x + self.drop(self.mlp_out(inner))


class Model(nn.Module):
    def __init__(self, o, vocabulary):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, o.channels)
        self.positions = nn.Embedding(o.context, o.channels)
        self.drop = nn.Dropout(o.dropout)
        self.blocks = nn.Sequential(
            *(Block(o.channels, o.heads, o.dropout, o.bias, o.gelu) for _ in range(o.layers)))
        self.ln_f = nn.LayerNorm(o.channels, bias=o.bias)
        self.head = nn.Linear(o.channels, vocabulary, bias=False)
        if not o.untied:
            self.head.weight = self.tokens.weight
        if o.initial == "pytorch":
            return
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # 2L branches are added to the stream: the factor keeps its variance in place.
                residual = name.endswith("_out.weight")
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * o.layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def logits(self, inputs):
        x = self.drop(self.tokens(inputs) + self.positions.weight[: inputs.shape[1]])
        return self.head(self.ln_f(self.blocks(x)))

    def forward(self, inputs, targets, reduction="mean"):
        """A target of -1 is not asked for; the mean is over the others."""
        return F.cross_entropy(self.logits(inputs).flatten(0, 1), targets.flatten(),
                               ignore_index=-1, reduction=reduction)


def learning_rate(o, step):
    """Linear warmup that starts above zero, then half a cosine down to min_lr; steps from 0."""
    if step < o.warmup:
        return o.lr * (step + 1) / (o.warmup + 1)
    if o.schedule == "constant":
        return o.lr
    progress = (step - o.warmup) / (o.steps - o.warmup)
    return o.min_lr + (o.lr - o.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Windows:
    """A running text: a batch begins anywhere, or visits each of the windows side by side once
    an epoch; evaluation takes all of those, and drops the remainder."""

    def __init__(self, tokens, context):
        self.tokens, self.context = tokens, context
        self.length = context  # tokens of a sequence, without padding
        self.count = (len(tokens) - 1) // context
        self.starts = torch.arange(self.count) * context

    def read(self, starts):
        window = self.tokens[starts[:, None] + torch.arange(self.context + 1)]
        return window[:, :-1], window[:, 1:]

    def draw(self, batch):
        return torch.randint(len(self.tokens) - self.context, (batch,))


class Rows:
    """Every line a sequence of its own.  Its inputs begin with a line feed, its targets end with
    one; prompts, and what lies behind the end, are not asked for."""

    def __init__(self, lines, ids, context, mark):
        end = ids[ord("\n")]
        self.count = len(lines)
        self.length = sum(len(line) + 1 for line in lines) / self.count  # the mean
        self.starts = torch.arange(self.count)
        self.inputs = torch.full((self.count, context), end)
        self.targets = torch.full((self.count, context), -1)
        for i, line in enumerate(lines):
            tokens = torch.tensor([ids[byte] for byte in line] + [end])
            if mark and mark not in line:
                sys.exit(f"train_pytorch.py: --answer-after {mark!r}: not in the line {line!r}")
            prompt = line.index(mark) + 1 if mark else 0
            self.inputs[i, 1 : len(tokens)] = tokens[:-1]
            self.targets[i, prompt : len(tokens)] = tokens[prompt:]

    def read(self, rows):
        return self.inputs[rows], self.targets[rows]

    def draw(self, batch):
        return torch.randint(self.count, (batch,))


class Epochs:
    """Each window or row once an epoch, in an order of its own."""

    def __init__(self, part):
        self.part, self.order = part, torch.empty(0, dtype=torch.long)

    def draw(self, batch):
        while len(self.order) < batch:
            self.order = torch.cat([self.order, self.part.starts[torch.randperm(self.part.count)]])
        drawn, self.order = self.order[:batch], self.order[batch:]
        return drawn


def evaluate(model, part, lengths, most=None):
    """Of a part: the mean loss, bits per byte, and the share of sequences whose every target is
    the likeliest token.  lengths: the bytes of each token."""
    model.eval()
    total, targets_seen, bytes_seen, right = 0.0, 0, 0, 0
    starts = part.starts
    if most and most < part.count:
        starts = starts[torch.arange(most) * part.count // most]
    with torch.no_grad():
        for some in starts.split(64):
            inputs, targets = part.read(some)
            logits = model.logits(inputs)
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1,
                                     reduction="sum").item()
            targets_seen += int((targets >= 0).sum())
            bytes_seen += int(lengths[targets[targets >= 0]].sum())
            right += int(((logits.argmax(-1) == targets) | (targets < 0)).all(-1).sum())
    model.train()
    return total / targets_seen, total / math.log(2) / bytes_seen, right / len(starts)


LOG_HEADER = ("step,epoch,tokens,loss,val_loss,val_bits_per_byte,lr,norm,tokens_per_second,seconds,"
              "val_accuracy,train_accuracy")


def train(o, seed, train_part, validation_part, lengths):
    """One run; returns the validation losses at each evaluation, and seconds for each step.
    With --out, it leaves a log.csv with train.c's columns in --out plus the seed."""
    torch.manual_seed(seed)
    model = Model(o, len(lengths))
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2],
         "weight_decay": o.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    losses, seconds, last, log = {}, 0.0, "", None
    source = train_part if o.order == "windows" else Epochs(train_part)
    if o.out:
        os.makedirs(f"{o.out}{seed}", exist_ok=True)
        log = open(f"{o.out}{seed}/log.csv", "w")
        print(LOG_HEADER, file=log)
    for step in range(o.steps + 1):
        if step % o.eval_every == 0 or step == o.steps:
            losses[step], bits, right = evaluate(model, validation_part, lengths)
            text, accuracies = "", ","
            if o.rows:
                train_right = evaluate(model, train_part, lengths, o.eval_batches * o.batch)[2]
                text = f", {100 * right:.2f}% right, of the training part {100 * train_right:.2f}%"
                accuracies = f"{right:.6g},{train_right:.6g}"
            print(f"seed {seed}  step {step:6d}  validation loss {losses[step]:.4f}{text}",
                  flush=True)
            if log:
                epoch = step * o.batch / train_part.count
                tokens = step * o.batch * train_part.length
                print(f"{step},{epoch:.4f},{tokens:.0f},{last},{losses[step]:.9g},{bits:.9g},,,,{seconds:.3f},{accuracies}",
                      file=log, flush=True)
        if step == o.steps:
            break
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(o, step)
        loss = model(*train_part.read(source.draw(o.batch)))
        last = f"{loss.item():.9g}"
        if not math.isfinite(loss.item()):
            sys.exit(f"train_pytorch.py: the loss of step {step} is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        if o.clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), o.clip)
        optimizer.step()
        seconds += time.perf_counter() - start
    if log:
        log.close()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"seed {seed}  {parameters} parameters, {1e3 * seconds / o.steps:.2f} ms per step,"
          f" lowest validation loss {min(losses.values()):.4f}", flush=True)
    return losses, seconds / o.steps


def bpe_encode(folder, data):
    """Ids of a text by the vocab.json and merges.txt that train.c left in a model's folder, and
    the bytes of each token: its name there has one character for each."""
    import json
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        sys.exit("train_pytorch.py: the package tokenizers is not there: pip install tokenizers")
    with open(os.path.join(folder, "vocab.json"), encoding="utf-8") as file:
        vocabulary = json.load(file)
    t = Tokenizer(models.BPE.from_file(os.path.join(folder, "vocab.json"),
                                       os.path.join(folder, "merges.txt")))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lengths = torch.zeros(len(vocabulary), dtype=torch.long)
    for name, token in vocabulary.items():
        lengths[token] = len(name)
    return t.encode(data.decode("utf-8")).ids, lengths


def options():
    p = argparse.ArgumentParser(description="Train a GPT in PyTorch with train.c's settings.")
    p.add_argument("--data", required=True, metavar="FILE")
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    for name, default in (("steps", 2000), ("batch", 12), ("context", 64), ("layers", 4),
                          ("heads", 4), ("channels", 128), ("warmup", 100), ("eval-every", 250),
                          ("threads", 1), ("eval-batches", 20)):
        p.add_argument("--" + name, type=int, default=default, help=f"default {default}")
    for name, default in (("lr", 1e-3), ("min-lr", None), ("dropout", 0.0),
                          ("weight-decay", 0.1), ("beta1", 0.9), ("beta2", 0.99),
                          ("eps", 1e-8), ("clip", 1.0), ("validation", 0.05), ("test", 0.05)):
        p.add_argument("--" + name, type=float, default=default, help=f"default {default}")
    p.add_argument("--bias", action=argparse.BooleanOptionalAction, default=True)
    p.add_argument("--order", choices=["epochs", "windows"], default="windows")
    p.add_argument("--schedule", choices=["constant", "cosine"], default="cosine")
    p.add_argument("--rows", action="store_true", help="each line is a sequence of its own")
    p.add_argument("--answer-after", metavar="CHAR", help="only what follows it is in the loss")
    p.add_argument("--tokenizer", metavar="FOLDER", help="with vocab.json and merges.txt")
    p.add_argument("--untied", action="store_true", help="the head has a matrix of its own")
    p.add_argument("--gelu", choices=["tanh", "none"], default="tanh", help="its approximation")
    p.add_argument("--initial", choices=["gpt2", "pytorch"], default="gpt2")
    p.add_argument("--out", metavar="PREFIX", help="of the folder of each seed's log.csv")
    o = p.parse_args()
    if o.min_lr is None:
        o.min_lr = o.lr / 10
    for name in ("steps", "batch", "context", "layers", "heads", "channels", "eval_every",
                 "threads"):
        if getattr(o, name) < 1:
            p.error(f"--{name.replace('_', '-')} must be at least 1, not {getattr(o, name)}")
    if o.channels % o.heads:
        p.error(f"--channels {o.channels} is not a multiple of --heads {o.heads}")
    if not 0 <= o.warmup < o.steps:
        p.error(f"--warmup {o.warmup} must be less than --steps {o.steps}")
    if not 0 <= o.dropout < 1:
        p.error(f"--dropout must be at least 0 and below 1, not {o.dropout}")
    if o.validation <= 0 or o.test < 0 or o.validation + o.test >= 1:
        p.error("--validation and --test must leave text for training and for validation")
    return o


def main():
    o = options()
    torch.set_num_threads(o.threads)
    try:
        with open(o.data, "rb") as file:
            data = file.read()
    except OSError as error:
        sys.exit(f"train_pytorch.py: {o.data}: {error.strerror}")
    # The vocabulary is the bytes that occur anywhere in the file, in order of their value.
    alphabet = sorted(set(data))
    ids = {byte: i for i, byte in enumerate(alphabet)}
    lengths = torch.ones(len(alphabet), dtype=torch.long)
    if o.rows:
        lines = data.removesuffix(b"\n").split(b"\n")
        n = len(lines)
        ends = [round(n * (1 - o.validation - o.test)), round(n * (1 - o.test))]
        if max(map(len, lines)) >= o.context:
            sys.exit(f"train_pytorch.py: {o.data}: a line is longer than --context {o.context}")
        mark = o.answer_after.encode() if o.answer_after else None
        train_part, validation_part = (Rows(part, ids, o.context, mark)
                                       for part in (lines[: ends[0]], lines[ends[0] : ends[1]]))
    else:
        if o.tokenizer:
            ids, lengths = bpe_encode(o.tokenizer, data)
            tokens = torch.tensor(ids)
        else:
            tokens = torch.tensor([ids[byte] for byte in data])
        n = len(tokens)
        n_train, n_validation = int(n * (1 - o.validation - o.test)), int(n * o.validation)
        if min(n_train, n_validation) <= o.context:
            sys.exit(f"train_pytorch.py: {o.data}: {n} tokens, too few for a context of"
                     f" {o.context}")
        train_part = Windows(tokens[:n_train], o.context)
        validation_part = Windows(tokens[n_train : n_train + n_validation], o.context)
    print(f"{os.path.basename(o.data)}: vocabulary {len(lengths)}, {train_part.count}"
          f" sequences to train, {validation_part.count} for validation; PyTorch"
          f" {torch.__version__}, {o.threads} thread(s)", flush=True)
    results = [train(o, seed, train_part, validation_part, lengths)
               for seed in o.seeds]
    print("validation loss over seeds:")
    for step in results[0][0]:
        losses = [losses[step] for losses, _ in results]
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        print(f"  step {step:6d}  mean {statistics.mean(losses):.4f}  deviation {spread:.4f}"
              f"  lowest {min(losses):.4f}  highest {max(losses):.4f}")
    seconds = statistics.mean(seconds for _, seconds in results)
    print(f"time per step, mean over seeds: {1e3 * seconds:.2f} ms")


if __name__ == "__main__":
    main()
