"""The command `qpass bench`."""

import json as reading
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpass.cli import show, terminal
from qpass.errors import QPassError

if TYPE_CHECKING:
    from qpass_bench.running.session import Asked

REGRESSED = 1
ROUNDS = 20
"""Of `overhead` and `train`."""
QUICK = 3
"""Rounds of `train --quick`."""
PEERS = Path("bench/peers/peers.json")


class Isa(StrEnum):
    """Instructions that `qpass bench` may keep to."""

    avx2 = "avx2"
    avx512 = "avx512"
    vnni = "vnni"


class Suite(StrEnum):
    """What `qpass bench` measures."""

    products = "products"
    blocks = "blocks"
    models = "models"
    all = "all"
    sweep = "sweep"
    transform = "transform"
    overhead = "overhead"
    train = "train"
    experts = "experts"


COSTS = (Suite.transform, Suite.overhead, Suite.train, Suite.experts)
"""Suites whose rows are not of cases that kernels are held against."""

SUITES = (
    "products, blocks, models, or all of these: speed beside float and peers. "
    "sweep: random shapes. transform: cost of rewriting. "
    "overhead: cost of calls, memory while quantizing, bytes on disk. "
    "train: time and memory of a training step. "
    "experts: perplexity of a small mixture of experts with quantized experts, after training it; "
    "status 1 if any is too far off."
)
Pattern = Annotated[
    str, typer.Option("--filter", metavar="REGEX", help="Only cases in whose name this occurs.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A few cases and rounds; not to quote.")]
