"""Training with quantized products: small models on real data, judged against float."""
