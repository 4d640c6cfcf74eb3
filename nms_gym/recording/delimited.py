"""Text files with columns of numbers, whatever program wrote them: which cells belong to which label and which time.

Known layouts: OpenSim's ``.sto`` and ``.mot`` (a header up to ``endheader``), a line of labels with one time column
(spreadsheets, Noraxon, Cometa; a row of units may follow), a time column before every channel (Delsys), and sections of
frames and sub-frames (Vicon Nexus). Numbers are still text here: ``storage`` turns them into tables.
"""

from __future__ import annotations

import codecs
import csv
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nms_gym.errors import InputError, listed, near, shown

# Seconds per unit of a time column.
TIME_UNITS = {
    "s": 1.0,
    "sec": 1.0,
    "secs": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "millisecond": 1e-3,
    "milliseconds": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "microseconds": 1e-6,
}
_UNIT = "|".join(TIME_UNITS)
_TIME = re.compile(
    rf"(?:time|t)(?:_(?P<a>{_UNIT}))?"
    rf"|(?:time|t|x|elapsed time|relative time|time ?stamp)\s*[\[(,]\s*(?P<b>{_UNIT})\s*[\])]?"
)
# Delsys names the time of each channel, such as "EMG 1 Time Series (s)".
_CHANNEL_TIME = re.compile(rf".+ time(?: series)?\s*[\[(]\s*(?P<c>{_UNIT})\s*[\])]")
_LABELLED_UNIT = re.compile(r"(?P<name>.*\S)\s*[\[(](?P<unit>[^\[\]()]{1,20})[\])]")
# No label of time, and no number, is longer.
_LONGEST = 80
# Quoted labels may hold line breaks, and units may come after a row of types or sensors.
_LABEL_LINES, _ROWS_OF_WORDS = 6, 3
# What programs write where a number is missing.
GAPS = frozenset(
    ("", "nan", "-nan", "+nan", "na", "n/a", "null", "nan(ind)", "-nan(ind)", "1.#qnan", "-1.#ind", "1.#ind")
)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark begins it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Block:
    """Columns that share a time column.

    Attributes:
        labels: names of the columns, as written, without time.
        units: of the columns, as the file states them; "" where it is silent.
        columns: where they are in ``rows``.
        time: where the time is in ``rows``, and ``time_label`` its label.
        scale: seconds per unit of time.
        rows: cells, as text.
        lines: line number of each row.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    columns: tuple[int, ...]
    time: int
    time_label: str
    scale: float
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]


def read_blocks(path: str | os.PathLike[str]) -> tuple[list[str], list[Block]]:
    """Header lines, and the columns of a file by the time column that they share.

    Raises:
        InputError: file missing, empty, no text or without time; a row has too few or too many cells.
    """
    file = str(path)
    lines = read_lines(path)
    try:
        end = next((i for i, line in enumerate(lines) if line.strip().lower() == "endheader"), None)
        sections = [] if end is not None else _frame_lines(lines)
        if sections:
            return [], [_section(lines, at, file) for at in sections]
        start = _label_line(lines, 0 if end is None else end + 1, file, has_header=end is not None)
        return lines[: end or 0], _table(lines, start, file)
    except csv.Error as error:
        raise InputError(f"{file}: not a readable table ({error}); is a quotation mark never closed?") from error


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a text file: UTF-8, UTF-16 or UTF-32 as its byte-order mark says, else as its bytes look.

    Raises:
        InputError: no such file, empty, or no text.
    """
    file = Path(path)
    if not file.is_file():
        if file.is_dir():
            raise InputError(f"{file}: this is a folder; give a file in it")
        folder = file.parent
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        reason = near(file.name, names) if names else f"the folder {str(folder)!r} is missing or empty"
        raise InputError(f"{file}: no such file; {reason}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    text = _text(content)
    if text is None:
        raise InputError(
            f"{file}: not a text table (it holds zero bytes); expected .sto, .mot, .csv or .txt, saved as UTF-8 text"
        )
    # Not ``splitlines``, which also breaks at characters that are letters in other encodings.
    lines = re.split(r"\r\n|\r|\n", text)
    if not any(line.strip() for line in lines):
        raise InputError(f"{file}: the file is empty")
    return lines


def _text(content: bytes) -> str | None:
    """None where the bytes are no text."""
    encodings = [name for mark, name in _BOMS if content.startswith(mark)][:1]
    if not encodings and b"\x00" in content:
        # UTF-16 without a mark: every other byte of a table of numbers is zero.
        half = len(content) // 2
        odd, even = content[1::2].count(0), content[0::2].count(0)
        if odd > 0.8 * half and not even:
            encodings = ["utf-16-le"]
        elif even > 0.8 * half and not odd:
            encodings = ["utf-16-be"]
    # The last two are what Windows wrote before UTF-8; every byte is a character of the last.
    for encoding in [*encodings, "utf-8", "cp1252", "latin-1"]:
        try:
            text = content.decode(encoding)
        except UnicodeError:
            continue
        return None if "\x00" in text else text
    return None


# --- one line of labels -------------------------------------------------


def time_scale(label: str) -> float | None:
    """Seconds per unit of a time column with this label; None for other columns."""
    text = _plain(label)
    match = _TIME.fullmatch(text) or _CHANNEL_TIME.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    return TIME_UNITS[next((unit for unit in match.groupdict().values() if unit), "s")]


def without_unit(label: str) -> tuple[str, str]:
    """A label and its unit: ``tibialis (uV)`` gives ``tibialis`` and ``uV``; the unit is "" where there is none."""
    match = _LABELLED_UNIT.fullmatch(label) if len(label) <= 4 * _LONGEST else None
    return (match["name"], match["unit"].strip()) if match else (label, "")


def _plain(label: str) -> str:
    """Lower case, without quotation marks, and without the number that tells equal labels apart ("X [s].1")."""
    text = " ".join(label.strip().strip("\"'").casefold().split()) if len(label) <= 2 * _LONGEST else label
    return re.sub(r"(?<=[\])])\.\d+$", "", text)


def _label_line(lines: Sequence[str], first: int, file: str, *, has_header: bool) -> int:
    candidates = []
    for i in range(first, len(lines)):
        text = lines[i].strip()
        if not text or text.startswith("#"):
            continue
        if has_header:
            return i
        cells = re.split(r"[\t,;]|\s{2,}", text)
        if any(time_scale(cell) for cell in [*cells, *text.split()]):
            if _leads_to_numbers(lines, i):
                return i
            candidates.append(i)
    if candidates:
        return candidates[0]
    if has_header:
        raise InputError(f"{file}: the table is empty: nothing follows 'endheader'")
    raise InputError(
        f"{file}: neither a line 'endheader' nor a label line with 'time' was found; the columns need labels, one of "
        "them 'time', in seconds"
    )


def _leads_to_numbers(lines: Sequence[str], start: int) -> bool:
    """Whether a row with a number follows soon: words about time in a preamble are no labels."""
    rows = (line for line in lines[start + 1 : start + 2 * _LABEL_LINES] if line.strip())
    return any(is_number(cell) for line in rows for cell in re.split(r"[\t,;\s]+", line.strip()))


def _table(lines: Sequence[str], start: int, file: str) -> list[Block]:
    text, body = lines[start], start + 1
    # A quoted label may hold line breaks.
    while text.count('"') % 2 and body < min(len(lines), start + _LABEL_LINES):
        text, body = f"{text} {lines[body]}", body + 1
    numbered = [
        (i + 1, line) for i, line in enumerate(lines[body:], body) if line.strip() and not line.lstrip().startswith("#")
    ]
    delimiter = _delimiter(text, numbered[0][1] if numbered else "")
    if not numbered:
        _labels(text, delimiter, 0)
        raise InputError(f"{file}: the table is empty: no row follows the labels in line {start + 1}")
    units, numbered = _split_units(text, delimiter, numbered, file)
    if not numbered:
        raise InputError(f"{file}: the table is empty: no row follows the labels and units in line {start + 1}")
    clocks = _channel_clocks(_labels(text, delimiter, 0)) if delimiter else []
    if delimiter and clocks:
        labels = _labels(text, delimiter, 0)
        rows = [_padded(_raw(line, delimiter), len(labels)) for _, line in numbered]
    else:
        count = len(_labels(text, delimiter, 0)) if delimiter else 0
        rows = [_cells(line, delimiter, count) for _, line in numbered]
        labels = _labels(text, delimiter, len(rows[0]))
    numbers = [number for number, _ in numbered]
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != len(labels):
            raise InputError(
                f"{file}: line {number} has {len(row)} cells, but there are {len(labels)} labels"
                f" ({shown(labels[0])} to {shown(labels[-1])}); is the row cut off, or does a label hold a blank?"
            )
    if _has_decimal_commas(rows[:50]):
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    units = [*units, *[""] * (len(labels) - len(units))]
    stated = [unit or without_unit(label)[1] for unit, label in zip(units, labels, strict=False)]
    if clocks:
        ends = [*clocks[1:], len(labels)]
        spans = [(clock, range(clock + 1, end)) for clock, end in zip(clocks, ends, strict=True)]
        return [
            _block(labels, stated, units, clock, span, *_own_rows(rows, numbers, clock, span)) for clock, span in spans
        ]
    time = next((i for i, label in enumerate(labels) if time_scale(label)), None)
    if time is None:
        raise InputError(f"{file}: no column 'time' among {listed(labels)}; add one, in seconds")
    others = [i for i in range(len(labels)) if i != time]
    return [_block(labels, stated, units, time, others, rows, numbers)]


def _block(
    labels: Sequence[str],
    stated: Sequence[str],
    units: Sequence[str],
    time: int,
    columns: Sequence[int],
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
) -> Block:
    scale = TIME_UNITS.get(_bare_unit(units[time])) or time_scale(labels[time]) or 1.0
    names, said = tuple(labels[i] for i in columns), tuple(stated[i] for i in columns)
    return Block(names, said, tuple(columns), time, labels[time], scale, rows, lines)


def _channel_clocks(labels: Sequence[str]) -> list[int]:
    """Where the time columns are in a file that has one before every channel; none in other files."""
    found = [i for i, label in enumerate(labels) if time_scale(label)]
    if len(found) < 2 or found[0] != 0:
        return []
    texts = [_plain(labels[i]) for i in found]
    same = len(set(texts)) == 1 or all(_CHANNEL_TIME.fullmatch(text) for text in texts)
    return found if same else []


def _own_rows(
    rows: Sequence[Sequence[str]], lines: Sequence[int], time: int, columns: Sequence[int]
) -> tuple[Sequence[Sequence[str]], Sequence[int]]:
    """Without the blanks, or zeros, that fill a short column up to the longest."""
    last = len(rows)
    while last > 1 and not any(rows[last - 1][i] for i in (time, *columns)):
        last -= 1
    places, padding = (time, *columns), last
    while padding > 1 and all(is_number(c) and float(c) == 0 for c in (rows[padding - 1][i] for i in places)):
        padding -= 1
    return rows[:padding], lines[:padding]


def _split_units(
    labels: str, delimiter: str | None, numbered: list[tuple[int, str]], file: str
) -> tuple[list[str], list[tuple[int, str]]]:
    """Units from rows of words between the labels and the numbers, by column, and the rows that are left."""
    words: list[list[str]] = []
    for _, line in numbered[: _ROWS_OF_WORDS + 1]:
        cells = _raw(line, delimiter)
        if any(is_number(cell) or cell.lower() in GAPS - {""} for cell in cells):
            break
        words.append(cells)
    if not words or len(words) > _ROWS_OF_WORDS:
        return [], numbered
    names = _raw(labels, delimiter)
    time = next((i for i, name in enumerate(names) if time_scale(name)), None)
    for row in words:
        unit = _bare_unit(row[time]) if time is not None and time < len(row) else None
        if unit == "" or unit in TIME_UNITS:
            return [_bare_unit(cell, keep_case=True) for cell in row[: len(names)]], numbered[len(words) :]
    if time is not None and time < len(words[0]):
        raise InputError(
            f"{file}: line {numbered[0][0]} looks like a row of units, but the unit of time is {shown(words[0][time])};"
            f" expected one of {listed(TIME_UNITS)}; convert the times to seconds"
        )
    return [], numbered


def _bare_unit(text: str, *, keep_case: bool = False) -> str:
    text = text.strip().strip("[](){}\"'. ")
    return text if keep_case else text.casefold()


# --- cells --------------------------------------------------------------


def is_number(cell: str) -> bool:
    """Whether a cell is a number, with a decimal point or comma."""
    try:
        return len(cell) <= _LONGEST and not math.isnan(float(cell.strip().replace(",", ".")))
    except ValueError:
        return False


def _has_decimal_commas(rows: Sequence[Sequence[str]]) -> bool:
    cells = [cell for row in rows for cell in row if len(cell) <= _LONGEST]
    return any(_DECIMAL_COMMA.fullmatch(cell) for cell in cells) and not any(
        "." in cell and is_number(cell) for cell in cells
    )


def _delimiter(labels: str, row: str) -> str | None:
    """``,`` or ``;`` or a tab when the cells are separated by it; None for blanks and tabs mixed."""
    outside = re.sub(r'"[^"]*"', "", labels)
    # A single tab between all cells keeps empty cells visible; padded or mixed files are split at any blank.
    if "\t" in outside and outside.count("\t") == re.sub(r'"[^"]*"', "", row).count("\t"):
        return "\t"
    counts = {mark: outside.count(mark) for mark in (",", ";")}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best]:
        return best
    return "\t" if "\t" in labels else None


