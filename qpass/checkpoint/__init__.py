"""Quantized parameters in files: qpass's own format, and those of other libraries."""

from qpass.checkpoint.loading import describe as describe
from qpass.checkpoint.loading import load as load
from qpass.checkpoint.manifest import Manifest as Manifest
from qpass.checkpoint.saving import save as save
from qpass.errors import CheckpointError as CheckpointError
