"""KL and perplexity over size: round-to-nearest, GPTQ and the three efforts of `fit`, at equal bytes.

    python efforts.py MODEL --trimtab ../target/release/trimtab --calibration FILE --text FILE [--seeds 0 1 2] [-o runs.jsonl]
    python efforts.py --table runs.jsonl [--plot curve.svg]

A size is that of a uniform scheme; GPTQ (strong columns first, ranges searched) and round-to-nearest have that scheme, and each
effort gets the very bytes of its file as its budget. All is judged by `eval --against` on the same text. Runs that are in the file
already are not made again. Needs no package.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

# Nominal bits per weight, and the uniform scheme that is nearest.
SIZES = {"2.25": "int2 g64", "2.5": "int2 g32", "3.0": "int3 row", "3.5": "int3 g32", "4.25": "int4 g64"}
METHODS = ["rtn", "gptq", "fast", "normal", "best"]
COLOURS = {"rtn": "#999999", "gptq": "#d95f02", "fast": "#7570b3", "normal": "#1b9e77", "best": "#e7298a"}


def call(program: str, *words: str) -> dict:
    run = subprocess.run([program, *words, "--json"], capture_output=True, text=True)
    # 1: done, and a stated condition was missed; the figures say which.
    if run.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)}\n{run.stderr}")
    return json.loads(run.stdout)


def measure(args: argparse.Namespace, size: str, method: str, seed: int, most: int | None) -> dict:
    """`most`: bytes of the file of GPTQ, the budget of the efforts."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out"
        data = ["--calibration", args.calibration, "--samples", str(args.samples), "--seed", str(seed), "--threads", str(args.threads), "-o", out]
        start = time.perf_counter()
        if method in ("rtn", "gptq"):
            flags = ["--method", method] + (["--act-order"] if method == "gptq" else [])
            made = call(args.trimtab, "apply", SIZES[size], args.model, *flags, *data)
        else:
            made = call(args.trimtab, "plan", args.model, "--effort", method, "--budget", f"{most}B", *data[:-1], f"{folder}/plan.toml")
            made = call(args.trimtab, "apply", f"{folder}/plan.toml", args.model, *data)
        seconds = time.perf_counter() - start
        judged = call(args.trimtab, "eval", out, "--against", args.model, "--text", args.text, "--limit", str(args.windows))
    figures = {key: made[key] for key in ("bytes", "bits_per_weight")}
    return {"size": size, "method": method, "seed": seed, "seconds": round(seconds, 1), **figures, "judged": judged}


def quality(row: dict) -> tuple[float, float]:
    judged = row["judged"]
    judged = judged.get("rows", [judged])[-1] if isinstance(judged, dict) else judged[-1]
    return judged["kl"], judged["perplexity"]


def table(rows: list[dict]) -> str:
    lines = ["| bits per weight | method | bytes | KL, seeds | mean | perplexity | seconds |", "|---|---|---:|---|---:|---:|---:|"]
    for size in SIZES:
        for method in METHODS:
            found = sorted((row for row in rows if (row["size"], row["method"]) == (size, method)), key=lambda row: row["seed"])
            if not found:
                continue
            kl, perplexity = zip(*map(quality, found))
            lines.append(
                f"| {size} | {method} | {max(row['bytes'] for row in found)} | {', '.join(f'{x:.4f}' for x in kl)} | {statistics.mean(kl):.4f} "
                f"| {statistics.mean(perplexity):.2f} | {statistics.mean(row['seconds'] for row in found):.0f} |"
            )
    return "\n".join(lines)


def plot(rows: list[dict]) -> str:
    """KL over bytes, logarithmic in KL."""
    import math

    points = {m: sorted({(r["bytes"], quality(r)[0]) for r in rows if r["method"] == m}) for m in METHODS if any(r["method"] == m for r in rows)}
    every = [point for line in points.values() for point in line]
    (x0, x1), (y0, y1) = ((min(values), max(values)) for values in zip(*every))
    x = lambda value: 60 + 520 * (value - x0) / (x1 - x0)
    y = lambda value: 330 - 300 * (math.log(value) - math.log(y0)) / (math.log(y1) - math.log(y0))
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 380" font-family="sans-serif" font-size="12">', '<rect width="640" height="380" fill="#fff"/>']
    for value in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        if y0 <= value <= y1:
            parts.append(f'<path d="M60 {y(value):.1f}H580" stroke="#ddd"/><text x="54" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for size in SIZES:
        at = [r["bytes"] for r in rows if r["size"] == size and r["method"] == "gptq"]
        if at:
            parts.append(f'<text x="{x(at[0]):.1f}" y="350" text-anchor="middle">{at[0] / 1e6:.2f}</text>')
    parts.append('<text x="320" y="370" text-anchor="middle">MB of the file</text><text x="10" y="18">KL to the original, nats per token</text>')
    for i, (method, line) in enumerate(points.items()):
        parts += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{COLOURS[method]}"/>' for a, b in line]
        means = [(a, statistics.mean(b for other, b in line if other == a)) for a in sorted({a for a, _ in line})]
        parts.append(f'<polyline fill="none" stroke="{COLOURS[method]}" points="{" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in means)}"/>')
        parts.append(f'<text x="520" y="{40 + 16 * i}" fill="{COLOURS[method]}">{method}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--trimtab")
    parser.add_argument("--calibration")
    parser.add_argument("--text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--samples", type=int, default=128, help="windows of the text to calibrate on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=256, help="windows of the text to judge on")
    parser.add_argument("-o", "--output", default="runs.jsonl")
    parser.add_argument("--table")
    parser.add_argument("--plot")
    args = parser.parse_args()
    path = Path(args.table or args.output)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if not args.table:
        known = {(row["size"], row["method"], row["seed"]): row for row in rows}
        for seed in args.seeds:
            for size in args.sizes:
                for method in args.methods:
                    if (size, method, seed) in known:
                        continue
                    gptq = known.get((size, "gptq", seed))
                    row = measure(args, size, method, seed, gptq and gptq["bytes"])
                    known[size, method, seed] = row
                    with path.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(size, method, seed, row["bytes"], *quality(row), row["seconds"], flush=True)
        rows = list(known.values())
    print(table(rows))
    if args.plot:
        Path(args.plot).write_text(plot(rows))


if __name__ == "__main__":
    main()
