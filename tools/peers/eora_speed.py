"""Seconds that EoRA's closed form takes with LAPACK, and `trimtab bench eora` on the same problem in the same run.

    python eora_speed.py --trimtab ./trimtab [--size 2048] [--bits 3] [--threads 2] [--repeat 3]

The published recipe in f64: eigenvectors of the second moment (LAPACK syevd), the error times their scaled matrix,
singular values of that (gesdd), the truncated factors times the inverse. The weight is Gaussian and rounded to nearest;
the second moment is that of `gptq_speed.py`. Both programs take turns; the least time of each counts. Prints one JSON line;
exits with 1 if ours is slower than 0.8 times LAPACK's speed, if the fast path is not 3 times as fast as the exact one, or if
it leaves more than 1.001 times the least error.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import emit, setup
from gptq import rtn
from gptq_speed import problem
from safetensors.torch import save_file

BENCH_RANK = 128


def published(error: torch.Tensor, moment: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Factors `A [rank, n]`, `B [m, rank]`, and the share of the squared output error that they leave."""
    values, vectors = torch.linalg.eigh(moment)
    root = values.clamp_min(1e-8 * values.max()).sqrt()
    u, s, vt = torch.linalg.svd((error @ vectors) * root, full_matrices=False)
    half = s[:rank].sqrt()
    a = (half[:, None] * vt[:rank] / root) @ vectors.T
    energy = s.square()
    return a, u[:, :rank] * half, (energy[rank:].sum() / energy.sum()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trimtab", required=True)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    setup(args.threads)
    weight, moment = problem(args.size)
    error = weight - rtn(weight, args.bits, args.group).dequantize()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "problem.safetensors")
        save_file({"error": error.contiguous(), "moment": moment.contiguous()}, file)
        command = [args.trimtab, "bench", "eora", "--problem", file, "--threads", str(args.threads), "--json"]
        ours, theirs, left = [], [], 0.0
        for _ in range(args.repeat):
            start = time.perf_counter()
            _, _, left = published(error.double(), moment.double(), BENCH_RANK)
            theirs.append(time.perf_counter() - start)
            ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    exact, fast = ([run[i]["seconds"] for run in ours] for i in (0, 1))
    exact_left, fast_left = (ours[0][i]["error_left"] for i in (0, 1))
    to_lapack, to_exact = min(theirs) / min(exact), min(exact) / min(fast)
    emit(
        lapack_seconds=theirs,
        exact_seconds=exact,
        fast_seconds=fast,
        exact_speed_to_lapack=to_lapack,
        fast_speed_to_exact=to_exact,
        error_left={"lapack": left, "exact": exact_left, "fast": fast_left},
        size=args.size,
        rank=BENCH_RANK,
        bits=args.bits,
        group_size=args.group,
    )
    same = abs(exact_left / left - 1) < 1e-3
    sys.exit(0 if same and to_lapack >= 0.8 and to_exact >= 3 and fast_left <= 1.001 * exact_left else 1)


if __name__ == "__main__":
    main()
