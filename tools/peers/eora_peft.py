"""Does PEFT, over our codes decoded, compute from an exported adapter what we compute with codes and branches?

    trimtab apply 'int2 g64' MODEL -o out/ --calibration notes.txt --eora-rank 16
    trimtab eval out/ --text test.txt --limit 4 --logits logits.safetensors
    trimtab convert out/ --to safetensors:f32 -o base/ --adapter lora/
    python eora_peft.py base/ lora/ --ours logits.safetensors [--tolerance 1e-3]

`logits.safetensors` holds `tokens [n, t]` and `logits [n, t, vocab]`. Prints one JSON line with the difference, and, as a control, how
far the logits are without the adapter; exits with 1 beyond the tolerance, or if the adapter changes nothing.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

from common import emit, load_model, setup
from peft import PeftModel
from safetensors.torch import load_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("--ours", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    setup(args.threads)
    file = load_file(args.ours)
    ids, ours = file["tokens"], file["logits"].float()
    model, info = load_model(args.base, output_loading_info=True)
    problems = sorted({*info["missing_keys"], *info["unexpected_keys"], *map(str, info["mismatched_keys"])})
    bare = (model(ids, use_cache=False).logits - ours).abs().max().item()
    adapted = PeftModel.from_pretrained(model, args.adapter, autocast_adapter_dtype=False).float().eval()
    stored = load_file(Path(args.adapter) / "adapter_model.safetensors")
    loaded = {name for name, _ in adapted.named_parameters() if "lora_" in name}
    # PEFT warns of tensors that it has no place for, and goes on: here that is a failure.
    if len(loaded) != len(stored):
        problems.append(f"{len(stored)} tensors in the adapter, {len(loaded)} in the model")
    theirs = adapted(ids, use_cache=False).logits
    if theirs.shape != ours.shape:
        raise SystemExit(f"{args.ours}: logits are {list(ours.shape)}, transformers' are {list(theirs.shape)}")
    difference = (theirs - ours).abs()
    config = json.loads((Path(args.adapter) / "adapter_config.json").read_text())
    emit(
        max_abs_difference=difference.max().item(),
        mean_abs_difference=difference.mean().item(),
        without_adapter=bare,
        max_abs_logit=theirs.abs().max().item(),
        same_argmax=(theirs.argmax(-1) == ours.argmax(-1)).double().mean().item(),
        key_problems=problems,
        rank=config["r"],
        modules=len(config["target_modules"]),
        peft=version("peft"),
    )
    largest = difference.max().item()
    passed = not problems and difference.isfinite().all() and largest <= args.tolerance and bare > args.tolerance
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
