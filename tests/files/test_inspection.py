"""What ``inspect`` says about a table: what a careful colleague would notice."""

from __future__ import annotations

import numpy as np
import pytest

from nms_gym.files.inspection import describe
from nms_gym.recording.storage import write_table

TIME = np.arange(400) / 1000
WAVE = np.sin(40 * TIME) + 0.1 * np.cos(311 * TIME)


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        (WAVE, ""),
        (np.abs(WAVE), ""),
        (np.maximum(WAVE, 0.0), ""),  # as a force plate
        (np.full(400, 0.3), "constant"),
        (np.clip(WAVE, -0.5, 0.5), "saturated? "),
        (np.minimum(np.abs(WAVE), 0.7), "saturated? "),
        (np.where(np.arange(400) % 100 == 0, WAVE, 0.1), "dead? 98% of the rows repeat"),
    ],
)
def test_odd_channels_are_remarked_upon(tmp_path, values, remark):
    write_table(tmp_path / "emg.sto", ["soleus"], TIME, values[:, None])
    ((_, _, rows),) = describe(tmp_path / "emg.sto")
    found = rows[0][-1]
    assert found.startswith(remark)
    assert bool(found) == bool(remark)


def test_units_and_missing_numbers_are_shown(tmp_path):
    (tmp_path / "a.csv").write_text("time,p,q (V)\ns,N,\n0,1,2\n0.1,,3\n0.2,3,4\n")
    ((title, header, rows),) = describe(tmp_path / "a.csv")
    assert title == "a.csv: 3 rows, 0 to 0.2 s, step 0.1 s"
    assert header == ("column", "min", "mean", "max", "unit", "")
    assert rows == [["p", "1", "2", "3", "N", "1 of 3 missing"], ["q (V)", "2", "3", "4", "V", ""]]