def _raw(line: str, delimiter: str | None) -> list[str]:
    """All cells, empty ones too."""
    if delimiter is None:
        return [cell.strip("\"'") for cell in line.split()]
    line = line.strip() if delimiter != "\t" else line.strip(" \r\n")
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]


def _padded(cells: list[str], count: int) -> list[str]:
    while len(cells) > count and not cells[-1]:
        cells.pop()
    return cells + [""] * (count - len(cells))


def _cells(line: str, delimiter: str | None, count: int) -> list[str]:
    """Cells of a row, without empty ones that come after the last of ``count`` labels."""
    cells = _raw(line, delimiter)
    # Padded and mixed files are split at any blank.
    if delimiter == "\t" and (any(" " in cell for cell in cells) or not cells[0]):
        return _raw(line, None)
    while delimiter and len(cells) > max(count, 1) and not cells[-1]:
        cells.pop()
    return [cell.replace(",", ".") for cell in cells] if delimiter == ";" else cells


def _labels(line: str, delimiter: str | None, n_cells: int) -> list[str]:
    if delimiter in (",", ";"):
        return _raw(line.strip().rstrip(delimiter), delimiter)
    if delimiter and not n_cells:
        return _raw(line.rstrip(), delimiter)
    by_tab = _raw(line.strip(), "\t")
    # Labels may hold blanks when tabs or quotation marks separate them, or be separated by blanks: the rows decide.
    if len(by_tab) == n_cells and all(by_tab):
        return by_tab
    if '"' in line:
        quoted = next(csv.reader([" ".join(line.split())], delimiter=" ", skipinitialspace=True))
        if len(quoted) == n_cells:
            return quoted
    return _raw(line, None)


