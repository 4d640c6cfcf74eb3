"""Archives of arrays from anywhere: a small file never asks for endless time or memory, nor for somebody's code."""

from __future__ import annotations

import io
import struct
import time
import zipfile

import numpy as np
import pytest

from nms_gym.errors import InputError
from nms_gym.recording.arrays import read_arrays
from nms_gym.recording.npz import names_of, read_npz
from nms_gym.recording.trial import load_trial


def header(text, version=b"\x01\x00"):
    """The beginning of a .npy file."""
    raw = text.encode("latin-1")
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(raw) + 1)
    return b"\x93NUMPY" + version + size + raw + b"\n"


def npy(descr, shape, body=b""):
    return header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}") + body


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def refusal(path, **kwargs):
    begun = time.monotonic()
    with pytest.raises(InputError) as error:
        read_npz(path, **kwargs)
    assert time.monotonic() - begun < 5
    message = str(error.value)
    assert path.name in message
    assert len(message) < 1000
    return message


def test_what_numpy_writes_is_read_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.standard_normal((3, 4, 2)),
        "f": np.asfortranarray(rng.standard_normal((3, 4))),
        "big": rng.standard_normal(5).astype(">f4"),
        "names": np.array(["soleus", "tibialis µ"]),
        "text": np.array("nms"),
        "none": np.zeros((7, 0)),
        "no names": np.array((), dtype=np.str_),
        "flag": np.array(True),
        "whole": np.arange(3),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = read_npz(tmp_path / "a.npz")
        assert list(read) == list(arrays)
        for name, array in arrays.items():
            found = read[name]
            assert found is not None
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
            found[...] = found  # may be changed
    some = read_npz(tmp_path / "a.npz", ["a"])
    assert some["f"] is None
    assert list(some) == list(arrays)


BOMB = np.zeros(2**19)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("channels.npy", npy("<U4", (10**18, 0)))], "shape"),
        ([("q.npy", npy("<f8", (10**10,)))], "80000000000 bytes, but the file has 0"),
        ([("q.npy", npy("<f8", (-1,)))], "shape"),
        ([("q.npy", npy("<f8", (2**62, 4), b"\0" * 64))], "shape"),
        ([("q.npy", npy("<f8", (2,), b"\0" * 64))], "16 bytes, but the file has 64"),
        ([("q.npy", npy("<U0", (10**9,)))], "empty"),
        ([("q.npy", npy("|O", (1,), b"cos\nsystem\n."))], "pickled objects"),
        ([("q.npy", saved(np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")])))], "holds"),
        ([("q.npy", npy("<U1", (1,), b"\xff\xff\xff\xff"))], "characters that do not exist"),
        ([("q.npy", npy("<U1", (1,), struct.pack("<I", 0xD800)))], "characters that do not exist"),
        ([("q.npy", header("{'descr': '<f8', 'shape': (" + "1," * 10**6 + ")}", b"\x02\x00"))], "not a readable .npz"),
        ([("q.npy", header("[" * 9000))], "not a readable .npz"),
        ([("q.npy", header("__import__('os')"))], "not a readable .npz"),
        ([("q.npy", b"")], "not a readable .npz"),
        ([("q.txt", b"hello")], "holds no arrays"),
        ([], "holds no arrays"),
    ],
    ids=str,
)
def test_odd_members_are_refused_at_once(tmp_path, members, message):
    assert message in refusal(archive(tmp_path / "a.npz", members))


def test_a_file_that_unpacks_to_far_more_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("nms_gym.recording.npz.SMALL", 2**20)
    path = archive(tmp_path / "bomb.npz", [("a.npy", saved(np.array("x"))), ("q.npy", saved(BOMB))])
    assert "unpacks to" in refusal(path)
    # What is not asked for is not unpacked.
    assert str(read_npz(path, ["a"])["a"]) == "x"
    np.savez(tmp_path / "plain.npz", q=BOMB)
    assert read_npz(tmp_path / "plain.npz")["q"] is not None
    rng = np.random.default_rng(0).standard_normal(2**19)
    np.savez_compressed(tmp_path / "noise.npz", q=rng)
    np.testing.assert_array_equal(read_npz(tmp_path / "noise.npz")["q"], rng)


def test_many_members_that_share_their_bytes(tmp_path, monkeypatch):
    """Each is small, and all are the same bytes of the file."""
    monkeypatch.setattr("nms_gym.recording.npz.SMALL", 2**22)
    path = archive(tmp_path / "a.npz", [("q.npy", saved(BOMB[: 2**15]))])
    raw = path.read_bytes()
    start = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    entry = raw[start:end]
    copies = b"".join(entry.replace(b"q.npy", f"{chr(97 + i)}.npy".encode()) for i in range(26))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 26, 26, len(copies), start, 0)
    path.write_bytes(raw[:start] + copies + tail)
    assert "unpacks to" in refusal(path)


def test_encrypted_and_otherwise_compressed_archives(tmp_path):
    path = archive(tmp_path / "a.npz", [("q.npy", saved(np.zeros(3)))])
    raw = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(mark) + place] |= 1
    path.write_bytes(bytes(raw))
    assert "encrypted" in refusal(path)
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compression" in refusal(archive(tmp_path / "b.npz", [("q.npy", saved(np.zeros(3)))], kind))
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(tmp_path / "c.npz", [("q.npy", saved(np.zeros(3)))] * 2)
    assert "two arrays are named 'q'" in refusal(tmp_path / "c.npz")


def test_no_archive_at_all(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert "single array" in refusal(tmp_path / "a.npy")
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04" + b"\xff" * 100)
    assert "not a readable .npz" in refusal(tmp_path / "b.npz")
    assert "this is a folder" in refusal(tmp_path)
    assert "no such file" in refusal(tmp_path / "c.npz")


def test_names_are_a_row_of_text(tmp_path):
    for value in (np.zeros((3, 0)), np.array("a"), np.array([["a"]]), np.array([b"a"]), np.array([1.0]), None):
        with pytest.raises(InputError, match=r"it is .*expected a row of at most"):
            names_of(value, "it")
    assert names_of(np.array(["a", "b"]), "it") == ("a", "b")
    empty = npy("<U4", (10**8, 0))
    path = archive(tmp_path / "a.npz", [("time.npy", saved(np.arange(3.0))), ("who.npy", empty)])
    with pytest.raises(InputError, match="coordinates is of type"):
        read_arrays(path, {"time": "time", "coordinates": "who", "q": "time"})
    path = archive(
        tmp_path / "t.npz", [("format.npy", saved(np.array("nms_gym.trial"))), ("version.npy", saved(np.array(1)))]
    )
    with pytest.raises(InputError, match="lacks"):
        load_trial(path)
