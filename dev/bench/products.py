"""The matrix products of training: train.c beside OpenBLAS, oneDNN and MKL, in turn, in one run.

    python3 dev/bench/products.py --settings nano,baby,gpt2-64,gpt2-256 --rounds 5 --threads 2

Needs numpy, whose package brings OpenBLAS along, and build/train.so (`make build/train.so`).
oneDNN is looked for as libdnnl.so (Debian and Ubuntu: the package libdnnl-dev), MKL inside the
CPU build of torch; what is not there is left out.

Every product of a training step is timed with the very layouts that it has in train.c: forward
y = x w, the gradient of the input dx = dy w^T, the gradient of the weights dw += x^T dy, and
the output head, whose matrix lies transposed.  Each contender is a process of its own, loads
one library, and waits (asleep) while the others work; they take turns, shape by shape.  A
figure is the median over all calls of all rounds.  Prints a table in Markdown: GFLOP/s, the
share of the multiply-add peak that train.c measures, and our speed over each of the others;
then the geometric means.
"""

import argparse
import ctypes
import ctypes.util
import glob
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# name: channels, vocabulary, rows (batch x time)
SETTINGS = {
    "nano": (128, 65, 12 * 64),
    "baby": (384, 65, 8 * 256),
    "gpt2-64": (768, 50257, 4 * 64),
    "gpt2-256": (768, 50257, 4 * 256),
}
CONTENDERS = ("train.c", "OpenBLAS", "oneDNN", "MKL")


def shapes(setting):
    """(name, M, N, K, A transposed, B transposed, added to what is there)"""
    C, V, rows = SETTINGS[setting]
    for name, inputs, outputs in (("q, k, v", C, 3 * C), ("projection", C, C),
                                  ("MLP in", C, 4 * C), ("MLP out", 4 * C, C)):
        yield f"{name}: y", rows, outputs, inputs, False, False, False
        yield f"{name}: dx", rows, inputs, outputs, False, True, False
        yield f"{name}: dw", inputs, outputs, rows, True, False, True
    yield "head: y", rows, V, C, False, True, False
    yield "head: dx", rows, C, V, False, False, False
    yield "head: dw", V, C, rows, True, False, True


