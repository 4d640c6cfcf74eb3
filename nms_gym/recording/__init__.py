"""Files in, checked NumPy arrays out; nothing here imports JAX."""
