"""Seconds that PyTorch takes for rows in 8 bits times a matrix in 8 bits, and `trimtab bench integers` in the same run.

    python int8_speed.py --trimtab ./trimtab [--threads 2] [--repeat 3]

PyTorch's dynamic quantization: its linear layer finds a range for all rows, rounds them and multiplies integers; the engine is
the default of the processor. Ours are rows that are codes already, which is a part in a thousand of the work at 256 rows.
Matrices are 2048 x 5632, 48 in rotation, so that none stays in a cache. Both programs take turns; the least of the medians of
each counts. Prints one JSON line.
"""

import argparse
import json
import subprocess
import time
import warnings

import torch
from common import emit, setup

ROWS, COLS, MATRICES, ROUNDS = 2048, 5632, 48, 5
INPUTS = (1, 16, 256)


def median(layers: list[torch.nn.Module], x: torch.Tensor) -> float:
    """Seconds of one product: the median of rounds over all matrices."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for layer in layers:
            layer(x)
        rounds.append((time.perf_counter() - start) / len(layers))
    return sorted(rounds)[ROUNDS // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trimtab", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    setup(args.threads)
    warnings.simplefilter("ignore")
    linear = torch.nn.Sequential(torch.nn.Linear(COLS, ROWS))
    quantize = torch.ao.quantization.quantize_dynamic
    layers = [quantize(linear, {torch.nn.Linear}, dtype=torch.qint8) for _ in range(MATRICES)]
    command = [args.trimtab, "bench", "integers", "--threads", str(args.threads), "--json"]
    theirs = {n: [] for n in INPUTS}
    ours = {n: [] for n in INPUTS}
    for _ in range(args.repeat):
        for n in INPUTS:
            theirs[n].append(median(layers, torch.randn(n, COLS)))
        for row in json.loads(subprocess.run(command, check=True, capture_output=True).stdout):
            if row["name"] == "integers 8 bits by 8 bits":
                ours[int(row["shape"].split()[0])].append(row["seconds"])
    emit(
        engine=torch.backends.quantized.engine,
        torch_seconds=theirs,
        seconds=ours,
        speed_to_torch={n: min(theirs[n]) / min(ours[n]) for n in INPUTS},
    )


if __name__ == "__main__":
    main()
