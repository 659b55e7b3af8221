"""The command that times kernels on this machine and keeps what was fastest."""

from pathlib import Path
from typing import Annotated

import typer

from qpass.cli import terminal
from qpass.cli.target import load_rules, load_target


def tune(
    factory: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY",
            help="A function that returns (fn, args), (fn, args, rules), or a dict of these.",
        ),
    ],
    rules: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE.MODULE:RULES", help="Rules, or a function of them."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each candidate has.")] = 7,
    cache: Annotated[
        int,
        typer.Option(
            "--cache-mb",
            min=0,
            help="Weights that each walks through in a turn, so that none is found in a cache.",
        ),
    ] = 128,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Time every kernel that may compute a function's quantized products, on this machine."""
    with terminal.errors_as_one_line(traceback):
        from qpass.tuning import tune as run
        from qpass_kernels.tuning import Method

        with terminal.foreign_code():
            target = load_target(factory)
            chosen = load_rules(rules) if rules else target.rules
        with terminal.progress().status("tracing") as status:
            made = run(
                target.fn,
                chosen,
                *target.args,
                method=Method(rounds=rounds, cache=cache << 20),
                watch=lambda p: status.update(f"{p.lhs} × {p.rhs}, {p.m} × {p.n} × {p.k}"),
                params=target.params,
                **(target.kwargs or {}),
            )
        terminal.write(out, lambda: made.tuned.to_json())
        terminal.results().print(str(made), markup=False, highlight=False)
