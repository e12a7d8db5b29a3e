"""Does transformers, with the library of the format, compute from a written directory what we compute?

    trimtab eval DIRECTORY --text FILE --limit 4 --logits logits.safetensors
    python logits_match.py DIRECTORY --ours logits.safetensors [--tolerance 1e-3] [--wide-scales]

`logits.safetensors` holds `tokens [n, t]` and `logits [n, t, vocab]`. The model is loaded in f32 and run on the CPU: decompressed by compressed-tensors, or, for GPTQ and AWQ, with the kernels of gptqmodel. Prints one JSON line; exits with 1 beyond the tolerance.

gptqmodel multiplies codes by scales in the type of the scales, F16, and so rounds every weight to 11 bits, whatever type the model has. Where that is more than the tolerance (8 bits), compare with what `trimtab convert DIRECTORY --to safetensors` writes, which rounds alike (`trimtab eval` on that gives `--ours`), or give `--wide-scales`: the scales become f32 before the model runs.

gptqmodel comes as a source distribution: `pip install -r requirements-gptq.txt`, then
`pip install --no-deps --no-build-isolation gptqmodel==7.7.0`; nothing of it is compiled for a CPU.
"""

import argparse
import json
import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from common import emit, load_model, setup
from safetensors.torch import load_file


def pack_declared_zero_points() -> None:
    """Gives zero points their packed shape while a model is laid out without storage.

    compressed-tensors 0.18 to 0.20 declare them unpacked there, `[out, groups]` instead of
    `[ceil(out*bits/32), groups]`, so transformers rejects every asymmetric pack-quantized checkpoint, also the
    library's own. Only the declared shape is corrected: reading and decoding stay theirs.
    """
    from compressed_tensors.compressors import PackedQuantizationCompressor

    original = PackedQuantizationCompressor.compress.__func__

    def compress(cls, state_dict, scheme):
        packed = original(cls, state_dict, scheme)
        zero_point, weights = packed.get("weight_zero_point"), scheme.weights
        wanted = not weights.symmetric and weights.strategy in ("group", "channel")
        if wanted and zero_point.device.type == "meta" and zero_point.dtype != torch.int32:
            shape = (math.ceil(zero_point.shape[0] * weights.num_bits / 32), zero_point.shape[1])
            packed["weight_zero_point"] = torch.empty(shape, dtype=torch.int32, device="meta")
        return packed

    PackedQuantizationCompressor.compress = classmethod(compress)


def decode_fp4_in_single_precision() -> None:
    """compressed-tensors 0.20 decodes 4-bit floats to bfloat16 whatever the model's type is, which a model in f32 cannot
    multiply with. Only that type is corrected."""
    from compressed_tensors.compressors.nvfp4 import helpers

    helpers.unpack_fp4_from_uint8.__defaults__ = (torch.float32,)


def quantization(directory: str) -> dict:
    return json.loads((Path(directory) / "config.json").read_text()).get("quantization_config", {})


def load(directory: str):
    """The model, what transformers misses in the directory, and whether the library had to be corrected."""
    if quantization(directory).get("quant_method") != "compressed-tensors":
        return *load_model(directory, output_loading_info=True), False
    decode_fp4_in_single_precision()
    try:
        model, info = load_model(directory, output_loading_info=True)
        return model, info, False
    except RuntimeError:
        # transformers has printed its report of the mismatches.
        pack_declared_zero_points()
        model, info = load_model(directory, output_loading_info=True)
        return model, info, True


def weight_bits(config: dict) -> list[int]:
    if "bits" in config:
        others = [rule["bits"] for rule in config.get("dynamic", {}).values() if "bits" in rule]
        return sorted({config["bits"], *others})
    return sorted({group["weights"]["num_bits"] for group in config.get("config_groups", {}).values()})


def libraries(config: dict) -> list[str]:
    by_method = {"compressed-tensors": ["compressed-tensors"], "gptq": ["gptqmodel", "optimum"], "awq": ["gptqmodel"]}
    return by_method.get(config.get("quant_method"), [])


def widen_scales(model) -> None:
    """Makes gptqmodel decode in f32."""
    for module in model.modules():
        if type(module).__module__.startswith("gptqmodel.") and getattr(module, "scales", None) is not None:
            module.scales = module.scales.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--ours", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--wide-scales", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    setup(args.threads)
    file = load_file(args.ours)
    ids, ours = file["tokens"], file["logits"].float()
    config = quantization(args.directory)
    model, info, corrected = load(args.directory)
    if args.wide_scales:
        widen_scales(model)
    # A tensor that transformers did not find is filled at random: that is a failure even if the logits were close.
    problems = sorted({*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])})
    theirs = model(ids, use_cache=False).logits
    if theirs.shape != ours.shape:
        raise SystemExit(f"{args.ours}: logits are {list(ours.shape)}, transformers' are {list(theirs.shape)}")
    difference = (theirs - ours).abs()
    emit(
        max_abs_difference=difference.max().item(),
        mean_abs_difference=difference.mean().item(),
        max_abs_logit=theirs.abs().max().item(),
        same_argmax=(theirs.argmax(-1) == ours.argmax(-1)).double().mean().item(),
        key_problems=problems,
        quant_method=config.get("quant_method"),
        weight_bits=weight_bits(config),
        zero_point_shapes_corrected=corrected,
        wide_scales=args.wide_scales,
        kernels=sorted({type(m).__name__ for m in model.modules() if "Linear" in type(m).__name__} - {"Linear"}),
        libraries={name: version(name) for name in libraries(config)},
    )
    passed = not problems and difference.isfinite().all() and difference.max() <= args.tolerance
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
