"""What rules add to weights beside their quantizers: adapters of low rank, and masks."""
