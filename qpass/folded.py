"""What can be folded into the parameters of a transformed function."""

from functools import partial
from typing import Any

from qpass.captured import Captured
from qpass.folds import BOUND, Folds, Rotations, corrected, find_folds, find_rotations
from qpass.quantize import parameters


class Folded(Captured):
    """Methods for folds."""

    def folds(self, *args: Any, **kwargs: Any) -> Folds:
        """Which factors can be moved between the parameters, for these arguments.

        A fold divides a value that products read, channel by channel, and multiplies their
        weights; the function computes the same. Found in the float program, whatever the rules.
        Each is tried out on these arguments, with factors that are powers of two.

        Args:
            *args: the function's arguments: arrays, float parameters.
            **kwargs: its keyword arguments.

        Returns:
            the folds, and for each product that has none the reason; printed, a table.

        Raises:
            FoldError: the arguments are no arrays, or the parameters are quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return find_folds(self._plan(call, boundary), call)

    def rotations(self, *args: Any, bound: float = BOUND, **kwargs: Any) -> Rotations:
        """Which values an orthogonal matrix can turn, with the parameters around them.

        Found in the float program, whatever the rules: the residual stream, where norms before
        each block give their gains to the products that follow, and the values of attention. Each
        is tried out on these arguments.

        Args:
            *args: the function's arguments: arrays, float parameters.
            bound: relative difference that a rotation may make. Float32 rounds in other places
                afterwards; of dozens of layers that may be a few times the default.
            **kwargs: its keyword arguments.

        Returns:
            the rotations, and for each product whose input none turns the reason.

        Raises:
            FoldError: the arguments are no arrays, or the parameters are quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            return find_rotations(self._plan(call, boundary), call, bound)

    def correct_biases(self, *args: Any, **kwargs: Any) -> Any:
        """The parameters with biases that make up for the mean error of quantized products.

        The mean over all rows of what each quantized product's result is off, in the quantized
        program on these arguments, is added to the bias that follows it, where one does.

        Args:
            *args: the function's arguments: arrays, float parameters.
            **kwargs: its keyword arguments.

        Raises:
            FoldError: no quantized product is followed by a bias of its own, or the parameters are
                quantized.
            QPassError: the arguments or the rules do not fit the function.
        """
        with self._enter(args, kwargs) as (boundary, call):
            values = partial(corrected, self._plan(call, boundary), call, self.given)
            return parameters(call, values, boundary.restore)
