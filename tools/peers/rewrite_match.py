"""Do rewritten models compute in transformers what the originals compute there?

    python rewrite_match.py --trimtab ../../target/release/trimtab [--tolerance 1e-4]

Small random models of several families are made by transformers, rewritten by `trimtab rewrite` in f32, and read back by transformers.
Prints one JSON line a model: the largest difference of a logit, the largest logit, and how far the weights moved, so that a
rewrite that did nothing is seen. Exits with 1 beyond the tolerance, or where no weight moved.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import emit, setup
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"vocab_size": 96, "max_position_embeddings": 64, **BLOCKS}
CASES = [
    (LlamaForCausalLM, LlamaConfig(intermediate_size=64, **TEXT), ["fold-norm-gain", "rotate"]),
    (GPTNeoXForCausalLM, GPTNeoXConfig(intermediate_size=64, **TEXT), ["fold-norm-gain", "center-layer-norm", "rotate"]),
    (OPTForCausalLM, OPTConfig(ffn_dim=64, word_embed_proj_dim=32, **TEXT), ["fold-norm-gain", "center-layer-norm", "rotate", "rotate-heads"]),
    (ViTForImageClassification, ViTConfig(intermediate_size=64, image_size=16, patch_size=4, num_labels=7, **BLOCKS), ["fold-norm-gain", "center-layer-norm", "rotate"]),
]


def logits(model: PreTrainedModel, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trimtab", required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    setup(2)
    torch.manual_seed(0)
    sound = True
    for kind, config, passes in CASES:
        model = kind(config)
        for parameter in model.parameters():
            # Fresh norms have gains of one and no biases, which would hide what becomes of them.
            parameter.data += 0.1 * torch.randn_like(parameter)
        inputs = torch.randn(2, 3, 16, 16) if kind is ViTForImageClassification else torch.randint(0, 96, (2, 20))
        with tempfile.TemporaryDirectory() as folder:
            original, rewritten = Path(folder, "original"), Path(folder, "rewritten")
            model.save_pretrained(original)
            named = [word for name in passes for word in ("--pass", name)]
            run = [args.trimtab, "rewrite", str(original), *named, "--untie", "--dtype", "f32", "-o", str(rewritten)]
            subprocess.run(run, check=True, capture_output=True)
            read = kind.from_pretrained(rewritten)
        before, after = logits(model, inputs), logits(read, inputs)
        pairs = zip(model.parameters(), read.parameters())
        moved = max((a - b).abs().max().item() for a, b in pairs if a.shape == b.shape)
        difference = (before - after).abs().max().item()
        emit(model=kind.__name__, passes=passes, max_abs_difference=difference, max_abs_logit=before.abs().max().item(), weights_moved=moved)
        sound &= difference <= args.tolerance and moved > 1e-2
    sys.exit(not sound)


if __name__ == "__main__":
    main()
