"""The demo: a real language model, rewritten by rules, and what that cost and bought."""
