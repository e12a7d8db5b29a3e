"""GPTQ and round-to-nearest in plain PyTorch, the way the common Python programs run them.

Asymmetric min-max codes; groups are fitted when the sweep reaches them; no activation order. Weights are `[out, in]`,
the Hessian is the mean of `x xᵀ`.
"""

from dataclasses import dataclass

import torch

BLOCK = 128


@dataclass
class Quantized:
    """Unsigned `codes [out, in]` with `scale` and `zero` `[out, groups]`."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    group: int

    def dequantize(self) -> torch.Tensor:
        scale = self.scale.repeat_interleave(self.group, 1)[:, : self.codes.shape[1]]
        zero = self.zero.repeat_interleave(self.group, 1)[:, : self.codes.shape[1]]
        return (self.codes - zero) * scale


def fit(columns: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each row; the range always holds zero."""
    low, high = columns.amin(1).clamp(max=0), columns.amax(1).clamp(min=0)
    flat = low == high
    low, high = torch.where(flat, -1.0, low), torch.where(flat, 1.0, high)
    scale = (high - low) / (2**bits - 1)
    return scale, torch.round(-low / scale)


def encode(columns: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    return torch.clamp(torch.round(columns / scale) + zero, 0, 2**bits - 1)


def rtn(weight: torch.Tensor, bits: int, group: int) -> Quantized:
    codes, scales, zeros = [], [], []
    for columns in weight.split(group, 1):
        scale, zero = fit(columns, bits)
        codes.append(encode(columns, scale[:, None], zero[:, None], bits))
        scales.append(scale)
        zeros.append(zero)
    return Quantized(torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(zeros, 1), group)


def inverse_factor(hessian: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian."""
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, bits: int, group: int, damping: float = 0.01, block: int = BLOCK
) -> Quantized:
    weight = weight.clone()
    weight[:, hessian.diagonal() == 0] = 0
    factor = inverse_factor(hessian, damping)
    codes, scales, zeros = torch.empty_like(weight), [], []
    width = weight.shape[1]
    for start in range(0, width, block):
        end = min(start + block, width)
        work, inner = weight[:, start:end].clone(), factor[start:end, start:end]
        errors = torch.empty_like(work)
        for i in range(end - start):
            if (start + i) % group == 0:
                # Columns past this block have not had its corrections yet, so groups must not be longer than blocks
                # unless they start with one; the rest of the group is then read from the updated weight.
                rest = weight[:, end : start + i + group]
                scale, zero = fit(torch.cat([work[:, i : i + group], rest], 1), bits)
                scales.append(scale)
                zeros.append(zero)
            column = work[:, i]
            code = encode(column, scale, zero, bits)
            codes[:, start + i] = code
            errors[:, i] = (column - (code - zero) * scale) / inner[i, i]
            work[:, i:] -= errors[:, i, None] * inner[i, i:]
        weight[:, end:] -= errors @ factor[start:end, end:]
    return Quantized(codes, torch.stack(scales, 1), torch.stack(zeros, 1), group)


def damage(original: torch.Tensor, treated: torch.Tensor, hessian: torch.Tensor) -> float:
    """`tr(E H Eᵀ)` for `E = original - treated`: squared error of the outputs, a token."""
    error = original - treated
    return ((error @ hessian) * error).double().sum().item()
