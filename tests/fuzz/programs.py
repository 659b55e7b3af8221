"""Random programs as data: what a failing example prints, and what can be pasted to run it again.

A program is a list of statements. Each reads values and weights that came before, by number counted
back from the latest (0 is the latest; numbers beyond the first wrap around), and adds its result.
Every description means something whatever its numbers are, because shapes are only looked at when
it is evaluated (`tests.fuzz.evaluate`); so examples stay valid while they are being made smaller.

There are two pools. *Weights* are parameters, views of them and what is computed from them alone;
*values* are everything else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Statements, one after the other; the result is the latest value."""

    statements: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Dot:
    """A contraction of value ``x`` with weight ``w``.

    ``style`` is ``dot_general``, ``einsum``, ``matmul``, ``triple`` (an einsum that does more than
    one product: of three operands, or with a sum), ``values`` (of two values) or ``weights`` (of
    two weights, which gives a weight). ``pick`` chooses which axes are paired; ``left`` puts the
    weight first; ``views`` are layout operations, ``(op, pick)``, of the weight on its way.
    """

    x: int = 0
    w: int = 0
    style: str = "dot_general"
    left: bool = False
    batch: int = 0
    contract: int = 1
    pick: int = 0
    wide: bool = False
    views: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Layout:
    """A layout operation of a weight or a value; ``pick`` chooses axes and places."""

    op: str = "transpose"
    of: int = 0
    weight: bool = True
    pick: int = 0


@dataclass(frozen=True)
class Compute:
    """A weight computed from weights: ``double``, ``sum``, ``square``."""

    op: str = "double"
    of: int = 0
    other: int = 0


@dataclass(frozen=True)
class Elementwise:
    """An elementwise operation of a value, of two values, or of a value and a weight."""

    op: str = "sin"
    of: int = 0
    other: int = 0


@dataclass(frozen=True)
class Reduce:
    """A reduction, or a cumulative sum, along an axis of a value."""

    op: str = "sum"
    of: int = 0
    axis: int = 0


@dataclass(frozen=True)
class Lookup:
    """Rows of a weight by number: an embedding."""

    w: int = 0
    pick: int = 0


@dataclass(frozen=True)
class Odd:
    """A contraction of its own kind: ``ragged``, or one that stays float: ``conv``, ``integer``."""

    op: str = "conv"
    x: int = 0
    w: int = 0


@dataclass(frozen=True)
class Scan:
    """A scan: over the leading axis of ``stacked`` weights and ``rows``, values; else ``length``.

    ``held`` weights are carried, changed in each step where ``update``.
    """

    body: Block = Block()
    carry: int = 0
    stacked: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    update: bool = False
    length: int = 2
    reverse: bool = False
    unroll: int = 1


@dataclass(frozen=True)
class Loop:
    """``fori`` (static bounds), ``dynamic`` (a fori_loop with traced bounds) or ``while``.

    ``stop`` stops gradients at everything that the loop reads, without which the latter two cannot
    be differentiated backwards. ``asks`` puts a product into the condition of a ``while``.
    """

    body: Block = Block()
    kind: str = "fori"
    carry: int = 0
    held: tuple[int, ...] = ()
    update: bool = False
    trips: int = 2
    stop: bool = True
    asks: bool = False


@dataclass(frozen=True)
class Branch:
    """A cond or switch over the blocks; results get the shape of value ``like``."""

    branches: tuple[Block, ...] = (Block(), Block())
    like: int = 0
    of: int = 0


@dataclass(frozen=True)
class Call:
    """A call: ``jit``, ``remat``, ``saving`` (with a policy), ``custom_jvp`` or ``custom_vjp``.

    The custom derivatives are half of the true ones, so that a rule that got lost shows. With
    ``again``, the same function is called a second time with that weight in place of the last, or
    with one ``computed`` from it.
    """

    body: Block = Block()
    kind: str = "jit"
    values: tuple[int, ...] = (0,)
    weights: tuple[int, ...] = (0,)
    again: int | None = None
    computed: bool = False


@dataclass(frozen=True)
class Vmap:
    """`jax.vmap` over the leading axis of a value, and of a weight where ``weight_too``."""

    body: Block = Block()
    x: int = 0
    w: int = 0
    weight_too: bool = False


@dataclass(frozen=True)
class Program:
    """A function of parameters and an input.

    Attributes:
        body: what is computed.
        params: shapes of the parameters.
        narrow: for each parameter whether it is bfloat16 (else float32).
        constant: whether one more weight is closed over.
        x: shape of the input.
        outputs: how many of the latest values are returned.
        returned: whether the latest weight is returned too.
    """

    body: Block = Block((Dot(),))
    params: tuple[Shape, ...] = ((4, 4),)
    narrow: tuple[bool, ...] = (False,)
    constant: bool = False
    x: Shape = (3, 4)
    outputs: int = 1
    returned: bool = False


def parts(node: Any) -> Iterator[Any]:
    """Every statement of a program, at any depth."""
    if is_dataclass(node):
        yield node
        for field in fields(node):
            yield from parts(getattr(node, field.name))
    elif isinstance(node, tuple):
        for item in node:
            yield from parts(item)


def has_backward(program: Program) -> bool:
    """Whether JAX can differentiate the program backwards: no while loop but behind a stop."""
    loops = (part for part in parts(program) if isinstance(part, Loop))
    return all(loop.kind == "fori" or loop.stop for loop in loops)


def has(program: Program, statement: type, /, **wanted: Any) -> bool:
    """Whether a statement of this kind with these attributes is in the program."""
    found = (part for part in parts(program) if isinstance(part, statement))
    return any(all(getattr(p, k) == v for k, v in wanted.items()) for p in found)


def is_narrow(program: Program) -> bool:
    """Whether bfloat16 may occur in it."""
    views = [view for part in parts(program) if isinstance(part, Dot) for view, _ in part.views]
    return any(program.narrow) or "narrow" in views or has(program, Layout, op="narrow")
