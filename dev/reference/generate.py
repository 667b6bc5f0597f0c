"""Writes the expected tensors of tests/reference/ with PyTorch, or checks those that are there.

    python dev/reference/generate.py            writes tests/reference/*.safetensors
    python dev/reference/generate.py --check    computes them again and compares, exit status 1
                                                if one differs

Every computation runs twice from the same float32 inputs.  Autograd in float64 gives the truth,
stored as F64.  The same lines in float32 give the yardstick: their distance from the truth,
|float32 - float64| / |float64| in the Euclidean norm, is stored beside each tensor as
NAME.float32_error.  A test holds our own float32 result to about that distance.

The rounding of a few numbers is luck: three elements can come out exact here and a unit in the
last place off on another processor.  So NAME.float32_error is the largest of PyTorch's
distances for the stored inputs and for a few neighbors of them, some units in the last place
away (see `neighbor`).  For a tensor of a thousand elements they are all alike.

Names inside a file: CASE/OPERAND, with the operand names of train.c (x, weight, dy, dx, ...).
The gradient of X is dX.  An operand that a case leaves out is one that a test passes as NULL.
"""
import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save
from torch.nn import functional as F

from model import MODELS, model_reference
from randomness import dropout_mask, random_bits

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "reference"


def relative_error(result, truth):
    """|result - truth| / |truth|, Euclidean; the plain distance when the truth is all zeros."""
    distance = np.linalg.norm((result.astype(np.float64) - truth).ravel())
    size = np.linalg.norm(truth.ravel())
    return distance / size if size else distance


def neighbor(array, number):
    """Neighbor 0 is the array; the others differ from it by some 8 units in the last place.

    The problem stays as well or badly conditioned as it was, and the roundings are drawn anew.
    """
    if number == 0 or array.dtype != np.float32:
        return array
    noise = np.random.default_rng(number).standard_normal(array.shape)
    return (array * (1 + 2.0**-20 * noise)).astype(np.float32)


class File:
    """The tensors of one file, gathered case by case."""

    def __init__(self, name, seed):
        self.name, self.tensors, self.cases = name, {}, 0
        self.random = np.random.default_rng(seed)

    def normal(self, *shape, mean=0.0, deviation=1.0):
        """Float32 inputs, so that both precisions start from the same numbers."""
        return (mean + deviation * self.random.standard_normal(shape)).astype(np.float32)

    def store(self, name, array):
        assert name not in self.tensors, name
        array = np.array(array, order="C")  # a copy: an optimizer may work on the original
        assert array.dtype in (np.float32, np.float64, np.int32, np.int64), (name, array.dtype)
        assert array.dtype.kind == "i" or np.isfinite(array).all(), name
        self.tensors[name] = array

    def expect(self, compute, count=8):
        """What a test must reproduce, and how close PyTorch's float32 comes to it.

        compute(dtype, n) returns a dictionary of results from neighbor n of the inputs.
        """
        errors = {}
        for number in range(count):
            truths, singles = compute(torch.float64, number), compute(torch.float32, number)
            for name, truth in truths.items():
                single = singles[name]
                assert truth.dtype == np.float64 and single.dtype == np.float32, name
                errors.setdefault(name, []).append(relative_error(single, truth))
                if number == 0:
                    self.store(name, truth)
        for name, figures in errors.items():
            self.store(name + ".float32_error", np.array([max(figures)]))

    def kernel(self, case, function, inputs, upstream, integers=(), dropout=None, without=()):
        """One case of one kernel.

        function(dtype, **inputs) returns a dictionary of outputs; upstream holds the gradients
        that backward starts from, keyed by the output's name.  `without` names the gradients
        that nobody asks for.
        """
        self.cases += 1
        for name, array in inputs.items():
            self.store(f"{case}/{name}", array)
        for name, array in upstream.items():
            self.store(f"{case}/d{name}", array)
        if dropout:
            self.store(f"{case}/dropout_rate", np.array([dropout[0]], np.float32))
            key_first = np.array(dropout[1:], np.uint64)
            self.store(f"{case}/dropout_key_first", key_first.view(np.int64))

        def compute(dtype, number):
            leaves = {}
            for name, array in inputs.items():
                if name in integers:
                    leaves[name] = torch.from_numpy(array).long()
                else:
                    near = torch.tensor(neighbor(array, number), dtype=dtype)
                    leaves[name] = near.requires_grad_()
            outputs = function(dtype, **leaves)
            torch.autograd.backward([outputs[n] for n in upstream],
                                    [torch.tensor(neighbor(g, number), dtype=dtype)
                                     for g in upstream.values()])
            results = {n: o.detach() for n, o in outputs.items()}
            for name, leaf in leaves.items():
                if name not in integers and name not in without:
                    results["d" + name] = leaf.grad
            return {f"{case}/{n}": t.numpy() for n, t in results.items()}

        self.expect(compute)

    def bytes(self):
        self.store("cases", np.array([self.cases], np.int64))
        return save(self.tensors)


