"""Studies that benchmarks run, and what they change in their texts."""

from __future__ import annotations

from pathlib import Path

STUDIES = Path(__file__).resolve().parent.parent / "configs"


def as_it_is(text: str) -> str:
    return text


def emg_driven(text: str) -> str:
    """The same study with passive muscles where the synergies would be, and no weights to fit."""
    return text.replace("[synergies]\n", '[synergies]\nmode = "emg_driven"\n').replace("[free.synergy_weight]\n", "")


def swapped(text: str) -> str:
    """Trained on what is held out, and the other way round."""
    return (
        text.replace("train = true", "<>").replace("held_out = true", "train = true").replace("<>", "held_out = true")
    )
