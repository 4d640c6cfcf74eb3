"""JSON and TOML from anywhere give a plain document or one short error."""

from __future__ import annotations

import pytest

from nms_gym.errors import InputError, listed, near, shown
from nms_gym.recording.documents import DEEPEST, read_json, read_toml

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[" * 200 + "]" * 200, "nested deeper"),
        (DIGITS, "too large"),
        ("[1, -" + "9" * 30 + "]", "too large"),
        ('{"a": NaN}', "NaN, which is no number"),
        ('"\\ud800"', "half a character"),
        ("{", "not a JSON file"),
        ("", "not a JSON file"),
        (b"\xff\xfe{\x00", "save it as UTF-8"),
        (b"\x00", "not a JSON file"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_json_is_refused(tmp_path, content, message):
    refused(tmp_path / "a.json", content, message, read_json)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = " + "[" * 50_000, "not a TOML file|nested"),
        ("a = " + "[" * 200 + "]" * 200, "not a TOML file|nested deeper"),
        (".".join("a" * 500) + " = 1", "not a TOML file|nested deeper"),
        (f"a = {DIGITS}", "not a TOML file|bits"),
        ("a = " + "9" * 30, "bits"),
        ("a = ", "not a TOML file"),
        (b"a = '\xff'", "save it as UTF-8"),
        ("a = '\x00'", "not a TOML file"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_toml_is_refused(tmp_path, content, message):
    refused(tmp_path / "a.toml", content, message, read_toml)


def refused(path, content, message, read):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert path.name in str(error.value)
    assert len(str(error.value)) < 600


def test_plain_documents_are_read(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"a": [1, 2.5, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, "é"]}
    (tmp_path / "a.json").write_text("[" * (DEEPEST - 1) + "]" * (DEEPEST - 1))
    read_json(tmp_path / "a.json")
    (tmp_path / "a.toml").write_text("\ufeffa = 1\r\n[b]\r\nc = [1.5]\r\n", encoding="utf-8", newline="")
    assert read_toml(tmp_path / "a.toml") == {"a": 1, "b": {"c": [1.5]}}


@pytest.mark.parametrize("read", [read_json, read_toml])
def test_no_file_and_a_folder(tmp_path, read):
    with pytest.raises(InputError, match=r"cannot read .*: No such file"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match="this is a folder"):
        read(tmp_path)


def test_messages_are_short_whatever_is_in_them():
    long = "x" * 10**6
    assert len(shown(long)) == 60
    assert len(str(InputError(f"file.csv: {long} is {long!r}, and the next word"))) < 1000
    assert str(InputError(f"file.csv: {long} is wrong")).endswith("is wrong")
    assert len(str(InputError("a b " * 10**5))) <= 4000
    assert len(listed([long] * 20)) < 2000
    assert len(near(long, [long, "y" * 10**5] + [f"n{i}" for i in range(10**5)])) < 4000
    assert str(InputError("a path/of/some/length: wrong")) == "a path/of/some/length: wrong"
