"""Other libraries in the same rounds: Qwix in this process, others in processes of their own."""

from __future__ import annotations

import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qpass_bench.cases import products
from qpass_bench.cases.catalogue import SMOLLM2, Case, Product, Transformer, describe
from qpass_bench.models import fetch, gguf_files
from qpass_bench.running.contenders import Calls, Contender, Entry, compiled
from qpass_bench.running.contestant import buffer_bytes
from qpass_bench.running.machine import threads
from qpass_bench.running.runner import Guest, Missing, one_line
from qpass_bench.running.worker import Peer, PeerError, Worker

QWIX = {
    "Qwix W8A8": {"weight_qtype": "int8", "act_qtype": "int8"},
    "Qwix W8": {"weight_qtype": "int8"},
}


def qwix(case: Case, drawn: Any, takes: Callable[[str], bool]) -> Iterator[Contender | Missing]:
    """Qwix's post-training quantization of a dense layer; of other cases it takes none.

    It patches functions while JAX traces, and JAX keeps what it has traced: its caches are emptied
    before, lest Qwix is given float traces, and afterwards, lest others are given quantized ones.
    """
    for name in filter(takes, QWIX):
        if not isinstance(case, Product) or case.experts > 1:
            yield Missing(name, "is run on single dense layers only")
            continue
        jax.clear_caches()
        entered = _tried(name, QWIX[name], case, drawn)
        jax.clear_caches()
        yield entered


def _tried(name: str, scheme: dict[str, str], case: Product, drawn: Any) -> Contender | Missing:
    try:
        # It asks Flax for what has other names by now.
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            return _qwix(name, scheme, case, drawn)
    except Exception as error:
        return Missing(name, one_line(error))


def _qwix(name: str, scheme: dict[str, str], case: Product, drawn: Any) -> Contender:
    library: Any = importlib.import_module("qwix")
    weight, x = map(jnp.asarray, drawn)
    dense = nn.Dense(case.n, use_bias=False)
    rules = [library.QuantizationRule(module_path=".*", **scheme)]
    model = library.quantize_model(dense, library.PtqProvider(rules))
    template = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    params = {"params": library.quantize_params({"kernel": weight}, template)}
    run, seconds = compiled(model.apply, params, x)
    units = "int8" if "act_qtype" in scheme else "float32"
    error = products.error(run(params, x), drawn)
    entry = Entry(name, "Qwix", buffer_bytes(params), units, "XLA", seconds, error)
    return Contender(entry, Calls(run, (params, x)))


@dataclass(frozen=True)
class Abroad:
    """A guest in a process of its own, under each of its variants."""

    worker: Worker
    cache: Path | None = None

    def __call__(
        self, case: Case, drawn: Any, takes: Callable[[str], bool]
    ) -> Iterator[Contender | Missing]:
        """Have it load a case; its weights are the same, for it draws or reads them likewise."""
        names = {f"{self.worker.peer.name} {variant}": variant for variant in self.worker.variants}
        self.worker.unload()
        for name in filter(takes, names):
            try:
                yield self._contender(name, names[name], spelled(case, self.cache))
            except PeerError as error:
                yield Missing(name, str(error))

    def _contender(self, name: str, variant: str, asked: dict[str, Any]) -> Contender:
        loaded = self.worker.load(asked, variant)
        entry = Entry(
            name=name,
            kind=self.worker.peer.name,
            bytes=loaded["bytes"],
            units=loaded.get("units", "int8"),
            kernel=self.worker.peer.name,
            compile_s=loaded["seconds"],
            error=loaded.get("error"),
        )
        return Contender(entry, partial(self.worker.run, variant=variant))


def spelled(case: Case, cache: Path | None = None) -> dict[str, Any]:
    """A case as a peer is told it."""
    common = {"kind": case.kind, "name": case.name}
    if isinstance(case, Product):
        sizes = {name: getattr(case, name) for name in ("m", "k", "n", "experts", "seed")}
        return {**common, **sizes}
    whole = isinstance(case, Transformer) and case.sizes == SMOLLM2
    return {**describe(case), **({"file": str(_files(cache))} if whole else {})}


def _files(cache: Path | None) -> Path:
    """The demo's model as peers read it: with its channels permuted, as in all other rows."""
    published = fetch.fetch(fetch.SMOLLM2, cache)
    return gguf_files.write_all(published, published.parent / "permuted")


@dataclass
class Guests:
    """The peers of a run: those that take part, and a line on every one; a context ends them."""

    taking_part: list[Guest] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def invite(self, peers: Sequence[Peer]) -> Guests:
        """Qwix where it is installed, and the peers that start."""
        try:
            self.about["Qwix"] = importlib.metadata.version("qwix")
            self.taking_part.append(qwix)
        except importlib.metadata.PackageNotFoundError:
            self.about["Qwix"] = "not installed (pip install qwix)"
        for peer in peers:
            self._start(peer)
        return self

    def _start(self, peer: Peer) -> None:
        try:
            worker = self._open.enter_context(Worker(peer, threads()))
        except PeerError as error:
            self.about[peer.name] = str(error)
            return
        self.about[peer.name] = f"{worker.about['version']}, {worker.about['threads']} threads"
        self.taking_part.append(Abroad(worker))
