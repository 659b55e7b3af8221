"""Pages of the documentation that are written from measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qpass_bench.costs import overhead as costs
from qpass_bench.pages import html, plots, speed
from qpass_bench.pages.markdown import table, template

SPEEDS = {
    "prefill_128": "prefill 128, tokens/s",
    "prefill_512": "prefill 512, tokens/s",
    "decode": "decode, tokens/s",
}


COSTS = ("demo", "heldout", "transform", "quantizing", "overhead")
Results = Mapping[str, Any]
"""What was measured, by what it is called: `COSTS`, and suites of `qpass bench`."""


def read(folder: Path) -> dict[str, Any]:
    """The committed runs: all costs, and the suites that there is a run of."""
    files = {name: folder / f"{name}-cpu.json" for name in (*COSTS, *speed.TITLES)}
    present = {n: file for n, file in files.items() if n in COSTS or file.is_file()}
    return {n: json.loads(file.read_text(encoding="utf-8")) for n, file in present.items()}


def performance(results: Results) -> str:
    """``docs/performance.md``."""
    report, heldout, transform, quantizing, overhead = (results[name] for name in COSTS)
    variants, machine = report["variants"], report["machine"]
    tables = [decoder_table(variants), completions(variants)]
    if report.get("encoder"):
        tables.append(encoder_table(report["encoder"]))
    float_mb, int8_mb, *_ = (f"{v['sizes']['bytes'] / 1e6:.0f}" for v in variants)
    return template("performance").substitute(
        model=report["model"]["name"],
        tokens=f"{report['text']['tokens']:,}",
        text=report["text"]["name"],
        date=report["date"],
        platform=machine["platform"],
        cores=machine["cores"],
        jax=machine["jax"],
        tables="\n".join(tables),
        float_mb=float_mb,
        int8_mb=int8_mb,
        transform=transform_table(transform["rows"]),
        transform_date=transform["date"],
        **quantizing_tables(quantizing),
        **overhead_tables(overhead),
        speed=speed.sections(results),
        heldout="; ".join(_heldout(name, heldout[name]) for name in heldout if " " in name),
    )


def files(results: Results) -> dict[str, Callable[[], str]]:
    """Pictures and pages that belong to it, by their names in ``docs``: what makes their text."""
    found = {"images/quality.svg": partial(_quality, results["demo"])}
    for suite in speed.TITLES:
        if suite in results:
            found[f"images/speed-{suite}.svg"] = partial(_speeds, suite, results[suite])
            found[f"images/roofline-{suite}.svg"] = partial(_roofline, results[suite])
            found[f"bench-{suite}.html"] = partial(html.to_html, results[suite])
    return found


def _quality(demo: Results) -> str:
    return plots.svg(plots.quality(demo["variants"]))


def _speeds(suite: str, report: Results) -> str:
    draw = plots.sweep if suite == "sweep" else plots.speed
    return plots.svg(draw(speed.drawn(report["rows"])))


def _roofline(report: Results) -> str:
    return plots.svg(plots.roofline(speed.under_the_roof(report["rows"]), report["roofline"]))


def transform_table(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds of transforming, a row a program and size."""
    head = ("program", "equations", "sites", "trace, s", "transform, s", "fastest to slowest, s")
    return table(head, map(_transform_row, rows))


def _transform_row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["transform_s_range"]
    seconds = f"{row['trace_s']:.3f}", f"{row['transform_s']:.3f}", f"{low:.3f} to {high:.3f}"
    return row["program"], f"{row['equations']:,}", f"{row['sites']:,}", *seconds


def quantizing_tables(report: dict[str, Any]) -> dict[str, str]:
    """What the template calls the parts of the section on quantizing, and what they hold."""
    rows = report["rows"]
    plain, turned = ([r for r in rows if r["layout"] == name] for name in ("rows", "columns"))
    return {
        "quantizing": _pivot([r for r in plain if not r["range"]], "qtype"),
        "quantizing_turned": _pivot(turned, "qtype"),
        "quantizing_ranges": _pivot([r for r in plain if r["range"]], "range"),
        "quantizing_date": report["date"],
        "streams": ", ".join(
            f"{name} {s['gb_per_s']:.0f} GB/s" for name, s in report["streams"].items()
        ),
    }