def load(contender):
    """A function of (M, N, K, A transposed, B transposed, added, A, B, result)."""
    import numpy

    def address(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    one, long = ctypes.c_float, ctypes.c_int64
    if contender == "train.c":
        library = ctypes.CDLL(str(ROOT / "build/train.so"))

        class Matrix(ctypes.Structure):
            _fields_ = [("at", ctypes.c_void_p), ("row", ctypes.c_size_t),
                        ("column", ctypes.c_size_t)]

        def multiply(M, N, K, ta, tb, add, A, B, result):
            size = ctypes.c_size_t
            a = Matrix(A.ctypes.data, 1 if ta else K, M if ta else 1)
            b = Matrix(B.ctypes.data, 1 if tb else N, K if tb else 1)
            library.matrix_product(address(result), size(N), a, b, None, size(M), size(N),
                                   size(K), ctypes.c_bool(add))
        return multiply
    if contender == "OpenBLAS":
        where = pathlib.Path(numpy.__file__).parent.parent / "numpy.libs"
        found = glob.glob(str(where / "*openblas64*.so*"))
        if not found:
            return None
        sgemm = ctypes.CDLL(found[0]).scipy_cblas_sgemm64_

        def multiply(M, N, K, ta, tb, add, A, B, result):
            sgemm(ctypes.c_int(101), ctypes.c_int(112 if ta else 111),
                  ctypes.c_int(112 if tb else 111), long(M), long(N), long(K), one(1),
                  address(A), long(M if ta else K), address(B), long(K if tb else N),
                  one(1 if add else 0), address(result), long(N))
        return multiply
    if contender == "oneDNN":
        name = ctypes.util.find_library("dnnl")
        if not name:
            return None
        sgemm = ctypes.CDLL(name).dnnl_sgemm

        def multiply(M, N, K, ta, tb, add, A, B, result):
            sgemm(ctypes.c_char(b"T" if ta else b"N"), ctypes.c_char(b"T" if tb else b"N"),
                  long(M), long(N), long(K), one(1), address(A), long(M if ta else K),
                  address(B), long(K if tb else N), one(1 if add else 0), address(result),
                  long(N))
        return multiply
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    def multiply(M, N, K, ta, tb, add, A, B, result):
        a = torch.from_numpy(A.reshape(K, M).T if ta else A.reshape(M, K))
        b = torch.from_numpy(B.reshape(N, K).T if tb else B.reshape(K, N))
        c = torch.from_numpy(result)
        if add:
            torch.addmm(c, a, b, out=c)
        else:
            torch.mm(a, b, out=c)
    return multiply


def worker(contender):
    """Reads a shape a line, answers with the seconds of each call; an empty first answer says
    that the library is not there."""
    multiply = load(contender)
    print("ready" if multiply else "missing", flush=True)
    if not multiply:
        return
    import numpy
    numbers = numpy.random.default_rng(1)
    last = None
    for line in sys.stdin:
        M, N, K, ta, tb, add, calls = json.loads(line)
        if line != last:
            A = numbers.random(M * K, dtype=numpy.float32) - 0.5
            B = numbers.random(K * N, dtype=numpy.float32) - 0.5
            result = numpy.zeros((M, N), dtype=numpy.float32)
            last = line
        seconds = []
        for call in range(calls + 2):  # the first two warm up
            start = time.perf_counter()
            multiply(M, N, K, ta, tb, add, A, B, result)
            seconds.append(time.perf_counter() - start)
        if not add:  # a wrong product is no product
            a = A.reshape(K, M).T if ta else A.reshape(M, K)
            b = B.reshape(N, K).T if tb else B.reshape(K, N)
            row = a[M - 1].astype(float) @ b.astype(float)
            assert numpy.allclose(result[M - 1], row, atol=1e-3 * math.sqrt(K)), contender
        print(json.dumps(seconds[2:]), flush=True)


def peak(threads):
    """GFLOP/s that train.c's own loop of multiply-adds reaches."""
    library = ctypes.CDLL(str(ROOT / "build/train.so"))
    library.peak_flops.restype = ctypes.c_double
    return library.peak_flops() / 1e9


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads),
                       OPENBLAS_NUM_THREADS=str(arguments.threads), GOMP_SPINCOUNT="1000",
                       OPENBLAS_THREAD_TIMEOUT="16")
    # OpenBLAS takes a processor that it does not know for an old one; it gets its best kernels.
    if "avx512f" in pathlib.Path("/proc/cpuinfo").read_text():
        environment["OPENBLAS_CORETYPE"] = "SkylakeX"
    os.environ.update(environment)
    processes = {}
    for name in arguments.contenders.split(","):
        process = subprocess.Popen([sys.executable, __file__, "--worker", name], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   env=environment)
        if process.stdout.readline().strip() == "ready":
            processes[name] = process
        else:
            print(f"{name} is not there", file=sys.stderr)
    if "train.c" not in processes:
        parser.error("--contenders: train.c must be among them, the others are compared with it")
    others = [name for name in processes if name != "train.c"]
    highest = peak(arguments.threads)
    rows, ratios = [], {name: [] for name in others}
    shares = []
    for setting in arguments.settings.split(","):
        for name, M, N, K, ta, tb, add in shapes(setting):
            flops = 2.0 * M * N * K
            calls = max(3, min(50, int(2e9 / flops)))
            seconds = {contender: [] for contender in processes}
            for _ in range(arguments.rounds):
                for contender, process in processes.items():
                    process.stdin.write(json.dumps([M, N, K, ta, tb, add, calls]) + "\n")
                    process.stdin.flush()
                    seconds[contender] += json.loads(process.stdout.readline())
            highest = max(highest, peak(arguments.threads))
            rows.append((setting, name, M, N, K, flops,
                         {c: statistics.median(s) for c, s in seconds.items()}))
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print("| setting | product | M, N, K | " + " | ".join(processes) + " | share of the peak | "
          + " | ".join(f"ours / {name}" for name in others) + " |")
    print("|---" * (4 + len(processes) + len(others)) + "|")
    for setting, name, M, N, K, flops, median in rows:
        rate = {c: flops / s / 1e9 for c, s in median.items()}
        share = rate.get("train.c", 0) / highest
        shares.append((setting, share))
        for other in others:
            ratios[other].append((setting, rate["train.c"] / rate[other]))
        print(f"| {setting} | {name} | {M}, {N}, {K} | "
              + " | ".join(f"{r:.0f}" for r in rate.values()) + f" | {100 * share:.0f}% | "
              + " | ".join(f"{ratios[o][-1][1]:.2f}" for o in others) + " |")
    print(f"\npeak {highest:.0f} GFLOP/s")
    for setting in arguments.settings.split(",") + ["all"]:
        def mean(pairs):
            return geometric_mean([v for s, v in pairs if setting in (s, "all")])
        print(f"{setting}: share of the peak {100 * mean(shares):.0f}%, "
              + ", ".join(f"ours / {o} {mean(ratios[o]):.2f}" for o in others))


if __name__ == "__main__":
    main()
