"""llama.cpp: decoding and prefill of a language model, through the C interface of its package."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protocol import THREADS, Library, Loaded, Unsupported, Variant, serve  # isort: skip (goes first)

import llama_cpp as c
import numpy as np
from llama_reference import last_logits

VARIANTS = {
    "Q8_0": Variant("8 bits, a scale for each 32 weights"),
    "Q4_1": Variant("4 bits, a scale and a minimum for each 32 weights; embedding and head Q8_0"),
    "F32": Variant("no quantization", units="float32"),
}
CHECKED = 16
"""Tokens of the prompt that results are compared on."""


class Model:
    """A GGUF file in a context for `batch` sequences of up to `length` tokens."""

    def __init__(self, file: Path, batch: int, length: int):
        self.batch = batch
        self.weights = c.llama_model_load_from_file(str(file).encode(), model_options())
        if not self.weights:
            raise Unsupported(f"llama.cpp cannot read {file}.")
        self.context = c.llama_init_from_model(self.weights, context_options(batch, length))
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.weights))

    def __del__(self):
        if self.weights:
            c.llama_free(self.context)
            c.llama_model_free(self.weights)

    def forget(self, position: int) -> None:
        """Drop all that the cache holds from a position on."""
        memory = c.llama_get_memory(self.context)
        for row in range(self.batch):
            c.llama_memory_seq_rm(memory, row, position, -1)

    def read(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """Put `tokens i32[B, T]` behind the cache; the logits `f32[B, V]` after the last ones."""
        batch = fill(tokens, position)
        status = c.llama_decode(self.context, batch)
        c.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status}.")
        rows = (c.llama_get_logits_ith(self.context, i) for i in last(tokens))
        return np.stack([np.ctypeslib.as_array(row, (self.vocab,)) for row in rows])


def model_options() -> Any:
    """The library's defaults, all on the CPU."""
    options = c.llama_model_default_params()
    options.n_gpu_layers = 0
    return options


def context_options(batch: int, length: int) -> Any:
    """The library's defaults with our threads, and a prompt in one batch."""
    options = c.llama_context_default_params()
    options.n_threads = options.n_threads_batch = THREADS
    options.n_seq_max = batch
    options.n_ctx = batch * length
    options.n_batch = max(512, batch * length)
    options.no_perf = True
    return options


def fill(tokens: np.ndarray, position: int) -> Any:
    """A `llama_batch` of `tokens i32[B, T]`; asks for the logits after each row's last one."""
    batch = c.llama_batch_init(tokens.size, 0, 1)
    wanted = set(last(tokens))
    batch.n_tokens = tokens.size
    for i, token in enumerate(tokens.flat):
        row, step = divmod(i, tokens.shape[1])
        batch.token[i], batch.pos[i] = int(token), position + step
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
        batch.logits[i] = i in wanted
    return batch


def last(tokens: np.ndarray) -> Sequence[int]:
    """Where the last token of each row lies."""
    rows, steps = tokens.shape
    return range(steps - 1, rows * steps, steps)


def load(case: Mapping[str, Any], variant: str) -> Loaded:
    """The case's model with the weights of the variant, which lie beside the case's file."""
    if case["kind"] not in ("decode", "prefill") or not case.get("file"):
        raise Unsupported("llama.cpp runs whole models from GGUF files only.")
    file = Path(case["file"]).with_name(f"{variant}.gguf")
    prompt = np.random.default_rng(0).integers(0, 1000, (case["batch"], prompt_length(case)))
    model = Model(file, case["batch"], prompt.shape[1] + case.get("steps", 1))
    error = distance(model, prompt[:, :CHECKED], Path(case["file"]))
    model.forget(0)
    call = (
        decode(model, prompt, case["steps"]) if case["kind"] == "decode" else prefill(model, prompt)
    )
    return Loaded(call, c.llama_model_size(model.weights), error)


def prompt_length(case: Mapping[str, Any]) -> int:
    """Tokens in front of those that decoding says, or of a prompt."""
    return case["context"] if case["kind"] == "decode" else case["length"]


def distance(model: Model, prompt: np.ndarray, file: Path) -> float:
    """Relative error of the logits after the first row of a short prompt."""
    exact = last_logits(file, tuple(int(token) for token in prompt[0]))
    return float(np.linalg.norm(model.read(prompt, 0)[0] - exact) / np.linalg.norm(exact))


def decode(model: Model, prompt: np.ndarray, steps: int) -> Any:
    """Says `steps` tokens behind the prompt, the likeliest each."""
    context = prompt.shape[1]
    first = model.read(prompt, 0).argmax(-1)[:, None]

    def call() -> np.ndarray:
        model.forget(context)
        token = first
        for step in range(steps):
            token = model.read(token, context + step).argmax(-1)[:, None]
        return token

    return call


def prefill(model: Model, prompt: np.ndarray) -> Any:
    """Reads the prompt into an empty cache."""

    def call() -> np.ndarray:
        model.forget(0)
        return model.read(prompt, 0)

    return call


@c.llama_log_callback
def silent(level: int, text: bytes, data: Any) -> None:
    """Keep the library's log for nobody; what goes wrong is answered."""


if __name__ == "__main__":
    c.llama_log_set(silent, None)
    serve(Library("llama.cpp", c.__version__, VARIANTS, load))
