"""Files that other files name, written on another computer."""

from __future__ import annotations

import pytest

from calibration.study.keys import Folder
from nms_gym.errors import InputError
from nms_gym.recording.named_files import named_file


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("grf.mot", "in/grf.mot", "in/a.sto"):
        (tmp_path / name).write_text(name)
    return tmp_path / "loads.xml"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("grf.mot", "grf.mot"),
        (r"C:\data\trial 1\grf.mot", "grf.mot"),
        ("/no/such/folder/grf.mot", "grf.mot"),
        (r"in\grf.mot", "in/grf.mot"),
        ("in/a.sto", "in/a.sto"),
        (r"  .\in\a.sto ", "in/a.sto"),
        (r"D:\in\a.sto", "D:/in/a.sto"),  # not beside the file: named as it is, for the error of who reads it
    ],
)
def test_where_a_named_file_is_found(source, name, found):
    assert named_file(source, name) == source.parent / found


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "x" * 300, "a/" + "y" * 300, "z/" * 5000])
def test_what_names_no_file(source, name):
    with pytest.raises(InputError, match=r"loads\.xml: names a file") as error:
        named_file(source, name)
    assert len(str(error.value)) < 500


def test_a_path_from_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.sto").write_text("")
    assert Folder(tmp_path / "elsewhere").path("~/a.sto", "study: file") == tmp_path / "a.sto"
    with pytest.raises(InputError, match="no such home folder"):
        Folder(tmp_path).path("~nobody-of-that-name/a.sto", "study: file")
    for text in ("x" * 300, "a\x00"):
        with pytest.raises(InputError, match="expected the path of a file or folder"):
            Folder(tmp_path).path(text, "study: file")
