"""What rules add to a function: where its values come from, and how adapters are merged."""

import functools
from collections.abc import Mapping
from typing import Any

from qpass.adapters.learned import init_ranges
from qpass.adapters.masks import (
    Masks,
    as_masks,
    check_masks,
    init_masks,
    masked_values,
    update_masks,
)
from qpass.adapters.merge import merge
from qpass.adapters.tree import Adapters, as_adapters, init_adapters
from qpass.beside import Beside
from qpass.delayed import State, init_state
from qpass.keys import as_key
from qpass.planned import Planned
from qpass.quantize import check_leaves, parameters, quantize_caches


class Added(Beside, Planned):
    """Methods for states, adapters, learned ranges and masks."""

    def init_state(self, *args: Any, **kwargs: Any) -> State:
        """The state of delayed scaling before the first step: nothing seen, all scales 1.

        Args:
            *args: example arguments; only their shapes count (arrays or `jax.ShapeDtypeStruct`).
            **kwargs: keyword arguments of the function.

        Returns:
            a dict by site, of dicts by operand (``"act"``, ``"weight"``, ``"grad"``) of float32
            ``bound [...]`` and ``history [..., length]``, with a leading axis for each scan around
            the site.

        Raises:
            StateError: the rules scale nothing by earlier steps.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_state(self._plan(call, boundary))

    def init_adapters(self, key: Any, *args: Any, **kwargs: Any) -> Adapters:
        """Adapters for the weights whose rules say ``lora=``, as they are at the beginning.

        Args:
            key: a random key, for their initializers.
            *args: the function's arguments (arrays, QTensors or `jax.ShapeDtypeStruct`).
            **kwargs: its keyword arguments.

        Returns:
            by path of the weight, ``{"a": [shared .., summed over .., rank], "b": [shared ..,
            rank, others ..]}`` with the sizes of the weight's axes in its order; shared are layers
            of a scan, experts and other batch axes. With the default initializers they add zero.

        Raises:
            CallError: no rule adds adapters.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_adapters(self._plan(call, boundary), as_key(key))

    def merge(self, adapters: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The parameters with adapters merged into their weights, which become float arrays.

        Args:
            adapters: from `init_adapters`, trained.
            *args: example arguments; the parameters among them, float or quantized, are merged.
                Where a rule quantizes a float weight, it is rounded first, as its product sees it.
            **kwargs: keyword arguments of the function.

        Returns:
            the argument that holds parameters, as from `quantize`.

        Raises:
            CallError: adapters of another program, or something else reads such a weight, too.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan, given = self._plan(call, boundary), as_adapters(adapters)
            check_leaves(plan, call)
            check_masks(plan, self.given.masks, call.values)
            values = masked_values(plan, self.given.masks, call.values)
            beside = given, self.given.key, self.given.ranges
            merged = functools.partial(merge, plan, values, *beside)
            return parameters(call, merged, boundary.restore)

    def quantize_cache(self, *args: Any, donate: bool = False, **kwargs: Any) -> Any:
        """The caches that rules store (``cache=``) as QTensors; same tree, of zeros or filled.

        Args:
            *args: example arguments; the caches among them are quantized, the rest is only looked
                at for shapes. A cache may be given as `jax.ShapeDtypeStruct` leaves.
            donate: delete each float cache once it is quantized.
            **kwargs: keyword arguments of the function.

        Returns:
            the argument that holds caches; a tuple where several do.

        Raises:
            CallError: no rule stores a cache.
            QuantizeError: a cache holds NaN or infinities.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return quantize_caches(self._plan(call, boundary), call, donate, boundary.restore)

    def init_ranges(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Ranges of the weights whose rules learn them (``"int4 g32 lsq"``), at the beginning.

        Those of the weights themselves, by the method that the quantizer names; results with them
        are those of the same rules without ``lsq``.

        Args:
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Returns:
            ``(lo, hi)`` by path of the weight, of the shape of its scales, for `with_ranges`.

        Raises:
            CallError: no rule learns ranges, or such a weight comes quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            plan = self._plan(call, boundary)
            return init_ranges(plan, masked_values(plan, self.given.masks, call.values))

    def init_masks(self, *args: Any, **kwargs: Any) -> Masks:
        """Masks for the weights whose rules say ``sparsity=``, at step 0.

        Args:
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Returns:
            by path of the weight, a bool array of its shape: what is kept.

        Raises:
            CallError: no rule asks for sparsity, or such a weight comes quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return init_masks(self._plan(call, boundary), call.values)

    def update_masks(self, masks: Mapping[str, Any], step: Any, *args: Any, **kwargs: Any) -> Masks:
        """The masks after a step: made anew of the weights where the rule says so, else as given.

        Pure: to be called at each step, also under `jax.jit`.

        Args:
            masks: from `init_masks`.
            step: the number of the step, which may be traced.
            *args: the function's arguments, with float parameters.
            **kwargs: its keyword arguments.

        Raises:
            CallError: masks of another program, or such a weight comes quantized.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return update_masks(self._plan(call, boundary), call.values, as_masks(masks), step)
