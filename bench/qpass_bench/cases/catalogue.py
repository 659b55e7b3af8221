"""What the benchmark runs, as data: products, blocks and models in the sizes of real networks.

A case says how much work it is (`ops`), how many numbers its weights hold (`parameters`) and how
often a call reads them (`reads`), from which its roofline follows. Decoding is one token for each
sequence of a batch, prefill is a whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product as cross
from typing import Any, ClassVar, Protocol

from qpass.errors import QPassError

DECODE = (1, 4, 16)
PREFILL = (128, 512, 2048)
CONTEXT = 128
"""Tokens in the cache when decoding starts."""
STEPS = 32
"""Tokens that a call of a decoding model says."""


class Case(Protocol):
    """Any case: frozen, and what `qpass_bench.running.worker` sends to a peer."""

    @property
    def suite(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def ops(self) -> int: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102
    @property
    def reads(self) -> int: ...  # noqa: D102
    @property
    def tokens(self) -> int: ...  # noqa: D102


def describe(case: Case) -> dict[str, Any]:
    """The case as JSON."""
    fields: Any = case
    return {"kind": case.kind, "name": case.name, **asdict(fields)}


@dataclass(frozen=True)
class Product:
    """``x [m, k] @ weight [k, n]``, for each of some experts; where it comes from.

    ``schemes`` names those of `qpass_bench.cases.sweep` that it is tried with, instead of the
    common ones.
    """

    model: str
    layer: str
    m: int
    k: int
    n: int
    experts: int = 1
    seed: int = 0
    suite: str = "products"
    schemes: tuple[str, ...] = ()
    kind: ClassVar[str] = "product"
    reads: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """Unique among all products."""
        return f"{self.model} {self.layer} {self.k}x{self.n} M={self.m}"

    @property
    def ops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.parameters

    @property
    def parameters(self) -> int:
        """Numbers in the weight."""
        return self.experts * self.k * self.n

    @property
    def tokens(self) -> int:
        """Rows."""
        return self.m


@dataclass(frozen=True)
class Sizes:
    """A transformer: a decoder (gated, rotary, grouped heads) or an encoder (plain)."""

    name: str
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int = 1
    vocab: int = 0
    decoder: bool = True

    @property
    def layer_parameters(self) -> int:
        """Numbers in the weights of a layer."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return attention + (3 if self.decoder else 2) * self.width * self.hidden


SMOLLM2 = Sizes("SmolLM2-135M", 576, 1536, 9, 3, 64, layers=30, vocab=49152)
LLAMA_8B = Sizes("Llama-3-8B", 4096, 14336, 32, 8, 128, layers=32, vocab=128256)
LLAMA_70B = Sizes("Llama-3-70B", 8192, 28672, 64, 8, 128, layers=80, vocab=128256)
GEMMA3 = Sizes("Gemma-3-4B", 2560, 10240, 8, 4, 256, layers=34, vocab=262208)
VIT = Sizes("ViT-B/16", 768, 3072, 12, 12, 64, layers=12, decoder=False)
BERT = Sizes("BERT-base", 768, 3072, 12, 12, 64, layers=12, decoder=False)
DECODERS = (SMOLLM2, GEMMA3, LLAMA_8B, LLAMA_70B)
ENCODED = ((VIT, 197, (1, 8)), (BERT, 128, (1, 8)))
"""Encoders, the tokens of an input, and batches."""


@dataclass(frozen=True)
class Transformer:
    """Some layers of a transformer, called on ``batch`` sequences.

    ``kind`` is "decode" (``tokens`` steps of one token behind ``context`` others), "prefill" or
    "encode" (one call on ``length`` tokens). A model that has a vocabulary ends in its head.
    """

    sizes: Sizes
    kind: str
    batch: int
    length: int = 1
    context: int = 0
    steps: int = 1
    suite: str = "blocks"

    @property
    def name(self) -> str:
        """Unique within its suite."""
        what = f"{self.kind} batch {self.batch}"
        return f"{self.sizes.name} {what}" + (f" x {self.length}" if self.length > 1 else "")

    @property
    def parameters(self) -> int:
        """Numbers in the weights, the head included, which is the embedding."""
        return self.sizes.layers * self.sizes.layer_parameters + self._head

    @property
    def _head(self) -> int:
        return self.sizes.vocab * self.sizes.width

    @property
    def ops(self) -> int:
        """Multiplications and additions with weights; attention's own are not counted."""
        heads = 1 if self.kind == "prefill" else self.length  # a prompt needs its last token's
        layers = self.length * (self.parameters - self._head)
        return 2 * self.batch * self.steps * (layers + heads * self._head)

    @property
    def reads(self) -> int:
        """How often a call reads every weight."""
        return self.steps

    @property
    def tokens(self) -> int:
        """Tokens that a call goes through."""
        return self.batch * self.length * self.steps


