"""Cache: decide which inputs are caches that are stored quantized, and which elements share scales.

A cache is an input that products read, that is written in parts and comes out again. What is
written at a time and read as one vector shares a scale: the axis along which the product of a key
sums, or the one that it leaves of a value. Which that is follows from the program: it is the one
that every write covers as a whole.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from qpass.errors import RuleError
from qpass.graph.states import Read, State, find_states
from qpass.numerics import PerChannel, PerEntry, PerGroup, Quantizer, Scheme
from qpass.ops.operations import Quantized
from qpass.ops.weights import Storage, stored_nbytes
from qpass.passes.refuse import FLOATS
from qpass.plan import Cache, Decision, Plan
from qpass.rules import Rule
from qpass.rules.caching import fits_cache
from qpass.rules.matching import rule_text
from qpass.suggest import did_you_mean, listing, shortened
from qpass.views.units import bytes_text

NAME_AXES = "name the axes that have a scale for each index: per=(0, 1)"
NOT_SMOOTH = (
    ", without smooth=True: the mean of the keys is not known when the first of them is rounded"
)
type Axes = frozenset[int]


@dataclass(frozen=True)
class Roles:
    """What axes of a cache are to the product that reads it; those of size 1 are nothing.

    Attributes:
        contract: summed over.
        free: of the product's result.
    """

    contract: Axes
    free: Axes


def cache(plan: Plan) -> Plan:
    """Fill ``plan.caches``, with their ``plan.storage``, and decide the products that read them.

    Raises:
        RuleError: a rule about caches has no effect (a warning where the plan is not strict).
    """
    chosen = _chosen(plan)
    states = find_states(plan.program, plan.dataflow, chosen) if chosen else {}
    verdicts = {k: _verdict(plan, plan.rules[r], k, states[k]) for k, r in chosen.items()}
    storage = {k: v for k, v in verdicts.items() if isinstance(v, Storage)}
    refused = {k: v for k, v in verdicts.items() if isinstance(v, str)}
    for text in _without_effect(plan, chosen, refused):
        if plan.strict:
            raise RuleError(text)
        warnings.warn(text, stacklevel=2)
    found = [*_told(plan, storage, states), *_told_refused(plan, refused)]
    caches = {k: Cache(_store(plan.rules[chosen[k]]), states[k].outputs) for k in storage}
    marked = replace(
        plan,
        storage=MappingProxyType({**plan.storage, **storage}),
        caches=MappingProxyType(caches),
        findings=(*plan.findings, *found),
    )
    return _decided(marked, {k: states[k] for k in storage})


def _store(rule: Rule) -> Quantizer:
    assert isinstance(rule.store, Quantizer)  # as of every rule with cache=
    return rule.store


def _chosen(plan: Plan) -> dict[int, int]:
    """The first rule about caches that fits, by index of the input."""
    rules = [(index, rule) for index, rule in enumerate(plan.rules) if rule.cache]
    fitting = {
        k: [index for index, rule in rules if fits_cache(rule, leaf.path, leaf.full_path)]
        for k, leaf in enumerate(plan.program.leaves)
        if rules
    }
    return {k: found[0] for k, found in fitting.items() if found}


def _without_effect(plan: Plan, chosen: Mapping[int, int], refused: Mapping[int, str]) -> list[str]:
    texts = []
    for index, rule in enumerate(plan.rules):
        mine = [k for k, number in chosen.items() if number == index]
        if not rule.cache or any(k not in refused for k in mine):
            continue
        text, leaves = rule_text(plan.rules, index), plan.program.leaves
        if not mine:
            near = did_you_mean(str(rule.cache), (leaf.full_path for leaf in leaves), cutoff=0.3)
            texts.append(f"Change or drop {text}: it fits no input. {near}")
            continue
        why = shortened((f"{leaves[k].full_path}: {refused[k]}" for k in mine), 3, "; ")
        texts.append(f"Change or drop {text}: it stores no cache ({why}).")
    return texts


def _verdict(plan: Plan, rule: Rule, leaf: int, state: State) -> Storage | str:
    """How a cache is stored, or why it stays float."""
    aval = plan.program.jaxpr.invars[leaf].aval
    if aval.dtype.name not in FLOATS:
        return f"its dtype is {aval.dtype.name}"
    if not all(isinstance(n, int) for n in aval.shape):
        return f"its shape {aval.shape} is symbolic"
    if not state.outputs:
        ends = f" ({shortened(dict.fromkeys(state.ends), 2)})" if state.ends else ""
        return f"it does not come out of the program as it went in, in codes{ends}"
    if not state.writes:
        return "nothing is written into it by dynamic_update_slice or scatter"
    if not state.reads:
        return "no dot_general reads it"
    shared = _shared(rule, state)
    if isinstance(shared, str):
        return shared
    sizes = _sizes(_store(rule), shared, state.shape)
    if isinstance(sizes, str):
        return sizes
    roles = _roles(state)
    granularity = PerEntry(tuple((axis - len(state.shape), n) for axis, n in sizes.items()))
    apart = set(range(len(state.shape))) - roles.contract - roles.free - shared
    quantizer = replace(_store(rule), granularity=granularity)
    return Storage(quantizer, tuple(sorted(roles.contract)), tuple(sorted(apart)))


def _roles(state: State) -> Roles:
    """As the first product has it: the axes of others in memory follow from it, no more."""
    read = next(iter(state.reads.values()))
    (contract, batch), side = read.eqn.params["dimension_numbers"], read.operand
    taken = {*contract[side], *batch[side]}
    several = frozenset(a for a, n in enumerate(state.shape) if n > 1)
    summed = frozenset().union(*(read.axes[d] for d in contract[side]))
    left = frozenset().union(*(axes for d, axes in enumerate(read.axes) if d not in taken))
    return Roles(summed & several, left & several)


def _shared(rule: Rule, state: State) -> Axes | str:
    """The axes along which elements share a scale, or why that cannot be told."""
    covered = frozenset.intersection(*(write.covered for write in state.writes.values()))
    if isinstance(rule.per, tuple):
        return _named(rule.per, covered, state)
    roles = _roles(state)
    whole = [axes for axes in (roles.contract, roles.free) if axes and axes <= covered]
    if len(whole) == 1:
        return whole[0]
    if whole:
        return f"a write covers all of it, so that tokens cannot be told from features; {NAME_AXES}"
    return (
        f"no write covers an axis that its product sums over or gives, as a whole (of "
        f"{list(state.shape)} writes cover axes {sorted(covered)}); {NAME_AXES}"
    )


def _named(per: tuple[int, ...], covered: Axes, state: State) -> Axes | str:
    ndim = len(state.shape)
    if any(not -ndim <= axis < ndim for axis in per):
        return f"per={per} names an axis that an array of shape {state.shape} does not have"
    own = {axis % ndim for axis in per}
    shared = frozenset(a for a, n in enumerate(state.shape) if n > 1 and a not in own)
    if apart := shared - covered:
        return (
            f"elements along axis {min(apart)} are written apart, and have no scale before that: "
            f"add it to per={per}"
        )
    return shared


def _sizes(store: Quantizer, shared: Axes, shape: tuple[int, ...]) -> dict[int, int] | str:
    """How many neighbours share a scale along each axis where some do."""
    sizes = {axis: shape[axis] for axis in sorted(shared)}
    if isinstance(store.granularity, PerGroup):
        if not sizes:
            return "no elements share a scale, so there is nothing to cut in groups"
        last = max(sizes)
        sizes[last] = store.granularity.length(shape[last])
    return sizes


def _decided(plan: Plan, states: Mapping[int, State]) -> Plan:
    """The products that read caches, with the cache for their weight."""
    reads = {key: (k, read) for k, s in states.items() for key, read in s.reads.items()}

    def change(decision: Decision) -> Decision:
        if decision.site.key not in reads:
            return decision
        leaf, read = reads[decision.site.key]
        return _reading(plan, decision, leaf, read)

    regions = tuple(region for region in plan.regions if reads.keys().isdisjoint(region.keys))
    return replace(plan, regions=regions).update(change)


def _reading(plan: Plan, decision: Decision, leaf: int, read: Read) -> Decision:
    path = plan.program.leaves[leaf].full_path
    if decision.action is None and decision.rule is not None:
        note = f"reads the cache {path}, decoded: {decision.reason}"
        return replace(decision, notes=(*decision.notes, note))
    before = decision.action.scheme if decision.action else Scheme()
    scheme = replace(before, weight=_operand_quantizer(plan, leaf, read), accumulate=None)
    action = Quantized(scheme, read.operand, cached=True)
    smooth = decision.action is not None and decision.action.smooth
    note = f"reads the cache {path} as it is stored{NOT_SMOOTH if smooth else ''}"
    note += f", its sums not in {before.accumulate}" if before.accumulate else ""
    return replace(decision, action=action, reason="", notes=(*decision.notes, note))


def _operand_quantizer(plan: Plan, leaf: int, read: Read) -> Quantizer:
    """What the cache is to a kernel: scales within what is summed over are multiplied before."""
    store = plan.caches[leaf].quantizer
    contract = read.eqn.params["dimension_numbers"][0][read.operand]
    summed = frozenset().union(*(read.axes[d] for d in contract))
    stored = plan.storage[leaf].quantizer.granularity
    assert isinstance(stored, PerEntry)
    ndim = plan.program.jaxpr.invars[leaf].aval.ndim
    shared = {axis % ndim for axis, _ in stored.sizes}
    return store if summed & shared else replace(store, granularity=PerChannel())


def _told(plan: Plan, storage: Mapping[int, Storage], states: Mapping[int, State]) -> list[str]:
    """A text for caches that are stored alike."""
    ids = {d.site.key: d.site.id for d in plan.decisions}
    texts = []
    for k, stored in storage.items():
        aval = plan.program.jaxpr.invars[k].aval
        before, after = aval.size * aval.dtype.itemsize, stored_nbytes(aval, stored)
        readers = listing((ids[key] for key in states[k].reads if key in ids), 3)
        texts.append(
            f"{plan.program.leaves[k].full_path} is a cache of {bytes_text(before)}, stored in "
            f"{bytes_text(after)} ({stored.quantizer.qtype}); read by {readers}."
        )
    return texts


def _told_refused(plan: Plan, refused: Mapping[int, str]) -> list[str]:
    leaves = plan.program.leaves
    return [f"{leaves[k].full_path} stays a float cache: {why}." for k, why in refused.items()]
