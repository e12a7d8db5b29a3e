"""Round-to-nearest and GPTQ on a llama, the slow and plain way: perplexity, KL and the damage of every site.

    python gptq_reference.py MODEL CALIBRATION TEST BITS GROUP [--codes FILE] > figures.json

All linear maps of the blocks, asymmetric min-max, damping 0.01, no activation order. Blocks in sequence on inputs that
the quantized prefix produces; inside a block q, k, v; then o; then gate, up; then down, each on inputs that the maps
before it produce once quantized. The first 128 windows of 256 tokens calibrate. Scales stay f32.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from common import compare, load_model, setup, windows
from gptq import damage, gptq, rtn
from safetensors.torch import save_file

CALIBRATION_WINDOWS = 128
ORDER = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


class Enough(Exception):
    """Raised by a hook: what follows in the forward pass is not needed."""


def first_inputs(model, tokens: torch.Tensor) -> tuple[list, dict]:
    """The hidden states that enter block 0, one window each, and the other arguments of a block."""
    states, rest = [], {}

    def catch(_module, args, kwargs):
        states.append(args[0])
        rest.update(kwargs)
        raise Enough

    hook = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for ids in tokens.split(1):
        try:
            model(ids, use_cache=False)
        except Enough:
            pass
    hook.remove()
    return states, rest


def run_block(block, state, rest):
    output = block(state, **rest)
    return output[0] if isinstance(output, tuple) else output


def second_moment(block, site, states, rest) -> torch.Tensor:
    """Mean of `x xᵀ` over the site's inputs, accumulated in f64 and returned in f32."""
    width = site.weight.shape[1]
    total, count = torch.zeros(width, width, dtype=torch.float64), 0

    def watch(_module, args):
        nonlocal count
        rows = args[0].flatten(0, -2)
        total.add_((rows.T @ rows).double())
        count += rows.shape[0]
        raise Enough

    hook = site.register_forward_pre_hook(watch)
    for state in states:
        try:
            run_block(block, state, rest)
        except Enough:
            pass
    hook.remove()
    return (total / count).float()


def quantize_gptq(model, tokens: torch.Tensor, bits: int, group: int) -> tuple[list[dict], dict]:
    """Replaces the weights of all sites; returns what each suffered, and its codes."""
    states, rest = first_inputs(model, tokens)
    sites, codes = [], {}
    for index, block in enumerate(model.model.layers):
        for names in ORDER:
            # Members of one group read the same input, so the first one's moment serves all.
            hessian = second_moment(block, block.get_submodule(names[0]), states, rest)
            for name in names:
                weight = block.get_submodule(name).weight
                original, full = weight.clone(), f"model.layers.{index}.{name}"
                result = gptq(original, hessian, bits, group)
                weight.copy_(result.dequantize())
                nearest = rtn(original, bits, group).dequantize()
                zero_energy = damage(original, torch.zeros_like(original), hessian)
                record = {"site": full, "shape": list(weight.shape), "energy": zero_energy}
                record["damage"] = damage(original, weight, hessian)
                record["damage_rtn_same_inputs"] = damage(original, nearest, hessian)
                record["hessian_trace"] = hessian.diagonal().double().sum().item()
                sites.append(record)
                codes[f"{full}.codes"] = result.codes.to(torch.uint8)
                codes[f"{full}.scale"], codes[f"{full}.zero"] = result.scale, result.zero
        states = [run_block(block, state, rest) for state in states]
    return sites, codes


def quantize_rtn(model, bits: int, group: int) -> None:
    for block in model.model.layers:
        for names in ORDER:
            for name in names:
                weight = block.get_submodule(name).weight
                weight.copy_(rtn(weight, bits, group).dequantize())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "calibration", "test"):
        parser.add_argument(name)
    parser.add_argument("bits", type=int)
    parser.add_argument("group", type=int)
    parser.add_argument("--codes", help="also write codes, scales and zero points of every site (safetensors)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    setup(args.threads)
    original, treated = load_model(args.model), load_model(args.model)
    test, _ = windows(args.model, args.test)
    calibration = windows(args.model, args.calibration)[0][:CALIBRATION_WINDOWS]
    quantize_rtn(treated, args.bits, args.group)
    result = {"bits": args.bits, "group_size": args.group, "rtn": compare(original, treated, test)}
    treated = load_model(args.model)
    sites, codes = quantize_gptq(treated, calibration, args.bits, args.group)
    result |= {"gptq": compare(original, treated, test), "sites": sites}
    if args.codes:
        Path(args.codes).parent.mkdir(parents=True, exist_ok=True)
        save_file(codes, args.codes)
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
