"""What rich would draw, as a string."""

from io import StringIO

from rich.console import Console, RenderableType


def to_text(renderable: RenderableType, width: int = 120, color: bool = False) -> str:
    """Render at a width in columns, without trailing blanks; with ANSI colors only when asked."""
    console = Console(
        file=StringIO(), width=width, force_terminal=color, no_color=not color, highlight=False
    )
    with console.capture() as capture:
        console.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
