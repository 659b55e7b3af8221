"""Folds: factors moved between parameters, found in the dataflow, for easier quantization."""

from qpass.folds.awq import awq as awq
from qpass.folds.bias import corrected as corrected
from qpass.folds.find import BOUND as BOUND
from qpass.folds.find import find_folds as find_folds
from qpass.folds.fold import Fold as Fold
from qpass.folds.fold import Folds as Folds
from qpass.folds.fold import Refusal as Refusal
from qpass.folds.methods import equalize as equalize
from qpass.folds.methods import smoothquant as smoothquant
from qpass.folds.rotating import find_rotations as find_rotations
from qpass.folds.rotation import Rotation as Rotation
from qpass.folds.rotation import Rotations as Rotations
