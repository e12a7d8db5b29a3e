"""Does llama.cpp load the GGUF files that we write, and compute what the model computes?

    cargo run --release -p trimtab-io --example gguf -- write MODEL TYPE OUT/TYPE.gguf
    cargo run --release -p trimtab-io --example gguf -- read OUT/TYPE.gguf OUT/TYPE    # what we decode from it
    python gguf_match.py MODEL OUT --types F16 Q8_0 Q4_0 Q4_K Q6_K --text FILE

llama.cpp is the library inside the package xllamacpp, called through its C interface. For each type, one JSON line:
whether `gguf.GGUFReader` reads the file; token ids of each text against those of the Hugging Face tokenizer, and of the
tokenizer that we read back from the file; perplexity and logits of llama.cpp against those of transformers on the weights
that we decode. Exits with 1 if ids differ or a perplexity is off by more than the tolerance.

llama.cpp rounds activations to 8 bits for products with blocks, so that its logits differ by more than single precision does.
"""

import argparse
import ctypes
import math
import sys
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
import xllamacpp.xllamacpp
from common import emit, load_model, nll, setup, windows
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "The film's director, born in 1947, couldn't have known.",
    "  Two  spaces,\n\n a new line\tand a tab; 12345 + 3.14 = ???",
    "Grüße aus Köln – naïve café ✓ 漢字",
    "",
    "<s>not special here</s>",
)


class ModelParameters(ctypes.Structure):
    """Passed by value, left at its defaults: room enough for what versions add."""

    _fields_ = [("words", ctypes.c_uint64 * 64)]


class ContextParameters(ctypes.Structure):
    """The front of the structure as xllamacpp 2026.10 has it, and room for the rest."""

    _names = ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq",
              "n_threads", "n_threads_batch", "context_type")  # fmt: skip
    _fields_ = [*((name, c_uint32) for name in _names), ("words", ctypes.c_uint64 * 64)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


def load_library() -> ctypes.CDLL:
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    results = {
        "llama_model_default_params": ModelParameters, "llama_context_default_params": ContextParameters,
        "llama_model_load_from_file": c_void_p, "llama_init_from_model": c_void_p, "llama_model_get_vocab": c_void_p,
        "llama_get_memory": c_void_p, "llama_batch_init": Batch, "llama_get_logits": POINTER(c_float),
        "llama_tokenize": c_int32, "llama_vocab_n_tokens": c_int32, "llama_decode": c_int32,
    }  # fmt: skip
    for name, result in results.items():
        getattr(library, name).restype = result
    library.llama_model_load_from_file.argtypes = [c_char_p, ModelParameters]
    library.llama_init_from_model.argtypes = [c_void_p, ContextParameters]
    library.llama_decode.argtypes = [c_void_p, Batch]
    library.llama_memory_clear.argtypes = [c_void_p, c_bool]
    for name in ("llama_get_memory", "llama_get_logits", "llama_model_get_vocab", "llama_vocab_n_tokens"):
        getattr(library, name).argtypes = [c_void_p]
    library.llama_tokenize.argtypes = [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]
    library.quiet = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(
        lambda level, text, _: level >= 4 and sys.stderr.write(text.decode(errors="replace"))
    )
    library.llama_log_set(library.quiet, None)
    library.llama_backend_init()
    return library


class Model:
    """A GGUF file in llama.cpp."""

    def __init__(self, library: ctypes.CDLL, path: Path, length: int, threads: int):
        self.library, self.length = library, length
        self.model = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it")
        self.vocab = library.llama_model_get_vocab(self.model)
        self.size = library.llama_vocab_n_tokens(self.vocab)
        parameters = library.llama_context_default_params()
        expected = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_outputs_max_per_seq": 1}
        found = {name: getattr(parameters, name) for name in expected}
        if found != expected:
            raise SystemExit(f"the parameters of this version lie elsewhere: {found} instead of {expected}")
        for name in ("n_ctx", "n_batch", "n_ubatch", "n_outputs_max", "n_outputs_max_per_seq"):
            setattr(parameters, name, length)
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = library.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"{path}: llama.cpp makes no context")
        self.batch = library.llama_batch_init(length, 0, 1)

    def tokenize(self, text: str, special: bool) -> list[int]:
        data = text.encode()
        out = (c_int32 * (len(data) + 8))()
        count = self.library.llama_tokenize(self.vocab, data, len(data), out, len(out), special, True)
        return list(out[:count])

    def logits(self, ids: list[int]) -> np.ndarray:
        """`[len(ids), vocabulary]`, with nothing before them."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i], self.batch.pos[i], self.batch.n_seq_id[i] = token, i, 1
            self.batch.seq_id[i][0], self.batch.logits[i] = 0, 1
        if self.library.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")
        pointer = self.library.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (len(ids), self.size)).copy()


def compare_ids(model: Model, directory: str, decoded: Path) -> dict[str, int]:
    tokenizers = [
        PreTrainedTokenizerFast(tokenizer_file=str(Path(path) / "tokenizer.json")) for path in (directory, decoded)
    ]
    counts = {"texts": 0, "ids": 0, "ids_differ": 0, "read_back_differ": 0}
    for text in TEXTS:
        for special in (False, True):
            wanted, read = (t(text, add_special_tokens=special, verbose=False)["input_ids"] for t in tokenizers)
            counts["texts"] += 1
            counts["ids"] += len(wanted)
            counts["ids_differ"] += model.tokenize(text, special) != wanted
            counts["read_back_differ"] += read != wanted
    return counts


def measure(model: Model, reference, tokens: torch.Tensor) -> dict[str, float]:
    ours = theirs = 0.0
    largest = total = agree = 0.0
    for ids in tokens:
        ids = ids[None]
        a = reference(ids, use_cache=False).logits
        b = torch.from_numpy(model.logits(ids[0].tolist()))[None]
        ours, theirs = ours + nll(a, ids).item(), theirs + nll(b, ids).item()
        difference = (a - b).abs()
        largest, total = max(largest, difference.max().item()), total + difference.double().mean().item()
        agree += (a.argmax(-1) == b.argmax(-1)).double().mean().item()
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    return {
        "perplexity_llama_cpp": math.exp(theirs / count),
        "perplexity_decoded": math.exp(ours / count),
        "max_abs_difference": largest,
        "mean_abs_difference": total / len(tokens),
        "same_argmax": agree / len(tokens),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--types", nargs="+", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    setup(args.threads)
    tokens, _ = windows(args.model, args.text)
    tokens = tokens[: args.windows]
    library = load_library()
    original = load_model(args.model)
    loss = sum(nll(original(ids, use_cache=False).logits, ids).item() for ids in tokens.split(1))
    perplexity = math.exp(loss / (tokens.shape[0] * (tokens.shape[1] - 1)))
    passed = True
    for kind in args.types:
        path = args.out / f"{kind}.gguf"
        reader = gguf.GGUFReader(path)
        found = sorted({tensor.tensor_type.name for tensor in reader.tensors})
        model = Model(library, path, tokens.shape[1], args.threads)
        ids = compare_ids(model, args.model, args.out / kind)
        result = measure(model, load_model(str(args.out / kind)), tokens)
        ratio = result["perplexity_llama_cpp"] / result["perplexity_decoded"]
        passed &= not ids["ids_differ"] and not ids["read_back_differ"] and abs(ratio - 1) <= args.tolerance
        emit(type=kind, tensor_types=found, bytes=path.stat().st_size, windows=len(tokens), **ids, **result,
             perplexity_original=perplexity, xllamacpp=version("xllamacpp"), gguf=version("gguf"))  # fmt: skip
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
