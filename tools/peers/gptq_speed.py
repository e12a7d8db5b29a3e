"""Seconds that GPTQ takes in PyTorch for one square weight whose Hessian is given.

    python gptq_speed.py [--size 4096] [--bits 4] [--group 128] [--threads 2] [--repeat 2] [--save FILE]

The weight is Gaussian; the Hessian is that of correlated inputs with a few loud channels. `--save` writes both and the
codes, so that another program can be run on the same problem.
"""

import argparse
import time

import torch
from common import emit, setup
from gptq import damage, gptq, inverse_factor, rtn
from safetensors.torch import save_file

DAMPING = 0.01
SEED = 7


def problem(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight `[size, size]` and the mean of `x xᵀ` over twice as many inputs as channels."""
    generator = torch.Generator().manual_seed(SEED)
    weight = torch.randn(size, size, generator=generator) / size**0.5
    # Shared directions with a decaying spectrum make the channels correlated, as those of a trained network are.
    rank = max(size // 8, 1)
    spectrum = torch.arange(1, rank + 1).float() ** -0.5
    directions = torch.randn(rank, size, generator=generator) * spectrum[:, None]
    loudness = torch.exp(0.7 * torch.randn(size, generator=generator))
    hessian, chunks = torch.zeros(size, size), 4
    for _ in range(chunks):
        rows = size * 2 // chunks
        shared = torch.randn(rows, rank, generator=generator) @ directions
        inputs = (shared + torch.randn(rows, size, generator=generator)) * loudness
        hessian += inputs.T @ inputs
    return weight, hessian / (size * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--save")
    args = parser.parse_args()

    setup(args.threads)
    weight, hessian = problem(args.size)
    seconds, factor_seconds = [], []
    for _ in range(args.repeat):
        start = time.perf_counter()
        quantized = gptq(weight, hessian, args.bits, args.group, DAMPING)
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        inverse_factor(hessian, DAMPING)
        factor_seconds.append(time.perf_counter() - start)
    if args.save:
        parts = {"weight": weight, "hessian": hessian, "codes": quantized.codes.to(torch.uint8)}
        save_file(parts | {"scale": quantized.scale, "zero": quantized.zero}, args.save)
    nearest = rtn(weight, args.bits, args.group).dequantize()
    emit(
        seconds=min(seconds),
        all_seconds=seconds,
        factor_seconds=min(factor_seconds),
        loss=damage(weight, quantized.dequantize(), hessian),
        loss_rtn=damage(weight, nearest, hessian),
        size=args.size,
        bits=args.bits,
        group_size=args.group,
        damping=DAMPING,
    )


if __name__ == "__main__":
    main()
