"""The command that searches for schemes under a budget and writes them as rules."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpass.cli import terminal
from qpass.cli.target import Target, TargetError, load, load_rules, load_target

if TYPE_CHECKING:
    from qpass.searching import Search

LOSSES = ("error", "kl")


def search(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY",
            help="A function that returns (fn, args), parameters first among args, or a dict of "
            "these and, if wanted, batches: tuples of what follows the parameters. Rules that it "
            "returns are not looked at.",
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(metavar="BUDGET", help="'4.5 bits', '80 MB', '30%', '2 ms' or '0.02 loss'."),
    ],
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="A scheme to choose from, such as 'int4 g32', or 'float'; once for each. Without "
            "any: int3 g32, int4 g64, int4 g32, int8 and float.",
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            metavar="LOSS",
            help="'error': squared error of the results beside the float function's. 'kl': they "
            "are logits. PACKAGE.MODULE:LOSS: a function of the result and the batch.",
        ),
    ] = LOSSES[0],
    path: Annotated[str, typer.Option(metavar="GLOB", help="Weights to search.")] = "**",
    rules: Annotated[
        str | None,
        typer.Option(metavar="FILE or PACKAGE.MODULE:RULES", help="Rules that come first."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the rules to this .json or .yaml file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw size and loss to this .svg, .png or .pdf.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Choose a scheme for each weight under a budget of size or of loss, measured on data."""
    with terminal.errors_as_one_line(traceback):
        from qpass.configs import save_rules
        from qpass.searching.measured import SCHEMES

        with terminal.foreign_code():
            target = load_target(factory)
            first = load_rules(rules) if rules else ()
            how = {
                "schemes": tuple(scheme or SCHEMES),
                "loss": loss if loss in LOSSES else load(loss),
                "rules": first,
                "path": path,
            }
            found = _search(factory, target, budget, how)
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            save_rules(out, found.rules)
        if plot:
            plot.parent.mkdir(parents=True, exist_ok=True)
            found.plot(plot)
        print(found.to_json()) if json else terminal.results().print(found)


def _search(factory: str, target: Target, budget: str, how: dict[str, Any]) -> "Search":
    from qpass.searching import search as run

    if target.params != 0 or target.kwargs or not target.args:
        raise TargetError(
            f"search takes functions whose first argument holds the parameters, without arguments "
            f"by name; {factory} returns params={target.params!r}, kwargs={target.kwargs!r}, "
            f"{len(target.args)} arguments. Return a function of that form."
        )
    params, *batch = target.args
    batches = target.batches or [tuple(batch)]
    return run(target.fn, params, batches, budget=budget, progress=True, **how)
