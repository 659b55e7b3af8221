"""One cell of the matrix: a framework's model, under a transform, through qpass.

The transform goes on both sides: around the transformed function (``outside``), and into the
function that is transformed (``inside``). Both are held against the model on weights rounded by
hand (`tests.matrix.oracle`), itself under the transform.

Where the program given to qpass holds backward products (``inside``, of a derivative), these stay
float by design, on float weights, while straight-through derivatives run on rounded ones. On
weights that int8 holds exactly the two are the same, so that is where these programs are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

import qpass
from qpass_kernels import native
from tests.jaxprs import count
from tests.matrix.oracle import (
    CONTRACTIONS,
    distance,
    on_weights,
    reference,
    rounded,
    same_bits,
)
from tests.matrix.subject import Subject
from tests.matrix.transforms import Transform, jvp, split, value_and_grad

RULES = (qpass.Rule(weight="int8"),)
MARKS = ("found", "quantized", "gradient checked", "exported")
CLOSE, APART = 2e-5, 2e-4  # rounding must show ten times as much as is forgiven


@dataclass(frozen=True)
class Results:
    """What one run of a cell's programs gave; each with its gradient, where it is none itself."""

    inside: Any
    outside: Any
    wanted: Any
    exported: Any
    inside_value: Any


@dataclass(frozen=True, eq=False)
class Cell:
    """A subject under a transform.

    Attributes:
        reads_floats: whether a look-up inside reads the float value of a weight.
    """

    subject: Subject
    transform: Transform
    reads_floats: bool = False

    @cached_property
    def function(self) -> Callable:
        """The float function, under the transform."""
        return self.transform.lift(self.subject.build(self.subject.apply))

    @cached_property
    def inside(self) -> Any:
        """That function, transformed by qpass."""
        return qpass.transform(self.function, RULES)

    @cached_property
    def outside(self) -> Callable:
        """The model transformed by qpass, under the transform."""
        if self.transform.lifts_modules:
            return self.inside
        model = self.subject.transformed(self.subject.apply, RULES)
        return self.transform.lift(self.subject.build(model))

    def wanted(self, on: jax.Array) -> Callable:
        """The float function on rounded weights; on float ones where ``on`` is 0."""
        subject, lift = self.subject, self.transform.lift
        if self.transform.lifts_modules:
            return reference(self.function, subject.weights, on)
        return lift(subject.build(reference(subject.apply, subject.weights, on)))

    def arguments(self, on_grid: bool = False) -> tuple[Any, Any]:
        """Parameters and batch; the weights such that rounding changes nothing, if asked."""
        params = self.subject.params
        if on_grid:
            params = on_weights(params, self.subject.weights, rounded)
        return self.transform.arguments(params, self.subject.x)

    @cached_property
    def exported(self) -> Callable:
        """`inside`, compiled for export, written and read again."""
        args = self.arguments()
        leaves, tree = jax.tree.flatten(args)

        def flat(*leaves):
            return jax.tree.leaves(self.inside(*jax.tree.unflatten(tree, leaves)))

        written = export.export(jax.jit(flat))(*leaves).serialize()
        return export.deserialize(written).call

    @cached_property
    def run(self) -> Callable[..., Results]:
        """All programs in one compilation."""
        derivative = jvp if self.transform.forward else value_and_grad
        known = (lambda f, p, x: f(p, x)) if self.transform.derivative else derivative

        def programs(p, x, on):
            value, copy = self.inside(p, x), self.exported(*jax.tree.leaves((p, x)))
            functions = (self.inside, self.outside, self.wanted(on))
            return *(known(f, p, x) for f in functions), copy, value

        compiled = _compiled(programs)
        return lambda *args: Results(*compiled(*args))


def _compiled(f: Callable) -> Callable:
    """`jax.jit`, compiling fast: each program runs a few times."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(f, compiler_options=options)


def check(cell: Cell) -> None:
    """All four marks, from the first to the last; an AssertionError where one is not earned."""
    found(cell)
    if cell.transform.abstract:
        shapes(cell)
        return
    results = cell.run(*cell.arguments(), 1.0)
    quantized_and_differentiated(cell, results)
    exported(results.exported, results.inside_value)
    if cell.transform.eager:
        eager(cell)


def exported(got: Any, inside: Any) -> None:
    """Bit for bit; but kernels of this machine stay behind, and XLA adds up in another order."""
    if native.why_not() is None:
        assert distance(got, inside) < CLOSE
    else:
        assert same_bits(got, inside)


def found(cell: Cell) -> None:
    """Every contraction of the float program is one row of the plan, and every weight has one."""
    args = cell.arguments()
    programs = [jax.make_jaxpr(cell.function)(*args)]
    if cell.transform.rules is not None:
        programs += cell.transform.rules(cell.subject.build(cell.subject.apply), *args)
    rows = cell.inside.plan(*args).rows
    assert not [row for row in rows if row.role == "opaque"]
    assert (
        len({row.id for row in rows})
        == len(rows)
        == sum(count(program, *CONTRACTIONS) for program in programs)
    )
    assert {row.weight for row in rows if row.scheme} == set(cell.subject.weights)
    assert all(row.scheme or row.reason for row in rows)


def quantized_and_differentiated(cell: Cell, results: Results) -> None:
    """Values and gradients, inside and outside; rounding must be seen at all."""
    args = cell.arguments()
    on_grid = cell.run(*cell.arguments(on_grid=True), 1.0)
    in_float = cell.run(*args, 0.0).wanted
    assert distance(in_float, results.wanted) > APART
    if not cell.transform.lifts_modules:
        assert distance(results.outside, results.wanted) < CLOSE
    assert distance(on_grid.inside, on_grid.wanted) < CLOSE
    if not (cell.subject.derivative or cell.transform.derivative):
        rows = cell.inside.plan(*args).rows
        said = any("read by gather" in note for row in rows for note in row.notes)
        assert said == cell.reads_floats
        assert said or distance(results.inside, results.wanted) < CLOSE


def eager(cell: Cell) -> None:
    """The same without `jax.jit` around it; what donates its arguments has taken them."""
    p, x = cell.arguments()
    taken = jax.tree.map(jnp.copy, p)
    wanted = _compiled(cell.wanted(1.0))(p, x)
    assert distance(cell.outside(taken, x), wanted) < CLOSE
    if "donated" in cell.transform.name:
        assert all(a.is_deleted() for a in split(taken)[0])


def shapes(cell: Cell) -> None:
    """Shapes of results, gradients and stored parameters; what is exported from shapes runs."""
    p, x = cell.arguments()
    stored = cell.inside.quantize(p, x)
    wanted = _shapes(cell.function, p, x)
    assert wanted == _shapes(cell.inside, p, x) == _shapes(cell.outside, p, x)
    assert wanted == _shapes(cell.inside, stored, x)
    derivatives = (partial(value_and_grad, f) for f in (cell.inside, cell.outside, cell.function))
    assert len({tuple(_shapes(f, p, x)) for f in derivatives}) == 1
    concrete = cell.subject.params, cell.subject.x
    got = cell.exported(*jax.tree.leaves(concrete))
    exported(got, jax.jit(cell.inside)(*concrete))


def _shapes(f: Callable, p: Any, x: Any) -> list:
    return [(a.shape, a.dtype) for a in jax.tree.leaves(jax.eval_shape(f, p, x))]
