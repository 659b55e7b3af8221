"""What `qpass train-demo` and `qpass bench train` found, as tables in words, and as curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.text import Text

from qpass_bench.pages.markdown import table, template
from qpass_bench.pages.plots import svg
from qpass_bench.running.terminal import drawn
from qpass_bench.training.demo import missed

Report = Mapping[str, Any]
HEAD = (
    "",
    "loss",
    "over float",
    "seed by seed",
    "allowed",
    "gradients at the start",
    "allowed",
    "in the end",
    "ms a step",
)


def rows(task: Report) -> Iterable[tuple[str, ...]]:
    """A row a recipe, as in `HEAD`."""
    for row in task["recipes"]:
        off, end, limit = (
            row[key] for key in ("gradients", "gradients_in_the_end", "gradients_within")
        )
        quantized = row["within"] is not None
        yield (
            row["name"],
            f"{row['loss']:.4f}",
            f"{row['over_float']:+.2%}" if quantized else "",
            ", ".join(f"{x:+.2%}" for x in row["each_over_float"]) if quantized else "",
            f"{row['within']:.0%}" if quantized else "",
            f"{off['mean']:.4f}" if off else "",
            f"{limit:g}" if limit else "",
            f"{end['mean']:.4f}" if end else "",
            f"{1e3 * row['seconds'] / task['steps']:,.0f}",
        )


def title(task: Report) -> str:
    """What was learned, in a line."""
    return (
        f"{task['name']}: {task['parameters']:,} parameters, {task['steps']} steps of "
        f"{task['batch']} of {task['examples']:,} examples, judged on {task['held_out']:,} others"
    )


def shown(report: Report) -> RenderableType:
    """The tables for a terminal, and what was missed."""
    tables = [drawn(HEAD, rows(task), title=title(task)) for task in report["tasks"]]
    found = missed(report)
    verdict = "\n".join(found) if found else "Everything is as near to float as was asked."
    return Group(*tables, Text(f"{verdict} {report['seconds']:.0f} s in all."))


def section(report: Report) -> str:
    """The part of ``docs/training.md`` that is written from a run."""
    tables = [f"{title(task)}:\n\n{table(HEAD, rows(task))}" for task in report["tasks"]]
    return template("training").substitute(
        **_where(report),
        seconds=f"{report['seconds']:.0f}",
        seeds=len(report["tasks"][0]["recipes"][0]["runs"]),
        tables="\n".join(tables),
        missed="".join(f"\nMissed: {line}." for line in missed(report)),
    )


def _where(report: Report) -> dict[str, Any]:
    """When and on what it was measured."""
    return {name: report["machine"][name] for name in ("cpu", "cores", "jax")} | {
        "date": report["date"]
    }


def curves(report: Report) -> Figure:
    """Loss over steps: a picture a task, a colour a recipe, a thin line a seed."""
    tasks: Sequence[Report] = report["tasks"]
    figure = Figure(figsize=(5 * len(tasks), 4), layout="constrained")
    for place, task in enumerate(tasks, 1):
        axes = figure.add_subplot(1, len(tasks), place, yscale="log")
        for number, row in enumerate(task["recipes"]):
            for run in row["runs"]:
                steps, losses = zip(*run["curve"], strict=True)
                axes.plot(steps, losses, color=f"C{number}", linewidth=0.8, alpha=0.8)
            axes.plot([], [], color=f"C{number}", label=f"{row['name']} {row['loss']:.3f}")
        axes.set_title(task["name"], fontsize=9)
        axes.set_xlabel("step")
        axes.set_ylabel("loss of a batch, nats")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.legend(title="held out, in the end", fontsize=7, title_fontsize=7, frameon=False)
    return figure


def picture(report: Report) -> str:
    """The curves as SVG text."""
    return svg(curves(report))


STEPS = ("", "", "ms a step", "fastest to slowest", "speed over float", "XLA, MB", "process, MB")


def step_rows(report: Report) -> Iterable[tuple[str, ...]]:
    """A row for everybody who takes a step in a case, as in `STEPS`."""
    for row in report["rows"]:
        low, high = row["ms_range"]
        peak = row["peak_bytes"]
        yield (
            row["case"],
            row["variant"],
            f"{row['ms']:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{row['over_float']:.2f}×",
            f"{row['temporary_bytes'] / 1e6:.1f}",
            "" if peak is None else f"{peak / 1e6:.0f}",
        )


def steps_shown(report: Report) -> RenderableType:
    """Time and memory of steps for a terminal, and who is missing."""
    return Group(drawn(STEPS, step_rows(report), words=2), Text("\n".join(_missing(report))))


def _missing(report: Report) -> list[str]:
    return [f"{m['case']}, {m['variant']}: {m['why']}" for m in report["missing"]]


def steps_section(report: Report) -> str:
    """The part of ``docs/training.md`` on what a step costs."""
    return template("training_steps").substitute(
        **_where(report),
        rounds=report["rounds"],
        table=table(STEPS, step_rows(report)),
        missing="".join(f"- {line}\n" for line in _missing(report)),
    )
