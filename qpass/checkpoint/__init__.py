"""Quantized parameters in files: qpass's own format, and those of other libraries."""