def tokens(file, shape, limit):
    """Ids in [0, limit), each likely to occur more than once, so that a scatter must add."""
    return file.random.integers(0, limit, shape).astype(np.int32)


def embedding():
    file = File("embedding", 1)

    def function(dtype, tokens, wte, wpe):
        return {"x": F.embedding(tokens, wte) + F.embedding(torch.arange(tokens.shape[1]), wpe)}

    for case, B, T, C, V in (("1_1_1", 1, 1, 1, 2), ("1_7_5", 1, 7, 5, 3),
                             ("3_2_17", 3, 2, 17, 7), ("2_33_16", 2, 33, 16, 65),
                             ("2_64_17", 2, 64, 17, 65)):
        file.kernel(case, function,
                    {"tokens": tokens(file, (B, T), V), "wte": file.normal(V, C),
                     "wpe": file.normal(T, C)},
                    {"x": file.normal(B, T, C)}, integers=("tokens",))
    return file


def layernorm():
    file = File("layernorm", 2)

    def function(dtype, x, weight, bias=None):
        C = x.shape[-1]
        with torch.no_grad():
            _, mean, rstd = torch.native_layer_norm(x, (C,), weight, bias, 1e-5)
        return {"y": F.layer_norm(x, (C,), weight, bias, 1e-5),
                "mean": mean.flatten(), "rstd": rstd.flatten()}

    def case(name, N, C, mean=0.5, deviation=1.0, bias=True):
        inputs = {"x": file.normal(N, C, mean=mean, deviation=deviation),
                  "weight": file.normal(C, mean=1.0, deviation=0.3)}
        if bias:
            inputs["bias"] = file.normal(C, deviation=0.3)
        file.kernel(name, function, inputs, {"y": file.normal(N, C)})

    # With 1 channel the output is the bias and dx is zero; with 2 it is nearly so.  The tests
    # look at those two by themselves: a relative error means nothing there.
    case("1_3", 1, 3)
    case("1_17", 1, 17)
    case("7_5", 7, 5)
    case("33_33", 33, 33)
    case("3_128", 3, 128)
    case("17_65_no_bias", 17, 65, bias=False)
    case("65_17", 65, 17)
    case("370_5", 370, 5)  # many rows: sums over them must not lose digits
    # A mean that is large beside the deviation: E[x^2] - E[x]^2 loses every digit here.
    case("large_mean", 16, 64, mean=1e3)
    # A row that hardly varies: here eps is the larger part of the variance.
    case("nearly_constant", 16, 33, mean=5.0, deviation=1e-4)
    case("large_deviation", 8, 48, deviation=1e4)
    return file


