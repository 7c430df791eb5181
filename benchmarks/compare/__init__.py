"""nst_jax compared with PyTorch: time, arithmetic and memory of the same optimization."""
