"""Small programs on which interception fails, run through Qwix and through qpass, side by side.

``pip install qwix==0.1.8 && python -m qpass_bench.interception`` prints the table of the README,
which ``--out`` writes as JSON. Qwix is no dependency of this project; the cases are written as its
users would write them.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from rich.console import Console
from rich.table import Table

import qpass
from qpass_bench.running.machine import details
from qpass_bench.running.measure import interleaved

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 16))
SPEED = "W8A8 at batch 1 on CPU, K 2048 to N 8192, speed over float32"
QPASS_RULES = [qpass.Rule(path="**", weight="int8", act="int8")]


@dataclass(frozen=True)
class Case:
    """A model that is initialised with, and applied to, an array ``[4, 16]``."""

    name: str
    model: type[nn.Module]


class Matmul(nn.Module):
    """A parameter used with ``@``."""

    @nn.compact
    def __call__(self, x):
        """``[B, 16] -> [B, 32]``."""
        return x @ self.param("w", nn.initializers.normal(), (16, 32))


class Stacked(nn.Module):
    """Layers stacked in one parameter, run by ``lax.scan``."""

    @nn.compact
    def __call__(self, x):
        """``[B, 16] -> [B, 16]``."""
        w = self.param("w", nn.initializers.normal(0.2), (3, 16, 16))
        return lax.scan(lambda carry, layer: (jnp.tanh(carry @ layer), None), x, w)[0]


class ThreeOperands(nn.Module):
    """One einsum of three operands."""

    @nn.compact
    def __call__(self, x):
        """``[B, 16] -> [B, 16]``."""
        a = self.param("a", nn.initializers.normal(), (16, 8))
        b = self.param("b", nn.initializers.normal(), (8, 16))
        return jnp.einsum("bd,df,fe->be", x, a, b)


@jax.jit
def helper(x: jax.Array, w: jax.Array) -> jax.Array:
    """A product in a jitted helper, as libraries have them."""
    return lax.dot(x, w)


class SharedHelper(nn.Module):
    """A model that calls the jitted helper."""

    @nn.compact
    def __call__(self, x):
        """``[B, 16] -> [B, 32]``."""
        return helper(x, self.param("w", nn.initializers.normal(), (16, 32)))


CASES = (
    Case("a parameter used with `@`", Matmul),
    Case("layers stacked in `lax.scan`", Stacked),
    Case("an einsum of three operands", ThreeOperands),
    Case("a float call first, then quantized, through one jitted helper", SharedHelper),
)


def outcome(run: Callable[[], Any]) -> str:
    """What a user sees: quantized, silently float, or an error."""
    try:
        difference = float(run())
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"
    return "stays float, no word" if difference == 0 else "quantized"


def peer() -> Any:
    """Qwix, which is installed beside this project by whoever runs the comparison."""
    return importlib.import_module("qwix")


def with_qwix(case: Case) -> Any:
    """Largest change of the result when the model goes through Qwix's PTQ."""
    qwix = peer()

    rules = [qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
    model = case.model()
    variables = model.init(KEY, X)
    exact: Any = model.apply(variables, X)
    quantized = qwix.quantize_model(model, qwix.PtqProvider(rules))
    template = quantized.init(KEY, X)["params"]
    params = qwix.quantize_params(variables["params"], template)
    result: Any = quantized.apply({"params": params}, X)
    return jnp.abs(result - exact).max()


def with_qpass(case: Case) -> Any:
    """The same through qpass."""
    model = case.model()
    variables = model.init(KEY, X)
    exact = model.apply(variables, X)
    q = qpass.transform(model.apply, QPASS_RULES)
    return jnp.abs(q(q.quantize(variables, X), X) - exact).max()


def plain_function(w: jax.Array, x: jax.Array) -> jax.Array:
    """A function without a module."""
    return x @ w


@dataclass(frozen=True)
class Row:
    """A case and what became of it."""

    case: str
    qwix: str
    qpass: str


def more_cases() -> list[Row]:
    """Cases that are not a matter of one model."""
    qwix = peer()

    rules = [qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
    typo = [qwix.QuantizationRule(module_path="typo", weight_qtype="int8", act_qtype="int8")]
    w = jax.random.normal(KEY, (16, 32))
    dense = nn.Dense(32)
    variables = dense.init(KEY, X)
    function: Any = plain_function

    def change(apply: Callable) -> Any:
        return jnp.abs(apply(variables, X) - dense.apply(variables, X)).max()

    q = qpass.transform(dense.apply, [qpass.Rule(path="typo", weight="int8", act="int8")])
    ours = qpass.transform(plain_function, QPASS_RULES)
    return [
        Row(
            "a plain function",
            outcome(lambda: qwix.quantize_model(function, qwix.QtProvider(rules))),
            outcome(lambda: jnp.abs(ours(w, X) - plain_function(w, X)).max()),
        ),
        Row(
            "a rule that matches nothing",
            outcome(lambda: change(qwix.quantize_model(dense, qwix.QtProvider(typo)).apply)),
            outcome(lambda: change(q)),
        ),
    ]


def decode_speed(rounds: int = 40) -> Row:
    """Speed of W8A8 at batch 1 on CPU, K 2048 to N 8192, over float32."""
    qwix = peer()

    rules = [qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
    dense, x = nn.Dense(8192, use_bias=False), jax.random.normal(KEY, (1, 2048))
    variables = dense.init(KEY, x)
    theirs = qwix.quantize_model(dense, qwix.PtqProvider(rules))
    params = {"params": qwix.quantize_params(variables["params"], theirs.init(KEY, x)["params"])}
    ours = qpass.transform(dense.apply, QPASS_RULES)
    timed = interleaved(
        {
            "float32": partial(jax.jit(dense.apply), variables, x),
            "qwix": partial(jax.jit(theirs.apply), params, x),
            "qpass": partial(jax.jit(ours), ours.quantize(variables, x), x),
        },
        rounds,
    )
    return Row(SPEED, *(f"{timed[name].ratio:.2f}×" for name in ("qwix", "qpass")))


def report() -> dict[str, Any]:
    """All rows, and on what they were made; ready for JSON."""
    models = [
        Row(c.name, outcome(partial(with_qwix, c)), outcome(partial(with_qpass, c))) for c in CASES
    ]
    rows = [*models, *more_cases(), decode_speed()]
    version = importlib.metadata.version("qwix")
    return {"qwix": version, "machine": details(), "rows": [asdict(row) for row in rows]}


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("case", f"Qwix {result['qwix']}", "qpass")
    for row in result["rows"]:
        table.add_row(*row.values())
    Console(width=120).print(table)


def main() -> None:
    """Run everything, print it, and write it where asked."""
    parser = argparse.ArgumentParser(description="Small programs through Qwix and through qpass.")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    out, result = parser.parse_args().out, report()
    show(result)
    if out:
        out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
