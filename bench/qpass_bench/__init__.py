"""Real models, real text and honest clocks: the demo and the benchmarks of qpass."""
