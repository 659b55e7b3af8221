"""The interpreter: evaluates a jaxpr with contractions replaced and wrapped values inside.

The environment holds arrays or *wrapped* values (pytrees that stand for one array: QTensors).
What is done with them is handed in as `Operations`; this module knows programs and no numbers.
A wrapped value passes through layout operations and into nested programs; any other equation
gets the array it stands for, and a note says so. Each higher-order primitive is rebuilt by its
rule in `qpass.graph.rebuild`. Equations of a region (`qpass.graph.regions`) are evaluated at once,
except where each product by itself is looked at, or a rematerialization policy decides on each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import jax
from jax.ad_checkpoint import checkpoint_name

from qpass.graph._jax import (
    Jaxpr,
    JaxprEqn,
    Literal,
    bind,
    equation_context,
    kept_as,
    named_like,
    source_line,
)
from qpass.graph.dataflow import Key, Path
from qpass.graph.feeds import Feeds, beneath, step_name
from qpass.graph.regions import Member, Region, Step, read_by, schedule

Taps = dict[str, Any]
Result = tuple[list, Taps]


class Operations(Protocol):
    """What the rewriter needs to know about wrapped values and decided sites."""

    def is_wrapped(self, value: Any) -> bool:
        """Whether ``value`` stands for an array without being one."""
        ...

    def unwrap(self, value: Any) -> jax.Array:
        """The array that a wrapped value stands for; arrays pass unchanged."""
        ...

    def is_state(self, value: Any) -> bool:
        """Whether a wrapped value may change: loops carry it, branches and stacks give it."""
        ...

    def latent_position(self, value: Any) -> int | None:
        """Which of the arrays inside a wrapped value receives gradients; None for none."""
        ...

    def layers(self, value: Any) -> Callable[[jax.Array], Any] | None:
        """What gives a scanned value's slices by index; None for the scan to slice it itself."""
        ...

    def stacked(self, value: Any) -> Any:
        """The value, ready to be scanned over its leading axis."""
        ...

    def layout(self, eqn: JaxprEqn, operands: Sequence[Any]) -> Any | None:
        """Result of a layout equation on a wrapped first operand; None when it cannot carry it."""
        ...

    def contraction(
        self, decision: Any, eqn: JaxprEqn, operands: Sequence[Any], fed: Any = None
    ) -> jax.Array:
        """Result of a decided site; ``fed`` is what it is handed from outside."""
        ...

    def region(
        self, action: Any, members: Sequence[Member], inputs: Mapping[Any, Any]
    ) -> Mapping[Any, Any] | None:
        """Results of a region's equations, at least those read outside, by variable.

        ``inputs`` holds the values that come from outside, arrays or wrapped. None where the action
        does not take these: the equations are then evaluated one by one.
        """
        ...

    def shard(self, value: Any, spec: Any, mesh: Any) -> tuple[Any, Any] | None:
        """A wrapped value ready to be split over a mesh as the array it stands for would be.

        With partition specs for the arrays inside it; None when they cannot follow.
        """
        ...


@dataclass(frozen=True, eq=False)
class Saving:
    """A rematerialization policy, applied to replaced products as if they were the original ones.

    A policy decides by primitive. The original equation is shown to it; what it wants to keep is
    named, and `extended` gives the policy's verdict for such a name.

    Attributes:
        policy: the user's policy.
        verdicts: what the policy said, by name.
    """

    policy: Callable
    verdicts: dict[str, Any] = field(default_factory=dict)

    def name(self, eqn: JaxprEqn) -> str | None:
        """The name to keep the replacement of ``eqn`` under; None to recompute it."""
        avals = [v.aval for v in eqn.invars]
        verdict = self.policy(eqn.primitive, *avals, **eqn.params)
        kind = kept_as(verdict)
        if kind is None:
            return None
        self.verdicts[f"qpass.{kind}"] = verdict
        return f"qpass.{kind}"

    def extended(self, primitive: Any, *avals: Any, **params: Any) -> Any:
        """The policy, which knows the names too."""
        verdict = self.verdicts.get(params.get("name", "")) if primitive.name == "name" else None
        return self.policy(primitive, *avals, **params) if verdict is None else verdict


