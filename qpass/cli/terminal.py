"""What the commands share: consoles, files, and errors as one line."""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console

from qpass.errors import QPassError

PIPED_WIDTH = 140  # columns of a table that no terminal gives a width to
FAILED = 2


def results(quiet: bool = False) -> Console:
    """Where results are drawn: stdout, or stderr when stdout belongs to JSON."""
    console = Console(stderr=quiet)
    return console if console.is_terminal else Console(stderr=quiet, width=PIPED_WIDTH)


def progress() -> Console:
    """Where bars and remarks go."""
    return Console(stderr=True)


def to_json(document: Any) -> str:
    """A document as JSON that a person can read."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def write(file: Path | None, text: Callable[[], str]) -> None:
    """Write a file where one was asked for, its folders included, and say so on stderr."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text(), encoding="utf-8")
        print(f"wrote {file}", file=sys.stderr)


@contextmanager
def foreign_code() -> Iterator[None]:
    """Run code of the user; what it prints goes to stderr, for stdout is kept for results."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Run code of the benchmarks, whose dependencies come with an extra of the package.

    Raises:
        QPassError: a module is missing; says how to get it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise QPassError(
            f"Install what this command needs: pip install 'qpass-jax[{name}]' ({error})."
        ) from error


@contextmanager
def errors_as_one_line(full: bool) -> Iterator[None]:
    """End the process with status 2 and one line on stderr when anything fails.

    Args:
        full: print the whole traceback before that line.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe, as `head`, has seen enough: typer ends quietly
    except Exception as error:
        if full:
            traceback.print_exception(error)
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    print(f"qpass: {one_line(error)}", file=sys.stderr)
    raise typer.Exit(FAILED) from None


def one_line(error: Exception) -> str:
    """What went wrong; of errors that are not qpass's own, also the type and where they arose."""
    if isinstance(error, QPassError):
        return " ".join(str(error).split())
    first = next(filter(None, map(str.strip, str(error).splitlines())), "no message")
    return f"{type(error).__name__}: {first}{_where(error)} --traceback shows more."


def _where(error: Exception) -> str:
    """The innermost line that is not of an installed package: most likely the user's own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})." if own else "."
