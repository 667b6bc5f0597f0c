"""GPT-2 in PyTorch's functional operations, on a dictionary of tensors by Hugging Face's names.

Nothing is shared with train.c but the names, and the order of the numbers in a dropout mask.
"""
import math

import numpy as np
import torch
from torch.nn import functional as F

from randomness import dropout_mask, random_bits

MODELS = {
    # `first` is the number of the first sequence within its batch: it moves the dropout masks.
    "plain": dict(layers=2, heads=2, channels=16, context=16, vocab=65, bias=True, rate=0.0,
                  B=3, T=16, first=0, clip=1.0, eps=1e-8),
    "no_bias": dict(layers=2, heads=3, channels=12, context=72, vocab=33, bias=False, rate=0.0,
                    B=2, T=70, first=0, clip=0.7, eps=1e-8),
    "dropout": dict(layers=2, heads=3, channels=15, context=12, vocab=17, bias=True, rate=0.2,
                    B=3, T=9, first=2, clip=1.7, eps=1e-8),
    "odd": dict(layers=1, heads=1, channels=5, context=7, vocab=7, bias=True, rate=0.0,
                B=1, T=7, first=0, clip=0.8, eps=1e-5),
}
TRAINING_STEPS, WARMUP, MICRO_BATCHES = 20, 4, 2


def shapes(c):
    """The table of tensors, in the order in which a token meets them."""
    C, F4 = c["channels"], 4 * c["channels"]
    table = {"transformer.wte": (c["vocab"], C), "transformer.wpe": (c["context"], C)}
    for layer in range(c["layers"]):
        h = f"transformer.h.{layer}."
        table.update({h + "ln_1": (C,), h + "attn.c_attn": (C, 3 * C),
                      h + "attn.c_proj": (C, C), h + "ln_2": (C,),
                      h + "mlp.c_fc": (C, F4), h + "mlp.c_proj": (F4, C)})
    table["transformer.ln_f"] = (C,)
    result = {}
    for module, shape in table.items():
        result[module + ".weight"] = shape
        if c["bias"] and module not in ("transformer.wte", "transformer.wpe"):
            result[module + ".bias"] = shape[-1:]
    return result


