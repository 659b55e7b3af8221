"""Quantized training: gradients inside of what is transformed, state, recipes."""

from qpass.training import recipes as recipes
from qpass.training.collections import from_flax as from_flax
from qpass.training.collections import overwriting as overwriting
from qpass.training.collections import to_flax as to_flax
from qpass.training.collections import variables as variables
from qpass.training.gradients import value_and_grad as value_and_grad
from qpass.training.merging import merge_states as merge_states
from qpass.training.recipes import recipe as recipe