def matmul():
    file = File("matmul", 3)

    def function(dtype, x, weight, bias=None):
        return {"y": F.linear(x, weight.t(), bias)}

    def case(name, N, C, O, bias=True, dx=True):
        inputs = {"x": file.normal(N, C), "weight": file.normal(C, O)}
        if bias:
            inputs["bias"] = file.normal(O)
        file.kernel(name, function, inputs, {"y": file.normal(N, O)},
                    without=() if dx else ("x",))

    case("1_1_1", 1, 1, 1)
    case("1_5_3", 1, 5, 3)
    case("2_3_1", 2, 3, 1)
    case("7_17_5", 7, 17, 5)
    case("17_33_7_no_bias", 17, 33, 7, bias=False)
    case("33_7_65", 33, 7, 65)
    case("31_37_29_no_dx", 31, 37, 29, dx=False)
    case("70_16_20", 70, 16, 20)
    case("1000_1_2", 1000, 1, 2)  # many rows: sums over them must not lose digits
    case("5_128_17", 5, 128, 17)
    case("40_32_48_no_bias", 40, 32, 48, bias=False)
    case("3_300_2", 3, 300, 2)
    return file


def mixed_precision():
    """float32 rounded to bf16, bit by bit; and the three products of such numbers."""
    file = File("mixed_precision", 12)
    bits = file.random.integers(0, 2**32, 2000, dtype=np.uint32)
    ties = (bits[:500] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    special = np.array([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0x7F800001,
                        0xFFFFFFFF, 1, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001],
                       np.uint32)
    bits = np.concatenate([bits, ties, special])
    rounded = torch.from_numpy(bits.view(np.float32)).bfloat16().float().numpy()
    nan = np.isnan(rounded)  # which NaN it is, nobody promises
    file.store("rounding/x", bits.view(np.int32))
    file.store("rounding/y", np.where(nan, np.uint32(0x7FC00000), rounded.view(np.uint32))
               .view(np.int32))
    file.cases = 2
    for case, N, C, O in (("33_37_29", 33, 37, 29), ("70_48_65", 70, 48, 65)):
        inputs = [file.normal(N, C), file.normal(C, O), file.normal(N, O)]
        for name, array in zip(("x", "weight", "dy"), inputs):
            file.store(f"{case}/{name}", array)

        def compute(dtype, number):
            x, weight, dy = (torch.from_numpy(neighbor(a, number)).bfloat16().to(dtype)
                             for a in inputs)
            return {f"{case}/y": (x @ weight).numpy(), f"{case}/dx": (dy @ weight.T).numpy(),
                    f"{case}/dweight": (x.T @ dy).numpy()}

        file.expect(compute)
    return file


def attention():
    file = File("attention", 4)

    def heads(x, H):
        return x.unflatten(-1, (H, -1)).transpose(1, 2)

    def case(name, B, T, C, H, dropout=None, deviation=1.0, causal=True):
        def function(dtype, qkv):
            q, k, v = (heads(part, H) for part in qkv.split(C, -1))
            scores = q @ k.transpose(-1, -2) / math.sqrt(C // H)
            if causal:
                future = torch.ones(T, T, dtype=torch.bool).triu(1)
                scores = scores.masked_fill(future, -math.inf)
            if dropout:
                mask = torch.from_numpy(dropout_mask(dropout, (B, H, T, T))).to(dtype)
                y = (scores.softmax(-1) * mask) @ v
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return {"y": y.transpose(1, 2).flatten(2), "lse": scores.logsumexp(-1).detach()}

        qkv = file.normal(B, T, 3 * C)
        qkv[:, :, : 2 * C] *= deviation  # queries and keys: scores grow with the square
        file.kernel(name, function, {"qkv": qkv}, {"y": file.normal(B, T, C)}, dropout=dropout)

    case("1_1_1_1", 1, 1, 1, 1)
    case("1_2_3_1", 1, 2, 3, 1)
    case("1_7_5_1", 1, 7, 5, 1)
    case("3_1_6_2", 3, 1, 6, 2)
    case("2_5_21_7", 2, 5, 21, 7)
    case("2_17_24_3", 2, 17, 24, 3)
    case("1_33_16_1", 1, 33, 16, 1)
    case("1_70_10_2", 1, 70, 10, 2)
    case("1_130_8_2", 1, 130, 8, 2)
    case("1_12_64_1", 1, 12, 64, 1)
    # Scores with a deviation of about 60: exp() overflows unless the maximum goes first.
    case("large_scores", 1, 20, 32, 2, deviation=4.0)
    case("dropout", 2, 19, 12, 3, dropout=(0.3, 0x123456789ABCDEF, 0))
    case("dropout_first", 1, 66, 6, 1, dropout=(0.1, 0xFEDCBA9876543210, 3 * 66 * 66))
    # Every query sees every key.
    case("full_1_1_1", 1, 1, 3, 1, causal=False)
    case("full_2_7_3", 2, 7, 15, 3, causal=False)
    case("full_1_70_2", 1, 70, 10, 2, causal=False)
    case("full_dropout", 2, 19, 12, 3, dropout=(0.2, 0x13579BDF02468ACE, 77), causal=False)
    return file


def gelu():
    file = File("gelu", 5)

    def function(dtype, x):
        return {"y": F.gelu(x, approximate="tanh")}

    for case, N, deviation in (("1", 1, 1.0), ("2", 2, 1.0), ("3", 3, 1.0), ("5", 5, 1.0),
                               ("7", 7, 1.0), ("17", 17, 1.0), ("33", 33, 1.0),
                               ("1000", 1000, 1.5), ("small", 257, 1e-3), ("large", 257, 30.0)):
        file.kernel(case, function, {"x": file.normal(N, deviation=deviation)},
                    {"y": file.normal(N)})
    return file


def residual():
    file = File("residual", 6)

    def function(dtype, x, branch):
        return {"y": x + branch}

    for N in (1, 3, 17, 130):
        file.kernel(str(N), function, {"x": file.normal(N), "branch": file.normal(N)},
                    {"y": file.normal(N)})
    return file


def dropout():
    file = File("dropout", 7)

    def case(name, N, dropout):
        def function(dtype, x):
            return {"y": x * torch.from_numpy(dropout_mask(dropout, (N,))).to(dtype)}

        file.kernel(name, function, {"x": file.normal(N)}, {"y": file.normal(N)},
                    dropout=dropout)

    case("7", 7, (0.25, 11, 0))
    case("33", 33, (0.5, 0xFFFFFFFFFFFFFFFF, 5))
    case("500", 500, (0.1, 0x9E3779B97F4A7C15, 1 << 40))
    case("rate_0", 17, (0.0, 3, 0))
    case("rate_09", 130, (0.9, 4, 1000))
    keys = np.array([0, 1, 42, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF], np.uint64)
    places = np.array([0, 1, 2, 1000003, 0xFFFFFFFFFFFFFFFE], np.uint64)
    bits = np.array([random_bits(k, places) for k in keys])
    for name, array in (("keys", keys), ("indices", places), ("bits", bits)):
        file.store("random/" + name, array.view(np.int64))
    return file


def unembedding():
    file = File("unembedding", 8)

    def function(dtype, x, wte):
        return {"logits": x @ wte.t()}

    for case, N, C, V in (("1_1_2", 1, 1, 2), ("1_5_7", 1, 5, 7), ("7_3_65", 7, 3, 65),
                          ("33_17_5", 33, 17, 5), ("17_48_65", 17, 48, 65),
                          ("2_8_257", 2, 8, 257)):
        file.kernel(case, function, {"x": file.normal(N, C), "wte": file.normal(V, C)},
                    {"logits": file.normal(N, V)})
    return file


def cross_entropy():
    file = File("cross_entropy", 9)

    def function(dtype, logits, targets):
        return {"losses": F.cross_entropy(logits, targets, ignore_index=-1, reduction="none"),
                "lse": logits.logsumexp(-1).detach()}

    def case(name, N, V, masked=0, deviation=1.0, mean=0.0):
        targets = tokens(file, (N,), V)
        targets[file.random.permutation(N)[:masked]] = -1
        logits = file.normal(N, V, mean=mean, deviation=deviation)
        # Unequal weights, also negative ones: nothing says that a loss is averaged.
        file.kernel(name, function, {"logits": logits, "targets": targets},
                    {"losses": file.normal(N)}, integers=("targets",))

    case("1_2", 1, 2)
    case("1_65", 1, 65)
    case("7_5", 7, 5)
    case("33_17", 33, 17, masked=4)
    case("20_65", 20, 65, masked=3)
    case("3_1000", 3, 1000)
    case("large_logits", 17, 33, deviation=80.0)  # exp(80) is near the largest float
    case("shifted_logits", 17, 33, mean=500.0)
    return file


def adamw():
    """Several updates by torch.optim.AdamW from given moments, with a new gradient each."""
    file = File("adamw", 10)
    cases = (
        # name, N, first step, updates, lr, beta1, beta2, eps, decay, gradient's scale and size
        ("1", 1, 1, 3, 1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 1.0),
        ("7", 7, 1, 5, 1e-2, 0.9, 0.99, 1e-8, 0.0, 0.25, 1.0),
        ("33", 33, 1, 5, 3e-2, 0.8, 0.99, 1e-5, 0.3, 0.5, 1e-3),
        ("late", 130, 2001, 4, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0.37, 1e-2),
        # Gradients below eps: a misplaced eps, or one inside the root, is another update.
        ("below_eps", 65, 1, 4, 1e-1, 0.9, 0.95, 1e-6, 0.1, 1.0, 1e-7),
        ("1000", 1000, 1, 2, 1e-2, 0.9, 0.95, 1e-8, 0.1, 1.0, 1.0),
    )
    for case, N, first, updates, lr, beta1, beta2, eps, decay, scale, size in cases:
        file.cases += 1
        start = {"w": file.normal(N)}
        if first > 1:  # moments as a long run would have left them
            start["m"] = file.normal(N, deviation=0.1 * size)
            start["v"] = np.square(file.normal(N, deviation=size))
        else:
            start["m"] = start["v"] = np.zeros(N, np.float32)
        gradients = file.normal(updates, N, deviation=size)
        # The options are float32 in train.c, and their rounded values are what both must use.
        names = ("lr", "beta1", "beta2", "eps", "weight_decay", "gradient_scale")
        numbers = np.array((lr, beta1, beta2, eps, decay, scale), np.float32)
        options = dict(zip(names, map(float, numbers)))

        def compute(dtype, number):
            near = {n: torch.tensor(neighbor(a, number), dtype=dtype)
                    for n, a in start.items()}
            w = torch.nn.Parameter(near["w"])
            optimizer = torch.optim.AdamW(
                [w], lr=options["lr"], betas=(options["beta1"], options["beta2"]),
                eps=options["eps"], weight_decay=options["weight_decay"], foreach=False)
            if first > 1:
                optimizer.state[w] = {"step": torch.tensor(float(first - 1)),
                                      "exp_avg": near["m"], "exp_avg_sq": near["v"]}
            for gradient in gradients:
                w.grad = torch.tensor(neighbor(gradient, number), dtype=dtype)
                w.grad *= options["gradient_scale"]
                optimizer.step()
            state = optimizer.state[w]
            return {f"{case}/w": w.detach().numpy(), f"{case}/m": state["exp_avg"].numpy(),
                    f"{case}/v": state["exp_avg_sq"].numpy()}

        for name, array in start.items():
            file.store(f"{case}/{name}_before", array)
        file.store(f"{case}/gradients", gradients)
        file.store(f"{case}/options", numbers)
        file.store(f"{case}/first_step", np.array([first], np.int64))
        file.expect(compute)
    return file


def gradient_norm():
    file = File("gradient_norm", 11)
    # 1e30: its square is past the largest float, so the squares must be formed in double.
    for case, N, deviation in (("1", 1, 1.0), ("5", 5, 1.0), ("33", 33, 1e-20),
                               ("1000", 1000, 1.0), ("4097", 4097, 1e30)):
        file.cases += 1
        gradient = file.normal(N, deviation=deviation)
        norm = torch.linalg.vector_norm(torch.from_numpy(gradient).double())
        file.store(f"{case}/gradient", gradient)
        file.store(f"{case}/norm", norm.numpy().reshape(1))
    return file


def model(name):
    file = File("model_" + name, 100 + list(MODELS).index(name))
    model_reference(file, MODELS[name], neighbor)
    return file


def differences(committed, computed):
    """What of a file is no longer what PyTorch computes: a list of lines."""
    lines = [f"{n}: missing" for n in computed if n not in committed]
    lines += [f"{n}: no longer generated" for n in committed if n not in computed]
    for name in sorted(set(committed) & set(computed)):
        old, new = committed[name], computed[name]
        if old.dtype != new.dtype or old.shape != new.shape:
            lines.append(f"{name}: {old.dtype}{old.shape}, now {new.dtype}{new.shape}")
        elif name.endswith(".float32_error"):
            # Another processor adds in another order.  Its error is of the same size, but for a
            # few elements it may be nothing here and one unit in the last place there.
            if not abs(old - new).max() <= 2.0 * min(old.max(), new.max()) + 2.0**-22:
                lines.append(f"{name}: {old.max():.3g}, now {new.max():.3g}")
        elif old.dtype == np.float64:
            # Rounding in float64 is 2^-29 of rounding in float32, however ill conditioned the
            # case is; 2^-25 leaves room for luck.
            rounding = committed.get(name + ".float32_error", np.zeros(1)).max()
            if not relative_error(new, old) <= max(1e-12, rounding * 2.0**-25):
                lines.append(f"{name}: relative difference {relative_error(new, old):.3g}")
        elif old.tobytes() != new.tobytes():
            lines.append(f"{name}: the inputs differ")
    return lines


def main():
    parser = argparse.ArgumentParser(description="Write the tensors of tests/reference.")
    parser.add_argument("--check", action="store_true", help="compare with what is there")
    check = parser.parse_args().check
    torch.set_num_threads(1)  # the order of sums must not depend on the machine's cores
    torch.use_deterministic_algorithms(True)
    files = [f() for f in (embedding, layernorm, matmul, mixed_precision, attention, gelu, residual, dropout,
                           unembedding, cross_entropy, adamw, gradient_norm)]
    files += [model(name) for name in MODELS]
    if not check:
        FOLDER.mkdir(parents=True, exist_ok=True)
    failed = total = 0
    for file in files:
        path, data = FOLDER / (file.name + ".safetensors"), file.bytes()
        total += len(data)
        if not check:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(data)
            temporary.replace(path)
            lines, verdict = [], "written"
        elif not path.exists():
            lines, verdict = ["the file is missing"], "FAIL"
        else:
            lines = differences(load_file(path), file.tensors)
            verdict = "FAIL" if lines else "ok"
        print(f"{verdict:8}{path.name:32}{len(file.tensors):5} tensors{len(data):9} bytes")
        for line in lines:
            print("        " + line)
        failed += bool(lines)
    names = {f.name + ".safetensors" for f in files}
    strangers = {p.name for p in FOLDER.glob("*.safetensors")} - names
    for name in sorted(strangers):
        print(f"FAIL    {name}: not one of the files that this program writes")
    failed += len(strangers)
    print(f"{len(files)} files, {total} bytes, {failed} differ" if check
          else f"{len(files)} files, {total} bytes")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