def overhead_tables(report: dict[str, Any]) -> dict[str, str]:
    """What the template calls the parts of the section on qpass itself, and what they hold."""
    names = ("programs", "calls", "memory", "disk")
    found = zip(names, costs.tables(report), strict=True)
    return {
        **{f"overhead_{name}": table(head, rows) for name, (head, rows) in found},
        "overhead_date": report["date"],
        "overhead_jax": report["machine"]["jax"],
        "overhead_rounds": str(report["calls"][0]["rounds"]),
    }


def _pivot(rows: Sequence[dict[str, Any]], key: str) -> str:
    """A row for each value of ``key``, a column for whatever else tells the cases apart."""
    others = ("granularity",) if key == "qtype" else ("qtype", "granularity")
    columns = list(dict.fromkeys(tuple(r[o] for o in others) for r in rows))
    cells = {(r[key], tuple(r[o] for o in others)): r for r in rows}
    names = dict.fromkeys(r[key] for r in rows)
    body = ((name, *(_share(cells.get((name, c))) for c in columns)) for name in names)
    return table((key.removeprefix("q"), *map(_column, columns)), body)


def _column(words: tuple[str, ...]) -> str:
    return " ".join(words) or "own block"


def _share(row: dict[str, Any] | None) -> str:
    return f"{row['ms']:.1f} ({row['of_optimal']:.0%})" if row else ""


def _heldout(text: str, variants: dict[str, Any]) -> str:
    ratios = (f"{name} {v['ratio']:.4f}×" for name, v in list(variants.items())[1:])
    return f"{text}: {', '.join(ratios)}"


def decoder_table(variants: Sequence[dict[str, Any]]) -> str:
    """Quality, size and speed of the language model, a column a variant."""
    rows = [
        ("parameters, MB", *(f"{v['sizes']['bytes'] / 1e6:.1f}" for v in variants)),
        *(
            (f"{kind} leaves, of float bytes", *(_leaf_ratio(v, kind) for v in variants))
            for kind in _kinds(variants)
        ),
        (
            "perplexity",
            *(f"{v['perplexity']:.3f} ({v['perplexity_ratio']:.4f}×)" for v in variants),
        ),
        *((title, *(_speed(v["speed"][key]) for v in variants)) for key, title in SPEEDS.items()),
    ]
    return table(("", *(v["name"] for v in variants)), rows)


def _kinds(variants: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({kind for v in variants for kind in v["sizes"]["quantized"]})


def _leaf_ratio(variant: dict[str, Any], kind: str) -> str:
    found = variant["sizes"]["quantized"].get(kind)
    return f"{found['ratio']:.3f}×" if found else ""


def _speed(speed: dict[str, Any]) -> str:
    low, high = speed["per_second_range"]
    return f"{speed['per_second']:.1f} [{low:.1f}, {high:.1f}] ({speed['ratio']:.2f}×)"


def completions(variants: Sequence[dict[str, Any]]) -> str:
    """What each variant says to the demo's question."""
    lines = [
        f"- {v['name']}: *{v['completion']['prompt'].strip()}* {v['completion']['text'].strip()}"
        for v in variants
    ]
    return "\n" + "\n".join(lines) + "\n"


def encoder_table(encoder: dict[str, Any]) -> str:
    """The second model: finding words by their definitions."""
    variants = encoder["variants"]
    base = variants[0]["reciprocal_rank"]
    rows = [
        (
            v["name"],
            f"{v['sizes']['bytes'] / 1e6:.1f}",
            f"{v['reciprocal_rank']:.4f} ({v['reciprocal_rank'] / base:.4f}×)",
            f"{v['mean_cosine']:.5f}",
        )
        for v in variants
    ]
    head = ("", "parameters, MB", "mean reciprocal rank", "mean cosine to float")
    title = f"{encoder['name']}, {encoder['words']} nouns of WordNet found by their definitions"
    return f"\n## {title}\n\n{table(head, rows)}"
