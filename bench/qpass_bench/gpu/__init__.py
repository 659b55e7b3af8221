"""Kernels on a real GPU: right on every tail, and how fast beside XLA's own products."""
