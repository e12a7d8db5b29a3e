"""Perplexity of a causal language model and tokens a second, in f32 on the CPU.

    python eval_speed.py MODEL TEXT [--threads 2] [--batch 1] [--repeat 3]

The text is cut into windows of 256 tokens, each fed alone; the best of the repeats counts.
"""

import argparse

from common import WINDOW, emit, load_model, perplexity, setup, windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1, help="windows computed at once; they never see each other")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    setup(args.threads)
    tokens, n_tokens = windows(args.model, args.text)
    model = load_model(args.model)
    perplexity(model, tokens[: args.batch])  # warm up
    runs = [perplexity(model, tokens, args.batch) for _ in range(args.repeat)]
    seconds = [run[1] for run in runs]
    emit(
        perplexity=runs[0][0],
        tokens_per_s=tokens.numel() / min(seconds),
        seconds=min(seconds),
        all_seconds=seconds,
        n_tokens=n_tokens,
        n_windows=tokens.shape[0],
        window=WINDOW,
        batch=args.batch,
    )


if __name__ == "__main__":
    main()
