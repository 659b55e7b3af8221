"""The command that quantizes a checkpoint on disk, tensor by tensor."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qpass.cli import show, terminal
from qpass.cli.memory import return_freed
from qpass.cli.target import load_rules, load_target
from qpass.errors import QPassError

if TYPE_CHECKING:
    from qpass.checkpoint.formats.tensors import Tensors
    from qpass.checkpoint.stream import Job


def quantize(
    source: Annotated[
        Path,
        typer.Argument(help="A .safetensors file, its .index.json, or a folder with either."),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; qpass.load reads it.")],
    weight: Annotated[
        str, typer.Option(metavar="TYPE", help="For all matrices, such as 'int8' or 'int4 g32'.")
    ] = "",
    contract: Annotated[
        str,
        typer.Option(
            metavar="AXIS",
            help="Axis that products sum over: 1 for [out, in] as PyTorch's Linear has it, 0 for "
            "[in, out]. Never guessed.",
        ),
    ] = "",
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="As 'path=**/mlp/**,weight=int4 g32,contract=1'; first match wins; dots in names "
            "count as '/'.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Tensors that stay as they are.")
    ] = None,
    fn: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:FACTORY",
            help="A function that returns (fn, args, rules); its program says axes. Args may be "
            "jax.ShapeDtypeStructs.",
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE.MODULE:RULES", help="With --fn: other rules."),
    ] = None,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Quantize a float checkpoint that need not fit into memory; goes on where a run was ended."""
    with terminal.errors_as_one_line(traceback), terminal.needs_extra("checkpoint"):
        from qpass.checkpoint.index import open_source
        from qpass.checkpoint.stream import stream
        from qpass.checkpoint.wishes import job_of_wishes, wishes

        return_freed()
        tensors = open_source(source)
        if fn:
            if weight or contract or rule or keep:
                raise QPassError("Give rules with --fn by its factory or --rules, not by options.")
            job = _planned(tensors, fn, rules)
        elif rules:
            raise QPassError("Give --fn with --rules: they are for the function's products.")
        else:
            job = job_of_wishes(tensors, wishes(weight, rule or [], keep or [], contract))
        with show.progress_bar("quantizing", len(job.leaves), terminal.progress()) as tick:
            before = stream(job, Path(os.path.abspath(out)), tick)
        stored = sum(storage is not None for _, storage in job.leaves.values())
        went_on = f"; {before} were done before" if before else ""
        print(f"{out}: {stored} of {len(job.leaves)} tensors quantized{went_on}")


def _planned(tensors: "Tensors", fn: str, rules: str | None) -> "Job":
    import jax

    from qpass.api import transform
    from qpass.checkpoint.wishes import job_of_plan

    with terminal.foreign_code():
        target = load_target(fn)
        chosen = load_rules(rules) if rules else target.rules
    kwargs = target.kwargs or {}
    q = transform(target.fn, chosen, params=target.params)
    plan = q.plan(*target.args, **kwargs)
    quantized = jax.eval_shape(q.quantize, *target.args, **kwargs)
    return job_of_plan(tensors, plan, quantized, json.loads(plan.to_json()))