# --- frames and sub-frames ----------------------------------------------


def _frame_lines(lines: Sequence[str]) -> list[int]:
    """Lines of labels that begin with "Frame" and "Sub Frame", as Vicon Nexus writes them in every section."""
    pattern = re.compile(r'\s*"?frame"?\s*[,;\t]\s*"?sub ?frame"?\s*(?:[,;\t]|$)', re.IGNORECASE)
    return [i for i, line in enumerate(lines) if pattern.match(line)]


def _section(lines: Sequence[str], start: int, file: str) -> Block:
    """One section: its rate, the names of devices, labels, units and samples. Frame 1 is at 0 s."""
    delimiter = next(mark for mark in "\t;," if mark in lines[start])
    rate, title = math.nan, ""
    for line in reversed(lines[max(0, start - 4) : start]):
        cells = _raw(line, delimiter)
        if is_number(cells[0]) and not any(cells[1:]):
            rate = float(cells[0].replace(",", "."))
            break
    above = start - 1 if start and not is_number(_raw(lines[start - 1], delimiter)[0]) else None
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(
            f"{file}: no sampling rate above line {start + 1} ('Frame', 'Sub Frame', ...); export the section again, "
            "with its name and rate"
        )
    labels = _raw(lines[start], delimiter)
    while labels and not labels[-1]:
        labels.pop()
    devices = _padded(_raw(lines[above], delimiter), len(labels)) if above is not None else [""] * len(labels)
    units = [""] * len(labels)
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        cells = _padded(_raw(line, delimiter), len(labels))
        if not rows and not is_number(cells[0]) and any(cells):
            units = cells[: len(labels)]
            continue
        if not is_number(cells[0]):
            break
        if len(cells) != len(labels):
            raise InputError(f"{file}: line {number} has {len(cells)} cells, but there are {len(labels)} labels")
        rows.append(cells)
        numbers.append(number)
    if not rows or len(labels) < 3:
        raise InputError(f"{file}: the table is empty: no row follows the labels in line {start + 1}")
    names = []
    for i, label in enumerate(labels):
        title = devices[i] or title
        names.append(f"{title}/{label}" if title and labels.count(label) > 1 else label)
    if delimiter != "," or _has_decimal_commas(rows[:50]):
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    times = _frame_times(rows, rate, file, numbers)
    timed = [[repr(t), *row] for t, row in zip(times, rows, strict=True)]
    columns = tuple(range(3, len(labels) + 1))
    return Block(tuple(names[2:]), tuple(units[2:]), columns, 0, "time", 1.0, timed, numbers)


def _frame_times(rows: Sequence[Sequence[str]], rate: float, file: str, lines: Sequence[int]) -> list[float]:
    counts = []
    for row, line in zip(rows, lines, strict=True):
        try:
            frame, part = float(row[0]), float(row[1] or "0")
        except ValueError:
            frame = part = math.nan
        if not (0 <= part < 1e6 and abs(frame) < 1e12):
            raise InputError(f"{file}: line {line}: frame and sub-frame are {shown(row[0])} and {shown(row[1])}")
        counts.append((frame, part))
    parts = max(part for _, part in counts) + 1
    return [((frame - 1) * parts + part) / rate for frame, part in counts]