def layers_of(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """Names and sizes of the products of a layer, and of the head."""
    c, inner = sizes, sizes.heads * sizes.head_dim
    yield "q", c.width, inner
    if c.decoder:  # whose other products of attention are of other sizes
        yield "kv", c.width, c.kv_heads * c.head_dim
        yield "o", inner, c.width
    yield "up", c.width, c.hidden
    yield "down", c.hidden, c.width
    if c.vocab:
        yield "head", c.width, c.vocab


QWEN3_MOE = (
    ("q", 2048, 4096, 1),
    ("kv", 2048, 512, 1),
    ("o", 4096, 2048, 1),
    ("up of 8 experts", 2048, 768, 8),
    ("down of 8 experts", 768, 2048, 8),
)
"""Qwen3-30B-A3B: a token goes through eight of 128 experts."""

SQUARES = ((2048, 2048), (2048, 8192), (4096, 4096), (8192, 2048), (8192, 8192))
SQUARE_ROWS = (1, 8, 128, 512)


def products() -> Iterator[Product]:
    """Every layer of every network with as many rows as decoding and prefill give it."""
    for (k, n), m in cross(SQUARES, SQUARE_ROWS):
        yield Product("plain", "product", m, k, n)
    for sizes in DECODERS:
        for (layer, k, n), m in cross(layers_of(sizes), DECODE + PREFILL):
            yield Product(sizes.name, layer, m, k, n)
    for (layer, k, n, experts), m in cross(QWEN3_MOE, DECODE + PREFILL):
        yield Product("Qwen3-30B-A3B", layer, m, k, n, experts)
    for sizes, length, batches in ENCODED:
        for (layer, k, n), batch in cross(layers_of(sizes), batches):
            yield Product(sizes.name, layer, batch * length, k, n)


def blocks() -> Iterator[Transformer]:
    """One layer of every transformer."""
    for sizes in DECODERS:
        yield from _calls(_alone(sizes), "blocks", steps=1)
    for sizes, length, batches in ENCODED:
        for batch in batches:
            yield Transformer(_alone(sizes), "encode", batch, length)


def models() -> Iterator[Transformer]:
    """Whole networks; SmolLM2 with its real weights, the encoders with random ones."""
    yield from _calls(SMOLLM2, "models", STEPS)
    for sizes, length, batches in ENCODED:
        for batch in batches:
            yield Transformer(sizes, "encode", batch, length, suite="models")


def _alone(sizes: Sizes) -> Sizes:
    """One layer without a head."""
    return replace(sizes, layers=1, vocab=0)


def _calls(sizes: Sizes, suite: str, steps: int) -> Iterator[Transformer]:
    for batch in DECODE:
        yield Transformer(sizes, "decode", batch, 1, CONTEXT, steps, suite)
    for length in PREFILL:
        yield Transformer(sizes, "prefill", 1, length, suite=suite)


QUICK = (
    "plain product 2048x8192 M=1",
    "plain product 2048x8192 M=128",
    "SmolLM2-135M up 576x1536 M=1",
    "SmolLM2-135M decode batch 1",
    "SmolLM2-135M prefill batch 1 x 128",
    "BERT-base encode batch 1 x 128",
)
"""Names that a quick run keeps."""


def occurs(pattern: str, name: str) -> bool:
    """Whether a regular expression fits some part of a name, capital letters or not.

    Raises:
        QPassError: it is no regular expression.
    """
    try:
        return re.search(pattern, name, re.IGNORECASE) is not None
    except re.error as error:
        raise QPassError(f"{pattern!r} is no regular expression: {error}.") from error


def chosen(suite: Sequence[Case], pattern: str = "", quick: bool = False) -> tuple[Case, ...]:
    """The cases in whose name the regular expression occurs; of these the quick ones."""
    kept = [case for case in suite if occurs(pattern, case.name)]
    return tuple(case for case in kept if not quick or case.name in QUICK)
