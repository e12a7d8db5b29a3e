"""Spearman correlation of a sentence encoder with human similarity scores, times 100.

    python minilm_sts.py MODEL_DIR CSV [--threads 2] [--batch 64]

The CSV has sentence, sentence, score. Mean pooling over the attention mask, normalized, cosine.
"""

import argparse
import csv
import time

import torch
from common import emit, setup
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

MAX_TOKENS = 256


def embed(model, tokenizer, sentences: list[str], batch: int) -> tuple[torch.Tensor, int]:
    """Unit vectors in the order of the sentences, and the number of tokens; batches are of similar length."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    vectors, n_tokens = [None] * len(sentences), 0
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        texts = [sentences[i] for i in chosen]
        inputs = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        mask = inputs["attention_mask"][..., None].float()
        pooled = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        for i, vector in zip(chosen, torch.nn.functional.normalize(pooled, dim=1)):
            vectors[i] = vector
        n_tokens += int(mask.sum())
    return torch.stack(vectors), n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    setup(args.threads)
    with open(args.pairs, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    left, right, scores = zip(*rows)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32).eval()
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        vectors, n_tokens = embed(model, tokenizer, [*left, *right], args.batch)
        seconds.append(time.perf_counter() - start)
    cosine = (vectors[: len(rows)] * vectors[len(rows) :]).sum(1)
    spearman = 100 * spearmanr(cosine.double().numpy(), [float(score) for score in scores]).statistic
    emit(
        spearman=float(spearman),
        n_pairs=len(rows),
        seconds=min(seconds),
        all_seconds=seconds,
        sentences_per_s=2 * len(rows) / min(seconds),
        tokens_per_s=n_tokens / min(seconds),
        batch=args.batch,
    )


if __name__ == "__main__":
    main()
