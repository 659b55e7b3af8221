"""The commands, each a few calls: read the arguments, do it, show it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpass.cli import terminal
from qpass.cli.bench import bench
from qpass.cli.quantize import quantize
from qpass.cli.search import search
from qpass.cli.target import load_rules, load_target
from qpass.cli.tune import tune

if TYPE_CHECKING:
    from qpass.plan import Plan

app = typer.Typer(
    help="Quantize JAX functions by rewriting their programs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error comes from.")]
Factory = Annotated[
    str,
    typer.Argument(
        metavar="PACKAGE.MODULE:FACTORY",
        help="A function that returns (fn, args), (fn, args, rules), or a dict of these.",
    ),
]
Rules = Annotated[
    str | None,
    typer.Option(metavar="PACKAGE.MODULE:RULES", help="Rules, or a function that returns them."),
]
Platform = Annotated[
    str | None, typer.Option(help="Choose kernels for cpu, cuda or tpu; else for this machine.")
]

MISSED = 1


def main() -> None:
    """Run the command line and end the process with its status."""
    app(prog_name="qpass")


@app.command()
def plan(
    factory: Factory,
    rules: Rules = None,
    platform: Platform = None,
    json: Json = False,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    dot: Annotated[Path | None, typer.Option(help="Write a Graphviz graph to this file.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List unrolled layers that are alike one by one.")
    ] = False,
    details: Annotated[
        bool, typer.Option("--details", help="Add sources, results and refused kernels.")
    ] = False,
    why: Annotated[
        str | None, typer.Option(metavar="SITE", help="Explain this site instead.")
    ] = None,
    traceback: Traceback = False,
) -> None:
    """Show what rules do to each contraction of a function, which is traced but not run."""
    with terminal.errors_as_one_line(traceback):
        with terminal.foreign_code(), terminal.progress().status("tracing"):
            made = _plan(factory, rules, platform)
        terminal.write(html, made.to_html)
        terminal.write(dot, made.to_dot)
        shown = made if why is None else made.why(why)
        if json:
            print(shown.to_json())
        elif why is None:
            terminal.results().print(made.table(folded=not every, details=details))
        else:
            terminal.results().print(shown)


def _plan(factory: str, rules: str | None, platform: str | None) -> "Plan":
    from qpass.api import transform

    target = load_target(factory)
    chosen = load_rules(rules) if rules else target.rules
    rewritten = transform(target.fn, chosen, params=target.params)
    return rewritten.plan(*target.args, platform=platform, **(target.kwargs or {}))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports"),
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tokens; not to quote.")] = False,
    minilm: Annotated[
        bool, typer.Option("--minilm", help="Judge the encoder MiniLM as well.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Quantize a real language model; show what that costs and what it buys."""
    with terminal.errors_as_one_line(traceback), terminal.needs_extra("demo"):
        from qpass_bench.demo import demo, options

        asked = options.Options(out=out, encoder=minilm)
        result = demo.run(options.quick(asked) if quick else asked, terminal.results(quiet=json))
        if json:
            print(terminal.to_json(result))


@app.command("train-demo")
def train_demo(
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves to this .svg.")] = None,
    json: Json = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps; not to quote.")] = False,
    seeds: Annotated[int, typer.Option(help="Trainings of each kind.", min=1)] = 3,
    traceback: Traceback = False,
) -> None:
    """Train small models on real data, in float and quantized; status 1 if any is too far off."""
    with terminal.errors_as_one_line(traceback), terminal.needs_extra("bench"):
        from qpass_bench.pages import training
        from qpass_bench.training import demo

        report = demo.run(demo.Options(seeds, quick), terminal.progress())
        terminal.write(out, lambda: terminal.to_json(report))
        terminal.write(plot, lambda: training.picture(report))
        print(terminal.to_json(report)) if json else terminal.results().print(
            training.shown(report)
        )
        missed = not quick and demo.missed(report)
    if missed:
        raise typer.Exit(MISSED)


app.command()(bench)
app.command()(quantize)
app.command()(search)
app.command()(tune)


def _show_version(asked: bool) -> None:
    if asked:
        from qpass import __version__

        print(f"qpass {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Quantize JAX functions by rewriting their programs."""
