"""Settings of kernels by measuring: what the compiler says of them, and how long they take."""
