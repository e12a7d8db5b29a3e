"""Seconds that decoupleQ's layer stage takes in PyTorch for one square weight whose second moment is given.

    python decoupleq_speed.py [--size 2048] [--bits 2] [--threads 2] [--iters 4] [--repeat 2]

The arithmetic of the paper (arXiv:2404.12759) with its defaults for language models: one step and one zero a row, GPTQ in the order of
the diagonal for the integers, 160 shrunk ranges each judged by `e H eᵀ`, closed form for step and zero. Products are in single
precision, the 2 x 2 systems in double. The problem is that of `trimtab bench decoupleq`: a Gaussian weight, twice as many Gaussian
inputs as channels.
"""

import argparse
import time

import torch
from common import emit, setup

DAMPING = 0.01
BLOCK = 128
GRID, MAX_SHRINK = 200, 0.8
SEED = 7


def problem(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight `[size, size]` and the mean of `x xᵀ`."""
    generator = torch.Generator().manual_seed(SEED)
    weight = 0.02 * torch.randn(size, size, generator=generator)
    inputs = torch.randn(2 * size, size, generator=generator)
    return weight, inputs.T @ inputs / (2 * size)


def row_errors(weight: torch.Tensor, quantized: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    error = quantized - weight
    return ((error @ hessian) * error).sum(1)


def codes_of(weight, scale, zero, low, high):
    """Codes by rounding half up, as the paper's program rounds."""
    return torch.floor((weight - zero) / scale + 0.5).clamp(low, high)


def gptq(weight, hessian, scale, zero, low, high):
    """Integers for fixed steps and zeros, columns in the order of the diagonal."""
    order = torch.argsort(hessian.diagonal(), descending=True)
    damped = hessian[order][:, order].clone()
    damping = DAMPING
    while True:
        attempt = damped + damping * damped.diagonal().mean() * torch.eye(len(damped))
        factor, failed = torch.linalg.cholesky_ex(attempt)
        if not failed:
            break
        damping *= 10
    factor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    current, codes = weight[:, order].clone(), torch.zeros_like(weight)
    columns = weight.shape[1]
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        errors = torch.zeros(len(weight), last - first)
        for j in range(first, last):
            column = current[:, j]
            code = codes_of(column, scale[:, 0], zero[:, 0], low, high)
            error = (column - (scale[:, 0] * code + zero[:, 0])) / factor[j, j]
            current[:, j:last] -= error[:, None] * factor[j, j:last][None]
            codes[:, j], errors[:, j - first] = code, error
        current[:, last:] -= errors @ factor[first:last, last:]
    return codes[:, torch.argsort(order)]


def closed_form(weight, codes, hessian, scale, zero):
    """Step and zero of least error for the integers of each row."""
    of_codes, of_weight = codes @ hessian, weight @ hessian
    aa, a1, ones = (of_codes * codes).sum(1), of_codes.sum(1), hessian.sum()
    wa, w1 = (of_weight * codes).sum(1), of_weight.sum(1)
    aa, a1, ones, wa, w1 = (x.double() for x in (aa, a1, ones, wa, w1))
    determinant = aa * ones - a1 * a1
    usable = determinant > 1e-12 * aa * ones
    determinant = torch.where(usable, determinant, torch.ones_like(determinant))
    found_scale = ((wa * ones - a1 * w1) / determinant).float()[:, None]
    found_zero = ((aa * w1 - a1 * wa) / determinant).float()[:, None]
    usable = usable[:, None]
    return torch.where(usable, found_scale, scale), torch.where(usable, found_zero, zero)


def shrink_search(weight, hessian, lowest, highest, low, high):
    best, scale, zero = None, None, None
    for i in range(int(MAX_SHRINK * GRID)):
        keep = 1 - i / GRID
        s = keep * (highest - lowest) / (high - low)
        z = keep * lowest - s * low
        error = row_errors(weight, s * codes_of(weight, s, z, low, high) + z, hessian)
        if best is None:
            best, scale, zero = error, s, z
            continue
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better[:, None], s, scale), torch.where(better[:, None], z, zero)
    return scale, zero


def decoupleq(weight, hessian, bits, iters):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    hessian = hessian + DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))
    lowest = weight.amin(1, keepdim=True).clamp(max=0)
    highest = weight.amax(1, keepdim=True).clamp(min=0)
    scale = (highest - lowest) / (high - low)
    zero = lowest - scale * low
    codes = codes_of(weight, scale, zero, low, high)
    error = row_errors(weight, scale * codes + zero, hessian)
    nearest = error.sum()

    def accept(new_codes, new_scale, new_zero):
        nonlocal codes, scale, zero, error
        found = row_errors(weight, new_scale * new_codes + new_zero, hessian)
        better = found < error
        pick = better[:, None]
        codes = torch.where(pick, new_codes, codes)
        scale, zero = torch.where(pick, new_scale, scale), torch.where(pick, new_zero, zero)
        error = torch.where(better, found, error)
        return better.float().mean() >= 1e-4

    accept(gptq(weight, hessian, scale, zero, low, high), scale, zero)
    for t in range(iters - 1):
        s, z = scale, zero
        if t == 0:
            s, z = shrink_search(weight, hessian, lowest, highest, low, high)
            s, z = closed_form(weight, codes_of(weight, s, z, low, high), hessian, s, z)
        if not accept(gptq(weight, hessian, s, z, low, high), s, z):
            break
        s, z = closed_form(weight, codes, hessian, scale, zero)
        if not accept(codes, s, z):
            break
    return error.sum(), nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iters", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()

    setup(args.threads)
    weight, hessian = problem(args.size)
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        error, nearest = decoupleq(weight, hessian, args.bits, args.iters)
        seconds.append(time.perf_counter() - start)
    emit(
        seconds=min(seconds),
        all_seconds=seconds,
        error_relative_to_rtn=float(error / nearest),
        size=args.size,
        bits=args.bits,
        iters=args.iters,
        damping=DAMPING,
    )


if __name__ == "__main__":
    main()
