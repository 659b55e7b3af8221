"""Every error that qpass raises on purpose.

The text of an error starts with what to do or what was asked, then says what came, where, and the
way out. Each class also derives from the builtin that a caller would expect, so that code that
knows nothing of qpass still catches it.
"""


class QPassError(Exception):
    """Base class of all errors that qpass raises on purpose."""


class UnknownTypeError(QPassError, ValueError):
    """A quantized type was named that does not exist."""


class UnknownDialectError(QPassError, ValueError):
    """A dialect of the formulas was named that does not exist."""


class CorruptTensorError(QPassError, ValueError):
    """The arrays of a quantized tensor contradict its metadata."""


class RuleError(QPassError, ValueError):
    """A rule, or a quantizer inside a rule, is contradictory, malformed or matches nothing."""


class PlanError(QPassError, ValueError):
    """A plan cannot be made, or was asked for something that it does not hold."""


class QuantizeError(QPassError, ValueError):
    """A value cannot be quantized: wrong dtype, non-finite numbers, impossible axes."""


class CalibrationError(QPassError, ValueError):
    """Statistics or ranges of activations do not fit: none seen, missing, or of another program."""


class FoldError(QPassError, ValueError):
    """Factors cannot be folded into parameters: wrong shape or values, or no such fold."""


class StateError(QPassError, ValueError):
    """The state of delayed scaling does not fit: missing, of another program, or not finite."""


class DerivativeError(QPassError, NotImplementedError):
    """A derivative that this version of JAX cannot take through a quantized product."""


class CallError(QPassError, TypeError):
    """A transformed function was called with arguments that do not fit it."""


class CheckpointError(QPassError, ValueError):
    """A file or a tensor in it is damaged, lacks something, or does not fit what it is for."""
