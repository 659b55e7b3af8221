"""What qpass itself costs: transforming, quantizing, calls, memory, bytes and errors."""
