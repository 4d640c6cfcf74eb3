"""Differentiable EMG-informed neuromusculoskeletal models as Gymnasium environments."""
