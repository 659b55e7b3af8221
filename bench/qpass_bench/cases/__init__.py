"""What is timed: the cases, the rules that they run under, and their arrays."""