@dataclass(frozen=True)
class Frame:
    """Where the interpreter is.

    Attributes:
        path: its call path.
        saving: the remat policy in force there.
        feeds: what the sites there and below are handed (`qpass.graph.feeds`).
    """

    path: Path = ()
    saving: Saving | None = None
    feeds: Feeds = field(default_factory=dict)

    def enter(self, index: int, key: str) -> "Frame":
        """The frame of a sub-program of equation ``index``."""
        feeds = self.feeds.get(step_name(index, key), {})
        return replace(self, path=(*self.path, (index, key)), feeds=feeds)

    def beneath(self, index: int) -> dict[str, Any]:
        """The feeds of all sub-programs of equation ``index``."""
        return beneath(self.feeds, index)

    def fed(self, feeds: Feeds) -> "Frame":
        """This frame with other values for its feeds: those that came in as arguments."""
        return replace(self, feeds=feeds)


@dataclass(eq=False)
class Rewriter:
    """One rewriting of one program.

    Attributes:
        decisions: what to do at each site, by call path; sites not listed stay as they are.
        derivatives: traced derivative rules, from the dataflow.
        operations: see `Operations`.
        rebuild: the rule of each higher-order primitive (`qpass.graph.rebuild.REBUILD`).
        regions: legal ones (`qpass.graph.regions.admit`).
        tap: called with ``(key, eqn, operands, result)`` at each decided site; the pytree that it
            returns, of `qpass.graph.merging.Sum`, `Max` and `Min`, comes back by call path, merged
            over the runs of the site; stacked over those in a scan. None taps nothing.
        tap_rules: whether to tap also what derivative rules run in place of their function.
        notes: filled with ``(key, text)`` where a wrapped value had to be unwrapped.
        shared: sub-programs already rebuilt, so that call sites with the same decisions inside
            share one trace.
        savings: a `Saving` for each rematerialization policy met, by its identity.
        enclosing: call sites with decided sites inside.
        below: for each call path, the decided sites and regions inside, by call path from there.
    """

    decisions: Mapping[Key, Any]
    derivatives: Mapping[Key, Any]
    operations: Operations
    rebuild: Mapping[str, Callable]
    regions: Sequence[Region] = ()
    tap: Callable | None = None
    tap_rules: bool = False
    notes: list[tuple[Key, str]] = field(default_factory=list)
    shared: dict[Any, Callable] = field(default_factory=dict)
    savings: dict[int, Saving] = field(default_factory=dict)
    enclosing: set[Key] = field(default_factory=set)
    below: dict[Path, list] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (path, index), decision in self.decisions.items():
            self.enclosing.update((path[:depth], step[0]) for depth, step in enumerate(path))
            self._remember(path, index, decision)
        for region in self.regions:
            self._remember(region.path, region.equations, region.action)

    def _remember(self, path: Path, where: Any, what: Any) -> None:
        """Note what is done at ``where`` at all call paths above."""
        for depth in range(1, len(path) + 1):
            self.below.setdefault(path[:depth], []).append((path[depth:], where, what))

    def run(self, jaxpr: Jaxpr, inputs: Sequence[Any], frame: Frame) -> tuple[list, Taps]:
        """Evaluate ``jaxpr``; results (arrays or wrapped) and what was tapped inside."""
        env = dict(zip(jaxpr.constvars, jaxpr.consts, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))
        taps: Taps = {}
        for step in self._order(jaxpr, frame):
            taps.update(self._step(jaxpr, step, env, frame))
        return [read(env, atom) for atom in jaxpr.outvars], taps

    def _step(self, jaxpr: Jaxpr, step: Step, env: dict[Any, Any], frame: Frame) -> Taps:
        """Evaluate an equation or a region, the results of which enter ``env``; what was tapped."""
        if not isinstance(step, Region):
            return self._one(jaxpr, step, env, frame)
        results = self._region(jaxpr, step, env, frame)
        if results is None:
            taps: Taps = {}
            for index in step.equations:
                taps.update(self._one(jaxpr, index, env, frame))
            return taps
        env.update(results)
        return {}

    def _one(self, jaxpr: Jaxpr, index: int, env: dict[Any, Any], frame: Frame) -> Taps:
        eqn = jaxpr.eqns[index]
        operands = [read(env, atom) for atom in eqn.invars]
        with named_like(eqn), equation_context(eqn):
            results, taps = self.equation(eqn, operands, frame, index)
        env.update(zip(eqn.outvars, results, strict=True))
        return taps

    def _order(self, jaxpr: Jaxpr, frame: Frame) -> Sequence[Step]:
        """What is evaluated, one step after another."""
        here = [region for region in self.regions if region.path == frame.path]
        one_by_one = self.tap is not None or frame.saving is not None
        if one_by_one or not here:
            return range(len(jaxpr.eqns))
        order = schedule(jaxpr, here)
        assert order is not None  # of regions that were admitted
        return order

    def _region(
        self, jaxpr: Jaxpr, region: Region, env: Mapping[Any, Any], frame: Frame
    ) -> Mapping[Any, Any] | None:
        """Evaluate the equations of a region at once; None where its action does not take them."""
        members = [
            Member(jaxpr.eqns[i], self.decisions.get((frame.path, i)), frame.feeds.get(str(i)))
            for i in region.equations
        ]
        inputs = {var: env[var] for var in read_by(jaxpr, region.equations)}
        last = members[-1].eqn
        with named_like(last), equation_context(last):
            return self.operations.region(region.action, members, inputs)

    def equation(
        self, eqn: JaxprEqn, operands: list, frame: Frame, index: int
    ) -> tuple[list, Taps]:
        """Evaluate one equation: a decided site, a nested program, a layout step, or as it is."""
        key = (frame.path, index)
        wrapped = any(map(self.operations.is_wrapped, operands))
        if key in self.decisions:
            return self._site(eqn, operands, frame, key)
        if key in self.enclosing or (wrapped and eqn.primitive.name in self.rebuild):
            return self.rebuild[eqn.primitive.name](self, eqn, operands, frame, index)
        if wrapped:
            return self._wrapped(eqn, operands, key), {}
        return bind(eqn, operands), {}

    def unwrap(self, value: Any, key: Key, why: str) -> Any:
        """The array behind ``value``, with a note if it was wrapped."""
        if not self.operations.is_wrapped(value):
            return value
        self.notes.append((key, why))
        return self.operations.unwrap(value)

    def unwrap_all(self, values: Sequence[Any], frame: Frame, index: int, why: str) -> list:
        """The arrays behind ``values`` at equation ``index``, with a note for each wrapped one."""
        return [self.unwrap(value, (frame.path, index), why) for value in values]

    def handed_on(self, values: Sequence[Any], frame: Frame, index: int, why: str) -> list:
        """The same, states as they are."""
        is_state = self.operations.is_state
        return [v if is_state(v) else self.unwrap(v, (frame.path, index), why) for v in values]

    def _site(self, eqn: JaxprEqn, operands: list, frame: Frame, key: Key) -> tuple[list, Taps]:
        decision = self.decisions[key]
        fed = frame.feeds.get(str(key[1]))
        result = self.operations.contraction(decision, eqn, operands, fed)
        taps = {} if self.tap is None else {tap_name(key): self.tap(key, eqn, operands, result)}
        name = frame.saving.name(eqn) if frame.saving else None
        return [result if name is None else checkpoint_name(result, name)], taps

    def _wrapped(self, eqn: JaxprEqn, operands: list, key: Key) -> list:
        result = self.operations.layout(eqn, operands)
        if result is not None:
            return result if eqn.primitive.multiple_results else [result]
        why = f"dequantized at {eqn.primitive.name} {source_line(eqn)}".rstrip()
        return bind(eqn, [self.unwrap(value, key, why) for value in operands])


def read(env: Mapping[Any, Any], atom: Any) -> Any:
    """The value of an operand or result of an equation."""
    return atom.val if isinstance(atom, Literal) else env[atom]


def tap_name(key: Key) -> str:
    """The name under which a site's taps come back."""
    path, index = key
    return "/".join([*(step_name(*step) for step in path), str(index)])
