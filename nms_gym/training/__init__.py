"""Policies learned on a task: by gradients straight through it, or by reinforcement learning.

``train`` learns one, ``Judge`` scores it beside simple ones on episodes that no training has seen, and
``nms_gym.files.policy`` is the file it travels in, which NumPy alone can read and use.
"""
