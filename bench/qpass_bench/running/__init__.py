"""Contenders take turns, and what came of it is a report."""
