"""Quantization by rewriting JAX programs."""
