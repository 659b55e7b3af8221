"""The same function with other values beside it: ranges, keys, states, adapters, masks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from qpass.adapters.masks import as_masks
from qpass.adapters.tree import as_adapters
from qpass.calibrate import as_ranges
from qpass.delayed_state import as_state
from qpass.given import Given
from qpass.keys import as_key


class Beside:
    """Methods that give what the function's own signature has no place for; of dataclasses."""

    given: Given

    def _beside(self, **values: Any) -> Self:
        return replace(self, given=replace(self.given, **values))  # type: ignore[type-var]

    def with_ranges(self, ranges: Mapping[str, Any]) -> Self:
        """The same function with these ranges for its static operands.

        Args:
            ranges: ``(lo, hi)`` by name of the site, from `qpass.ranges`; arrays with a leading
                axis for each scan around the site. By path of the weight, from `init_ranges`,
                where a weight's range is learned. Learned ranges have a gradient.

        Raises:
            CalibrationError: a range is no pair of finite numbers around 0. What the program needs
                is known, and checked, when it is called.
        """
        return self._beside(ranges=as_ranges(ranges))

    def with_key(self, key: Any) -> Self:
        """The same function with this random key, for quantizers that round stochastically.

        ``q.with_key(key)(params, x)`` draws the same numbers whenever the key is the same, so give
        another one to each training step. Each product, iteration of a scan and stored weight draws
        its own; under `jax.shard_map`, devices draw alike for their parts. The key is an argument
        of the compiled program: another one needs no other compilation.

        Args:
            key: from `jax.random.key`; it may be traced.

        Raises:
            QuantizeError: it is no key, or several.
        """
        return self._beside(key=as_key(key))

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """The same function, scaled by this state, which stays as it is: as for an evaluation.

        Raises:
            StateError: the state is none, or not finite. Whether it fits is checked in the call.
        """
        return self._beside(state=as_state(state))

    def with_adapters(self, adapters: Mapping[str, Any]) -> Self:
        """The same function with these adapters; differentiable with respect to them.

        The weights beside which they lie are frozen: no gradient goes there. Without adapters the
        function runs as if its rules had no ``lora=``. Dropout takes place where `with_key` gives
        a key.

        Args:
            adapters: from `init_adapters`; they may be traced.

        Raises:
            CallError: they are no adapters. Whether they are those of the program is known, and
                checked, when it is called.
        """
        return self._beside(adapters=as_adapters(adapters))

    def with_masks(self, masks: Mapping[str, Any]) -> Self:
        """The same function with these masks: sparse weights are zero where they are false.

        Scales are computed of what is left. Gradients go straight through to all of the weight.
        `quantize` stores the zeros, and stored weights need no masks.

        Args:
            masks: from `init_masks`; they may be traced.

        Raises:
            CallError: they are no masks. Whether they are those of the program is known, and
                checked, when it is called.
        """
        return self._beside(masks=as_masks(masks))
