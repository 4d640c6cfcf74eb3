"""The neuromusculoskeletal model: parameters, structure, one forward step, and the scans of it."""
