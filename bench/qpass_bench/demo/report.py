"""The demo's results as one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from qpass_bench.demo.svg import Bar, chart

Result = dict[str, Any]

SPEEDS = {
    "prefill_128": "Prefill of 128 tokens, tokens/s",
    "prefill_512": "Prefill of 512 tokens, tokens/s",
    "decode": "Decode, one sequence, tokens/s",
}


def to_html(result: Result) -> str:
    """The page for what ``demo.run`` returned."""
    template = Template(
        files("qpass_bench.demo").joinpath("report.html").read_text(encoding="utf-8")
    )
    return template.substitute(
        title=escape(f"qpass on {result['model']['name']}"),
        subtitle=escape(subtitle(result)),
        charts=charts(result["variants"]),
        table=table(columns(result), result["variants"]),
        notes=" ".join(escape(note) for note in result["notes"]),
        completions="".join(completion(variant) for variant in result["variants"]),
        rules="".join(rules(variant) for variant in result["variants"]),
        more=encoder(result["encoder"]) if result["encoder"] else "",
    )


def subtitle(result: Result) -> str:
    """What was run, on what, and when."""
    model, machine, text = result["model"], result["machine"], result["text"]
    return (
        f"{model['parameters'] / 1e6:.1f} M parameters. "
        f"Perplexity on {text['tokens']:,} tokens of {text['name']}. "
        f"{machine['platform']}, {machine['cores']} cores, jax {machine['jax']}, {result['date']}; "
        f"{result['seconds']:.0f} s in all."
    )


def charts(variants: Sequence[Result]) -> str:
    """Size, perplexity and each speed, one chart a measure."""
    megabytes = [v["sizes"]["bytes"] / 1e6 for v in variants]
    quality = [v["perplexity"] for v in variants]
    plain = [
        chart("Parameters, MB", _bars(variants, megabytes, "{:.0f}", "{:.2f}")),
        chart("Perplexity (less is better)", _bars(variants, quality, "{:.2f}", "{:.3f}")),
    ]
    return "".join(
        plain + [chart(title, _speed_bars(variants, key)) for key, title in SPEEDS.items()]
    )


def _bars(variants: Sequence[Result], values: Sequence[float], form: str, ratio: str) -> list[Bar]:
    return [
        Bar(v["name"], x, f"{form.format(x)} ({ratio.format(x / values[0])}×)", f"c{i}")
        for i, (v, x) in enumerate(zip(variants, values, strict=True))
    ]


def _speed_bars(variants: Sequence[Result], key: str) -> list[Bar]:
    return [
        Bar(
            v["name"],
            s["per_second"],
            f"{s['per_second']:.1f} ({s['ratio']:.2f}×)",
            f"c{i}",
            *s["per_second_range"],
        )
        for i, v in enumerate(variants)
        for s in (v["speed"][key],)
    ]


Column = tuple[str, Callable[[Result], str]]


def columns(result: Result) -> list[Column]:
    """The figures that the page and the terminal show, with how to write them."""
    base = result["variants"][0]["perplexity"]
    return [
        ("variant", lambda v: v["name"]),
        ("size", lambda v: _size(v["sizes"])),
        ("perplexity", lambda v: f"{v['perplexity']:.2f} ({v['perplexity'] / base:.3f}×)"),
        *((key.replace("_", " "), _speed(key)) for key in SPEEDS),
    ]


def _size(sizes: Result) -> str:
    """Bytes of the whole tree; below, what became of the leaves of each quantized type."""
    kinds = (f"{name} leaves {kind['ratio']:.3f}×" for name, kind in sizes["quantized"].items())
    return f"{sizes['bytes'] / 1e6:.0f} MB ({sizes['ratio']:.2f}×)\n{', '.join(kinds)}".strip()


def _speed(key: str) -> Callable[[Result], str]:
    def write(variant: Result) -> str:
        speed = variant["speed"][key]
        low, high = speed["per_second_range"]
        return f"{speed['per_second']:.1f}/s ({speed['ratio']:.2f}×)\n{low:.1f} to {high:.1f}"

    return write


def table(columns: Sequence[Column], rows: Sequence[Result]) -> str:
    """An HTML table; a second line in a cell is small print."""
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(write(row))}</td>" for _, write in columns) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    first, _, rest = text.partition("\n")
    return escape(first) + (f"<small>{escape(rest)}</small>" if rest else "")


def completion(variant: Result) -> str:
    """The prompt in soft ink and what the model went on to say."""
    prompt, said = escape(variant["completion"]["prompt"]), escape(variant["completion"]["text"])
    name = escape(variant["name"])
    quote = f'<blockquote><span class="prompt">{prompt}</span>{said}</blockquote>'
    return f"<strong>{name}</strong>{quote}"


def rules(variant: Result) -> str:
    """The rules of one variant, and a link to its plan where one was written."""
    written = "".join(f"<li><code>{escape(rule)}</code></li>" for rule in variant["rules"])
    plan = variant.get("plan")
    link = f' <a href="{escape(plan)}">Plan</a>' if plan else ""
    about = f"<strong>{escape(variant['name'])}</strong>: {escape(variant['about'])}.{link}"
    return f"<p>{about}</p><ul>{written}</ul>"


def encoder(result: Result) -> str:
    """The section of the sentence encoder."""
    shown = table(encoder_columns(result), result["variants"])
    about = f"{result['name']}: 1 of {result['words']} nouns found by its WordNet definition."
    head = f'<h2>A second model</h2><p class="soft">{escape(about)}</p>'
    return f'{head}<div class="scroll">{shown}</div>'


def encoder_columns(result: Result) -> list[Column]:
    """The figures of the sentence encoder, with how to write them."""
    base = result["variants"][0]["reciprocal_rank"]
    return [
        ("variant", lambda v: v["name"]),
        ("size", lambda v: _size(v["sizes"])),
        (
            "mean reciprocal rank",
            lambda v: f"{v['reciprocal_rank']:.4f} ({v['reciprocal_rank'] / base - 1:+.1%})",
        ),
        ("mean cosine to float", lambda v: f"{v['mean_cosine']:.4f}"),
    ]
