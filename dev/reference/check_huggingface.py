#!/usr/bin/env python3
"""Holds train.c against transformers: models in both directions, tokenizers, and a training.

    python3 dev/reference/check_huggingface.py --programs build

A model trained here is opened by AutoModelForCausalLM and AutoTokenizer; GPT-2 models of several shapes with
random weights, saved by transformers as float32, float16 and bfloat16, are opened here, those in shards after
dev/data/convert_model.py has joined them; and the same training runs in both.  A row for each check; exit status 1 on any difference.

How near is near enough: float32 rounds, and the order of additions is nobody's duty.  The truth is
transformers' own model in float64.  Our error, |ours - truth| / |truth| in the Euclidean norm, may be twice that of
transformers in float32, and at least 2^-23: tests/check.c has the same rule and its reason.
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPT2Model

from randomness import window_start

transformers.utils.logging.disable_progress_bar()
failures = passed = 0


def check(ok, what):
    global failures, passed
    print("ok    " if ok else "FAIL  ", what, sep="", flush=True)
    failures += not ok
    passed += bool(ok)


def run(*arguments, **options):
    """A program that must succeed; returns what it printed."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, **options)
    if done.returncode != 0:
        sys.exit(f"FAIL  {' '.join(map(str, arguments))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def refused(words, *arguments, **options):
    """A program must end with one line that holds these words."""
    done = subprocess.run([str(a) for a in arguments], capture_output=True, **options)
    text = done.stderr.decode(errors="replace")
    return done.returncode == 1 and words in text and text.count("\n") == 1


CONVERTER = Path(__file__).resolve().parent.parent / "data" / "convert_model.py"


def converted(folder, new):
    """The same model in one file."""
    shutil.rmtree(new, ignore_errors=True)
    run(sys.executable, CONVERTER, folder, new)
    return new


def random_text(seed, length):
    """Words of a small vocabulary, so that there is something to learn and to merge."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("etaoinshrdlu") for _ in range(draw.randint(1, 7))) for _ in range(60)]
    text = ""
    while len(text) < length:
        text += draw.choice(words) + draw.choice([" ", " ", " ", ", ", ".\n"])
    return text[:length]


def error_of(result, truth):
    return float(np.linalg.norm(result - truth) / np.linalg.norm(truth))


def logits_ours(programs, folder, ids):
    out = run(programs / "logits", folder, input=np.asarray(ids, np.int32).tobytes())
    return np.frombuffer(out, np.float32).reshape(len(ids), -1).astype(np.float64)


def logits_theirs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def logits_check(programs, folder, name, model=None):
    """Logits of a folder, ours and theirs, at every position of a full context."""
    model = model or AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = model.float().eval()
    config = model.config
    draw = random.Random(7)
    ids = [draw.randrange(config.vocab_size) for _ in range(config.n_positions)]
    single = logits_theirs(model, ids)
    truth = logits_theirs(model.double(), ids)
    ours = logits_ours(programs, folder, ids)
    error, theirs = error_of(ours, truth), error_of(single, truth)
    size = float(np.sqrt(np.mean(truth**2)))
    allowed = max(2 * theirs, 2.0**-23)
    check(ours.shape == truth.shape and size > 1e-3 and error <= allowed,
          f"{name:<44} error {error:.2e}  transformers float32 {theirs:.2e}  at most {allowed:.2e}")
    return error, allowed


def model_random(shape, seed, **more):
    """A GPT-2 of transformers in which no weight is what it starts from."""
    layers, heads, channels, context, vocab = shape
    config = GPT2Config(n_layer=layers, n_head=heads, n_embd=channels, n_positions=context, vocab_size=vocab,
                        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **more)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.2 + (1.0 if ".ln_" in name and name.endswith("weight") else 0.0))
    return model


def ours_to_theirs(programs, tokenizer_text, work):
    """Models trained here: one line of text each, then opened there."""
    text = work / "text.txt"
    text.write_text(tokenizer_text)
    for name, options in (("biases", []), ("no biases", ["--no-bias"]),
                          ("byte pairs, dropout", ["--vocab", "300", "--dropout", "0.1", "--layers", "3"])):
        out = work / name.replace(" ", "_").replace(",", "")
        run(programs / "train", "--data", text, "--out", out, "--layers", 2, "--heads", 2, "--channels", 32,
            "--context", 24, "--batch", 4, "--steps", 30, "--lr", "1e-2", "--sample", 0, *options)
        logits_check(programs, out, f"trained here, {name}")
        ids = [int(i) for i in run(programs / "tokenizer", "encode", "--model", out, text).split()]
        tokenizer = AutoTokenizer.from_pretrained(out)
        theirs = tokenizer(tokenizer_text)["input_ids"]
        check(len(ids) > 100 and ids == theirs and tokenizer.decode(ids) == tokenizer_text,
              f"trained here, {name}: AutoTokenizer gives the same {len(ids)} ids, and the text from them")
    # Saved again by transformers, the biases of 0 are in the file and config.json has "bias": false still.
    again = work / "again"
    AutoModelForCausalLM.from_pretrained(work / "no_biases").save_pretrained(again)
    logits_check(programs, again, "trained here, no biases, saved there")
    config = json.loads((again / "config.json").read_text())
    weights = load_file(again / "model.safetensors")
    weights["transformer.h.0.ln_1.bias"] += 1
    save_file(weights, again / "model.safetensors", {"format": "pt"})
    check(config["bias"] is False and refused("there are no biases", programs / "train", "info", "--model", again),
          'and refused when a bias is not 0 although config.json has "bias": false')


def theirs_to_ours(programs, work):
    shapes = [(1, 1, 8, 5, 11), (2, 3, 24, 17, 97), (3, 2, 32, 33, 256), (12, 12, 48, 64, 301)]
    for seed, shape in enumerate(shapes):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for shards in (None, "20KB"):
                folder = work / "theirs"
                shutil.rmtree(folder, ignore_errors=True)
                size = {"max_shard_size": shards} if shards else {}
                model_random(shape, seed).to(dtype).save_pretrained(folder, **size)
                files = len(list(folder.glob("*.safetensors")))
                name = f"{shape} {str(dtype)[6:]} in {files} file{'s' * (files > 1)}"
                if files > 1:
                    told = refused("convert_model.py", programs / "train", "info", "--model", folder)
                    folder = converted(folder, work / "joined")
                    name += " joined"
                    check(told, f"{name:<44} named with the command that joins them")
                error, allowed = logits_check(programs, folder, name)
    # The same comparison must notice one number of one tensor that is off by a hundredth.
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.3.mlp.c_fc.weight"][5, 7] += 1e-2
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    draw = random.Random(7)
    ids = [draw.randrange(shape[4]) for _ in range(shape[3])]
    error = error_of(logits_ours(programs, folder, ids), logits_theirs(model.double(), ids))
    check(error > allowed, f"one weight off by 0.01 is noticed: error {error:.2e}, at most {allowed:.2e}")

    # A model without its head has names without "transformer."; old files also hold the masks.
    model = model_random(shapes[1], 5)
    folder = work / "bare"
    GPT2Model(model.config).save_pretrained(folder)
    weights = {name.removeprefix("transformer."): t.clone() for name, t in model.transformer.state_dict(prefix="").items()}
    for layer in range(2):
        weights[f"h.{layer}.attn.bias"] = torch.tril(torch.ones(1, 1, 17, 17))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    logits_check(programs, folder, "names as OpenAI's, with masks", model)
    # PyTorch's own format, with those names, becomes ours.
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    logits_check(programs, converted(folder, work / "joined"), "pytorch_model.bin, converted", model)
    # What the converter refuses.
    for text, words in (({"weight_map": {"a": "../x.safetensors"}}, "not the name of a file"),
                        ({"weight_map": {"a": "x.safetensors"}}, "cannot be read")):
        bad = work / "bad"
        bad.mkdir(exist_ok=True)
        (bad / "model.safetensors.index.json").write_text(json.dumps(text))
        check(refused(words, sys.executable, CONVERTER, bad, work / "never"), f"convert_model.py refuses: {words}")
    save_file({"wte.weight": torch.zeros(2)}, bad / "x.safetensors")
    save_file({"transformer.wte.weight": torch.zeros(2)}, bad / "y.safetensors")
    (bad / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}))
    check(refused("another file too", sys.executable, CONVERTER, bad, work / "never"),
          "convert_model.py refuses: a tensor in two files")
    check(not (work / "never").exists(), "and then makes no folder")
    model = model_random(shapes[1], 6, tie_word_embeddings=False)
    folder = work / "untied"
    model.save_pretrained(folder)
    check(refused("tie_word_embeddings must be true", programs / "train", "info", "--model", folder),
          "an output head of its own is refused")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(config, tie_word_embeddings=True)))
    check(refused("lm_head.weight is not the same", programs / "train", "info", "--model", folder),
          "an output head of its own is refused, too, if only the weights show it")
    with torch.no_grad():
        model.lm_head.weight.copy_(model.transformer.wte.weight)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(dict(config, tie_word_embeddings=True)))
    logits_check(programs, folder, "an output head that is a copy of wte", model)
    for name, value in (("activation_function", "relu"), ("scale_attn_by_inverse_layer_idx", True),
                        ("layer_norm_epsilon", 1e-6), ("n_inner", 50), ("add_cross_attention", True)):
        model_random(shapes[1], 6, **{name: value}).save_pretrained(folder)
        check(refused(name, programs / "train", "info", "--model", folder), f"{name} {value} is refused")


def training_theirs(model, tokens, o):
    """The training loop in PyTorch; returns its losses and leaves the trained weights in the model."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": o["weight-decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    losses, B, T = [], o["batch"], model.config.n_positions
    for step in range(o["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = o["lr"] * min(1.0, (step + 1) / (o["warmup"] + 1))
        starts = [window_start(o["seed"], step * B + i, len(tokens), T) for i in range(B)]
        windows = torch.tensor(np.array([tokens[s : s + T + 1] for s in starts]))
        logits = model(windows[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip"])
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def training(programs, text, work):
    """The same weights, batches and settings in both.  The first step of Adam moves each weight by its rate,
    whatever the size of its gradient, so that rounding errors grow from step to step; again transformers in
    float32 shows by how much, beside itself in float64."""
    o = {"steps": 40, "batch": 6, "lr": 3e-3, "warmup": 5, "weight-decay": 0.1, "beta1": 0.9, "beta2": 0.99,
         "eps": 1e-8, "clip": 1.0, "seed": 3}
    source = work / "text.txt"
    source.write_text(text)
    start, out = work / "start", work / "trained"
    run(programs / "train", "--data", source, "--out", start, "--layers", 2, "--heads", 2, "--channels", 32,
        "--context", 24, "--batch", 4, "--steps", 1, "--sample", 0)
    tokens = [int(i) for i in run(programs / "tokenizer", "encode", "--model", start, source).split()]
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32, attn_pdrop=0.0, embd_pdrop=0.0,
                                                 resid_pdrop=0.0)
    model.save_pretrained(work / "handed")  # what both start from was written by transformers
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(start / name, work / "handed" / name)
    options = [str(part) for name, value in o.items() for part in ("--" + name, value)]
    run(programs / "train", "--init", work / "handed", "--data", source, "--out", out, "--schedule", "constant",
        "--micro-batch", 4, "--validation", 0, "--test", 0, "--sample", 0, *options)
    rows = (out / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    ours = np.array([float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]])
    results = {}
    for dtype in (torch.float64, torch.float32):
        model = AutoModelForCausalLM.from_pretrained(work / "handed", dtype=dtype)
        losses = training_theirs(model, tokens, o)
        results[dtype] = losses, {n: p.detach().double().numpy() for n, p in model.named_parameters()}
    truth, single = results[torch.float64], results[torch.float32]
    error, theirs = np.abs(ours - truth[0]).max(), np.abs(single[0] - truth[0]).max()
    allowed = max(2 * theirs, 2.0**-23 * truth[0].max())
    check(len(ours) == o["steps"] and truth[0][0] - truth[0][-1] > 0.2 and error <= allowed,
          f"{o['steps']} steps of training: the loss falls from {ours[0]:.4f} to {ours[-1]:.4f}, at most {error:.1e} from "
          f"float64's; transformers float32 {theirs:.1e}, at most {allowed:.1e}")
    weights = {n: t.double().numpy() for n, t in load_file(out / "model.safetensors").items()}
    flat = [np.concatenate([w[n].ravel() for n in sorted(truth[1])]) for w in (weights, truth[1], single[1])]
    error, theirs = error_of(flat[0], flat[1]), error_of(flat[2], flat[1])
    allowed = max(2 * theirs, 2.0**-23)
    check(error <= allowed, f"and the weights after it: error {error:.1e}, transformers float32 {theirs:.1e}, "
                            f"at most {allowed:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programs", type=Path, default=Path("build"), metavar="FOLDER",
                        help="where train, tokenizer and logits are (build)")
    programs = parser.parse_args().programs
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")
    text = random_text(1, 20000)
    with tempfile.TemporaryDirectory() as name:
        ours_to_theirs(programs, text, Path(name))
    with tempfile.TemporaryDirectory() as name:
        theirs_to_ours(programs, Path(name))
    with tempfile.TemporaryDirectory() as name:
        training(programs, text, Path(name))
    print(f"{passed} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
