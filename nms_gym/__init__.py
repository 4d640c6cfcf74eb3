"""Differentiable EMG-informed neuromusculoskeletal models as Gymnasium environments."""

from nms_gym.envs import register as _register

_register()
