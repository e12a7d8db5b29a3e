"""What the peers share: models in f32, windows of text, perplexity and divergence."""

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW = 256


def setup(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()


def emit(**fields) -> None:
    """One JSON line on stdout, with what is needed to repeat the measurement."""
    fields |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    json.dump(fields | {"transformers": transformers.__version__}, sys.stdout)
    print()


def load_model(path: str, **options):
    """The model in f32 and evaluation mode, which `from_pretrained` sets."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)


def windows(model_path: str, text_path: str, length: int = WINDOW) -> tuple[torch.Tensor, int]:
    """Consecutive windows `[n, length]` of the whole text without special tokens, and how many tokens it has."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    text = Path(text_path).read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    full = len(ids) // length
    return torch.tensor(ids[: full * length]).view(full, length), len(ids)


def nll(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Sum over the batch of the negative log-likelihood of each next token, in f64."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").double().sum()


def perplexity(model, tokens: torch.Tensor, batch: int = 1) -> tuple[float, float]:
    """Perplexity over all predictions inside the windows, and the seconds that it took."""
    start, total = time.perf_counter(), 0.0
    for ids in tokens.split(batch):
        total += nll(model(ids, use_cache=False).logits, ids).item()
    seconds = time.perf_counter() - start
    return float(torch.tensor(total / (tokens.shape[0] * (tokens.shape[1] - 1))).double().exp()), seconds


def compare(original, treated, tokens: torch.Tensor, batch: int = 1) -> dict[str, float]:
    """Perplexity of `treated` and `KL(original || treated)` in nats a token, over the same positions."""
    loss = divergence = 0.0
    for ids in tokens.split(batch):
        logits = treated(ids, use_cache=False).logits
        loss += nll(logits, ids).item()
        log_p = original(ids, use_cache=False).logits[:, :-1].log_softmax(-1)
        log_q = logits[:, :-1].log_softmax(-1)
        divergence += (log_p.exp() * (log_p - log_q)).sum(-1).double().sum().item()
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    return {"perplexity": float(torch.tensor(loss / count).double().exp()), "kl": divergence / count}