def forward(c, p, tokens, key=0, first=0):
    """hidden (B,T,C) and logits (B,T,V).  A key of 0 means no dropout."""
    B, T = tokens.shape
    C, H, rate = c["channels"], c["heads"], c["rate"]
    wte, wpe = p["transformer.wte.weight"], p["transformer.wpe.weight"]

    def drop(x, site):
        if rate == 0 or key == 0:
            return x
        place = first * (x.numel() // B)  # where sequence `first` begins in the batch's mask
        mask = dropout_mask((rate, random_bits(key, site), place), tuple(x.shape))
        return x * torch.from_numpy(mask).to(x.dtype)

    def norm(x, module):
        return F.layer_norm(x, (C,), p[module + ".weight"], p.get(module + ".bias"), 1e-5)

    def linear(x, module):  # Hugging Face's Conv1D stores (in, out)
        return F.linear(x, p[module + ".weight"].t(), p.get(module + ".bias"))

    x = drop(F.embedding(tokens, wte) + wpe[:T], 0)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for layer in range(c["layers"]):
        h = f"transformer.h.{layer}."
        qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn")
        q, k, v = (part.unflatten(-1, (H, -1)).transpose(1, 2) for part in qkv.split(C, -1))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(C // H)).masked_fill(future, -math.inf)
        y = (drop(scores.softmax(-1), 1 + 3 * layer) @ v).transpose(1, 2).flatten(2)
        x = x + drop(linear(y, h + "attn.c_proj"), 2 + 3 * layer)
        inner = F.gelu(linear(norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate="tanh")
        x = x + drop(linear(inner, h + "mlp.c_proj"), 3 + 3 * layer)
    hidden = norm(x, "transformer.ln_f")
    return hidden, hidden @ wte.t()


def token_losses(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.long().flatten(), ignore_index=-1,
                           reduction="none").view(targets.shape)


def learning_rate(step, top, bottom):
    """Linear warmup, then half a cosine from top to bottom; steps count from 0."""
    if step < WARMUP:
        return top * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / (TRAINING_STEPS - WARMUP)
    return bottom + (top - bottom) * (1 + math.cos(math.pi * progress)) / 2


def train(c, parameters, dtype, inputs, targets, keys, rates, options):
    """20 steps of AdamW: the loss and the gradient norm of each, and the last weights."""
    p = {n: torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for n, w in parameters.items()}
    groups = [{"params": [w for w in p.values() if w.dim() == 2],
               "weight_decay": options["weight_decay"]},
              {"params": [w for w in p.values() if w.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(options["beta1"], options["beta2"]),
                                  eps=options["eps"], foreach=False)
    losses, norms = [], []
    for step in range(TRAINING_STEPS):
        count = int((targets[step] >= 0).sum())  # of the whole batch: all its micro-batches
        total = torch.zeros((), dtype=dtype)
        optimizer.zero_grad()
        for micro in range(MICRO_BATCHES):
            _, logits = forward(c, p, inputs[step, micro], int(keys[step]), micro * c["B"])
            loss = token_losses(logits, targets[step, micro]).sum() / count
            loss.backward()
            total += loss.detach()
        losses.append(total)
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), options["clip"]).detach())
        for group in optimizer.param_groups:
            group["lr"] = float(rates[step])
        optimizer.step()
    return (torch.stack(losses).numpy(), torch.stack(norms).numpy(),
            {n: w.detach().numpy() for n, w in p.items()})


def model_reference(file, c, neighbor):
    """Everything about one model: outputs, three ways into the backward pass, 20 updates."""
    file.cases = 1
    B, T, V = c["B"], c["T"], c["vocab"]
    random = file.random
    # Larger weights than at the start of a training, and biases that are not zero: every term
    # of every gradient is then of a size at which its absence shows.
    parameters = {}
    for name, shape in shapes(c).items():
        if len(shape) == 2:
            parameters[name] = file.normal(*shape, deviation=0.25)
        else:
            mean = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            parameters[name] = file.normal(*shape, mean=mean, deviation=0.2)
        file.store("parameter/" + name, parameters[name])
    key = int(random.integers(1, 1 << 63)) if c["rate"] else 0
    numbers = [c[n] for n in ("layers", "heads", "channels", "context", "vocab", "bias", "B",
                              "T", "first")]
    file.store("config", np.array(numbers, np.int64))
    file.store("dropout_rate", np.array([c["rate"]], np.float32))
    file.store("dropout_key", np.array([key], np.uint64).view(np.int64))

    inputs = random.integers(0, V, (B, T)).astype(np.int32)
    targets = random.integers(0, V, (B, T)).astype(np.int32)
    targets.ravel()[random.permutation(B * T)[: 1 + B * T // 7]] = -1
    upstream = {"losses": file.normal(B, T) / np.float32(B * T),
                "logits": file.normal(B, T, V) / np.float32(B * T),
                "hidden": file.normal(B, T, c["channels"]) / np.float32(B * T)}
    file.store("inputs", inputs)
    file.store("targets", targets)
    for name, gradient in upstream.items():
        file.store("d" + name, gradient)

    def compute(dtype, number):
        p = {n: torch.tensor(neighbor(w, number), dtype=dtype).requires_grad_()
             for n, w in parameters.items()}
        hidden, logits = forward(c, p, torch.from_numpy(inputs), key, c["first"])
        outputs = {"hidden": hidden, "logits": logits,
                   "losses": token_losses(logits, torch.from_numpy(targets))}
        results = {n: o.detach().numpy() for n, o in outputs.items()}
        for entry, gradient in upstream.items():
            gradients = torch.autograd.grad(outputs[entry], list(p.values()),
                                            torch.tensor(gradient, dtype=dtype),
                                            retain_graph=True)
            results.update({f"from_{entry}/{n}": g.numpy() for n, g in zip(p, gradients)})
        return results

    file.expect(compute)
    window = random.integers(0, V, (TRAINING_STEPS, MICRO_BATCHES, B, T + 1)).astype(np.int32)
    file.store("train/inputs", window[..., :-1])
    targets = np.array(window[..., 1:], order="C")
    targets[:, 1].reshape(TRAINING_STEPS, -1)[:, : B * T // 3] = -1  # unequal micro-batches
    keys = random.integers(1, 1 << 63, TRAINING_STEPS) * (c["rate"] > 0)
    top, bottom = np.float32(5e-3), np.float32(5e-4)
    rates = np.array([learning_rate(step, float(top), float(bottom))
                      for step in range(TRAINING_STEPS)])
    names = ("beta1", "beta2", "eps", "weight_decay", "clip")
    numbers = np.array((0.9, 0.95, c["eps"], 0.1, c["clip"]), np.float32)
    options = dict(zip(names, map(float, numbers)))
    file.store("train/targets", targets)
    file.store("train/dropout_keys", keys.astype(np.int64))
    file.store("train/schedule", np.array([top, bottom, WARMUP, TRAINING_STEPS], np.float64))
    file.store("train/rates", rates)
    file.store("train/options", numbers)

    def compute_training(dtype, number):
        near = {n: neighbor(w, number) for n, w in parameters.items()}
        losses, norms, final = train(c, near, dtype, torch.from_numpy(window[..., :-1]),
                                     torch.from_numpy(targets), keys, rates, options)
        clipped = (norms > options["clip"]).sum()
        assert 3 <= clipped <= TRAINING_STEPS - 3, (clipped, norms)  # both kinds of steps
        results = {"train/losses": losses, "train/norms": norms}
        for name, w in final.items():
            if name.endswith("c_attn.bias"):
                # A number added to all scores of a row changes nothing, so the gradient of the
                # keys' bias is zero, and what float32 finds in its place is rounding noise.
                # Adam divides that by its own size and makes whole steps of it.  Each program
                # makes others: the middle third is left out.
                w = np.delete(w, slice(c["channels"], 2 * c["channels"]))
            results["train/final/" + name] = w
        return results

    file.expect(compute_training, 4)
