"""GPTQ of a whole model by GPTQModel and by us, on the same windows, one after the other.

    pip install -r requirements-gptq.txt && pip install --no-deps --no-build-isolation gptqmodel==7.7.0
    python gptq_quantize.py TRIMTAB MODEL --calibration FILE --text FILE --out DIR [--bits 4] [--group-size 128]

Both see the first windows of the calibration text, in order, symmetric grids with min-max ranges, no activation order. Prints a
JSON line a program: seconds of the whole run (loading and writing included), of the quantization alone where the program tells,
bytes written, and the KL of the result to the original on the text, measured by `trimtab eval` for both. The orders
alternate over the runs.
"""

import argparse
import json
import os
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from common import emit, setup, windows
from transformers import AutoTokenizer


def theirs(args: argparse.Namespace, out: Path) -> dict:
    # On two cores it takes one worker, and then refuses to start its loader with two.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    begun = time.perf_counter()
    config = QuantizeConfig(bits=args.bits, group_size=args.group_size, sym=True, desc_act=False)
    model = GPTQModel.load(args.model, config, device="cpu", backend=BACKEND.TORCH)
    ids, _ = windows(args.model, args.calibration)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids[: args.samples]]
    middle = time.perf_counter()
    model.quantize(rows, batch_size=1)
    quantized = time.perf_counter()
    model.save(str(out))
    return {"seconds": time.perf_counter() - begun, "seconds_quantizing": quantized - middle}


def ours(args: argparse.Namespace, out: Path) -> dict:
    scheme = f"int{args.bits} g{args.group_size} sym"
    command = [args.trimtab, "apply", scheme, args.model, "--calibration", args.calibration, "--sequential"]
    command += ["--samples", str(args.samples), "--range", "min-max", "-o", str(out), "--force", "--quiet"]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - begun}


def kl(args: argparse.Namespace, model: Path) -> float:
    command = [args.trimtab, "eval", str(model), "--against", args.model, "--text", args.text]
    out = subprocess.run([*command, "--limit", "64", "--json", "--quiet"], check=True, capture_output=True)
    return json.loads(out.stdout)["kl"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trimtab")
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    setup(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    programs = {"gptqmodel": theirs, "trimtab": ours}
    for run in range(args.runs):
        for name in sorted(programs, reverse=run % 2 == 1):
            out = args.out / f"{name}-{run}"
            found = programs[name](args, out)
            if name == "gptqmodel":
                AutoTokenizer.from_pretrained(args.model).save_pretrained(out)
            size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
            emit(program=name, run=run, bits=args.bits, group_size=args.group_size, **found, bytes=size,
                 kl=kl(args, out), gptqmodel=version("gptqmodel"))


if __name__ == "__main__":
    main()
