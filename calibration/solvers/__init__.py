"""What minimises the cost: Levenberg-Marquardt, adaptive gradient descent, and batches of problems."""