Only = Annotated[
    str, typer.Option(metavar="REGEX", help="Beside float32, only those in whose name this occurs.")
]
Rounds = Annotated[
    int | None, typer.Option(help="Interleaved rounds; 20, models 10, sweep 7.", min=1)
]
Sittings = Annotated[
    int | None,
    typer.Option(
        help="Times that everything is set up anew; rounds are shared out. 5, blocks 2, models and "
        "sweep 1.",
        min=1,
    ),
]
Longest = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="Skip cases whose float32 call takes longer than 1, models 2."
    ),
]
Shapes = Annotated[int, typer.Option(help="sweep: how many.", min=1)]
Seed = Annotated[int, typer.Option(help="sweep: which.")]
Peers = Annotated[
    Path, typer.Option(help="List of peers; `make bench-peers` installs those of a checkout.")
]
Cap = Annotated[
    Isa | None,
    typer.Option("--isa", help="Keep kernels, and what XLA generates, to older instructions."),
]
Results = Annotated[Path | None, typer.Option(help="Show this JSON again instead of measuring.")]
Compare = Annotated[
    Path | None,
    typer.Option(metavar="OLD.json", help="Test rows against this run; status 1 if any is slower."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Out = Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with plots to this file.")]
Quality = Annotated[Path | None, typer.Option(help="For the page: report.json of `qpass demo`.")]
Plot = Annotated[Path | None, typer.Option(help="transform: draw it to this .svg, .png or .pdf.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]


def bench(
    suite: Annotated[Suite, typer.Argument(help=SUITES)] = Suite.products,
    pattern: Pattern = "",
    only: Only = "",
    quick: Quick = False,
    rounds: Rounds = None,
    sittings: Sittings = None,
    longest: Longest = None,
    shapes: Shapes = 200,
    seed: Seed = 0,
    peers: Peers = PEERS,
    isa: Cap = None,
    results: Results = None,
    compare: Compare = None,
    json: Json = False,
    out: Out = None,
    html: Html = None,
    quality: Quality = None,
    plot: Plot = None,
    traceback: Traceback = False,
) -> None:
    """Time quantized products, blocks and models beside float, or what rewriting costs."""
    with terminal.errors_as_one_line(traceback), terminal.needs_extra("bench"):
        foreign = {"--html": html, "--compare": compare, "--results": results, "--isa": isa}
        _refuse(suite, foreign if suite in COSTS else {})
        _refuse(suite, {} if suite is Suite.transform else {"--plot": plot})
        if suite is Suite.transform:
            report, drawn = _transform(plot)
        elif suite is Suite.overhead:
            report, drawn = _overhead(rounds or ROUNDS)
        elif suite is Suite.train:
            report, drawn = _train(pattern, rounds or (QUICK if quick else ROUNDS))
        elif suite is Suite.experts:
            report, drawn = _experts(quick)
        else:
            from qpass_bench.running.session import Asked

            how = rounds, sittings, longest
            asked = Asked(suite, pattern, only, quick, *how, shapes, seed, peers, isa)
            report, drawn = _cases(asked, results)
        terminal.write(out, lambda: terminal.to_json(report))
        terminal.write(html, lambda: _page(report, quality))
        print(terminal.to_json(report)) if json else terminal.results().print(drawn)
        regressed = bool(compare) and _regressed(_read(compare), report, json)
        silent = suite is Suite.sweep and _was_silent(report)
        far = suite is Suite.experts and not quick and _is_far(report)
    if regressed or silent or far:
        raise typer.Exit(REGRESSED)


def _refuse(suite: Suite, foreign: Mapping[str, Any]) -> None:
    """Refuse options that the suite would ignore.

    Raises:
        QPassError: there is one.
    """
    given = [name for name, value in foreign.items() if value is not None]
    if given:
        raise QPassError(f"`qpass bench {suite}` has no use for {', '.join(given)}.")


def _cases(asked: "Asked", results: Path | None) -> tuple[Any, Any]:
    from qpass_bench.pages import tables
    from qpass_bench.running import session

    if results:
        report = _read(results)
    else:
        cases = session.cases(asked)
        total = len(cases) * asked.settings.sittings
        with show.progress_bar("timing", total, terminal.progress()) as tick:
            report = session.run(asked, cases, tick)
    return report, tables.shown(report)


def _transform(plot: Path | None) -> tuple[Any, Any]:
    from qpass_bench.costs import transform

    total = len(transform.PROGRAMS) * len(transform.SIZES)
    with show.progress_bar("transforming", total, terminal.progress()) as tick:
        rows = transform.run(tick=tick)
    if plot:
        plot.parent.mkdir(parents=True, exist_ok=True)
        transform.plot(rows, plot)
    return transform.report(rows), show.transform_table(rows)


def _overhead(rounds: int) -> tuple[Any, Any]:
    from qpass_bench.costs import overhead

    with show.progress_bar("measuring", overhead.steps(), terminal.progress()) as tick:
        report = overhead.run(rounds, tick)
    return report, overhead.shown(report)


def _train(pattern: str, rounds: int) -> tuple[Any, Any]:
    from qpass_bench.pages import training
    from qpass_bench.training import speed

    chosen = speed.chosen(pattern)
    if not chosen:
        every = ", ".join(speed.title(*pair) for pair in speed.chosen())
        raise QPassError(f"No case of train fits {pattern!r}: {every}.")
    with show.progress_bar("training", len(chosen), terminal.progress()) as tick:
        report = speed.run(chosen, rounds, tick)
    return report, training.steps_shown(report)


def _experts(quick: bool) -> tuple[Any, Any]:
    from qpass_bench.pages.experts import shown
    from qpass_bench.training import experts

    report = experts.run(terminal.progress(), quick)
    return report, shown(report)


def _page(report: Any, quality: Path | None) -> str:
    from qpass_bench.pages import html

    return html.to_html(report, _read(quality) if quality else None)


def _regressed(old: Any, new: Any, quiet: bool) -> bool:
    """Print what changed; whether anything of qpass became slower."""
    from qpass_bench.pages import tables
    from qpass_bench.running import regressions

    found = regressions.compare(old, new)
    terminal.results(quiet).print(tables.comparison(found))
    return bool(found.called("regression"))


def _was_silent(report: Any) -> bool:
    """Whether a random shape is slow that no plan spoke of."""
    from qpass_bench.running import sweep

    return any(line["unsaid"] for line in sweep.summary(report["rows"]))


def _is_far(report: Any) -> bool:
    """Whether perplexity with quantized experts is further from float than is asked."""
    from qpass_bench.training.experts import missed

    return bool(missed(report))


def _read(file: Path) -> Any:
    try:
        return reading.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QPassError(f"Cannot read {file}: {error}.") from error
