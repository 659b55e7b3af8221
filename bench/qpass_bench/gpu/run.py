"""Everything in order: check, time, write."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import qpass
from qpass_bench.gpu import decoder, exactness
from qpass_bench.gpu.cases import CASES, Case
from qpass_bench.gpu.products import COPIED, time_case
from qpass_kernels import KERNELS, Kernel
from qpass_kernels.tuning.timing import Method

RESULTS = Path(__file__).parents[2] / "results"
METHOD = Method(rounds=11, least=64)


@dataclass(frozen=True)
class Asked:
    """What to run.

    Attributes:
        kernels: the table.
        cases: products to time.
        method: how often, with how many bytes of weights in turn.
        checks: how many random products are checked, and half as many of experts.
        shape: of the decoder; None leaves it out.
        context, steps, prompt: tokens before, in, and instead of decoding.
        copied: bytes of the array that is copied.
    """

    kernels: tuple[Kernel, ...] = KERNELS
    cases: Sequence[Case] = CASES
    method: Method = METHOD
    checks: int = 66
    shape: decoder.Shape | None = decoder.LLAMA
    context: int = 512
    steps: int = 16
    prompt: int = 4096
    copied: int = COPIED


def run(asked: Asked, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Check and time; returns the report. What fails stands in it with its reason."""
    say(f"checking {asked.checks} random products")
    report: dict[str, Any] = {"machine": machine()}
    some = [*exactness.sweep(asked.checks), *exactness.ragged_sweep(asked.checks // 2)]
    report["checks"] = exactness.check(asked.kernels, some)
    report["products"] = []
    for case in asked.cases:
        say(case.name)
        given = case, asked.kernels, asked.method, asked.copied
        report["products"].append(_kept(case.name, time_case, *given))
    report["models"] = list(_models(asked, say))
    return report


def _models(asked: Asked, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    if asked.shape is None:
        return
    given = asked.shape, asked.kernels, asked.method
    say("decoding")
    yield _kept("decoding", decoder.time_decoding, *given, asked.context, asked.steps)
    say("prefill")
    yield _kept("prefill", decoder.time_prefill, *given, asked.prompt)


def _kept(name: str, timed: Any, *args: Any) -> dict[str, Any]:
    """One failure does not cost the other figures: a machine is lent for minutes."""
    try:
        return timed(*args)
    except Exception as error:
        return {"name": name, "reason": f"{type(error).__name__}: {error}"[:500]}


def machine() -> dict[str, Any]:
    """What the figures are of."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": jax.default_backend(),
        "runtime": device.client.platform_version.strip(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "qpass": qpass.__version__,
    }


def wrong(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The checks that failed: off by more than is allowed, or not run at all."""
    return [row for row in report["checks"] if not row.get("off", 2.0) <= 1]


def file_name(report: dict[str, Any]) -> str:
    """`gpu-nvidia-h200.json` of an NVIDIA H200."""
    slug = re.sub(r"[^a-z0-9]+", "-", report["machine"]["device"].lower()).strip("-")
    return f"gpu-{slug}.json"


def summary(report: dict[str, Any]) -> str:
    """The report in lines."""
    bad = wrong(report)
    lines = [f"{report['machine']['device']}: {len(report['checks'])} checks, {len(bad)} wrong"]
    lines += [f"  WRONG {row}" for row in bad]
    for case in report["products"]:
        if "reason" in case:
            lines.append(f"{case['name']}: {case['reason']}")
            continue
        copied = case["copy_bytes_per_second"] / 1e9
        lines.append(f"{case['name']} (copy {copied:,.0f} GB/s); met: {case['met'] or 'nothing'}")
        lines += [f"  {_row(row)}" for row in case["rows"]]
    lines += [str(model) for model in report["models"]]
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return f"{row['kernel']} {row['config']}: {row.get('reason', 'not timed')}"
    tera, giga = row["operations_per_second"] / 1e12, row["weight_bytes_per_second"] / 1e9
    figures = f"{1e6 * row['seconds']:10,.1f} µs {tera:8,.1f} T/s {giga:8,.0f} GB/s"
    return f"{figures} {row['speedup']:6.2f}×  {row['kernel']} {row['config']}"


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a kernel computes something wrong."""
    parser = argparse.ArgumentParser(description="Check and time the kernels on this GPU.")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--no-model", action="store_true", help="leave the decoder out")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--checks", type=int, default=66, help="random products that are checked")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the report")
    given = parser.parse_args(words)
    if jax.default_backend() != "gpu":
        parser.error(f"no GPU here, but {jax.devices()[0].device_kind}")
    asked = Asked(
        cases=[case for case in CASES if given.only in case.name],
        method=dataclasses.replace(METHOD, rounds=given.rounds),
        checks=given.checks,
        shape=None if given.no_model else decoder.LLAMA,
    )
    report = run(asked)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / file_name(report)
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(summary(report), f"wrote {file}", sep="\n")
    return int(bool(wrong(report)))
