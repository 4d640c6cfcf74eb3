"""The page of a study's keys, from ``schema.TABLES``: ``examples/configs/README.md``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from calibration.study.schema import REQUIRED, TABLES, Key, Table
from nms_gym._assets import asset_path
from nms_gym.recording.storage import atomic_path

HEAD = """\
# Studies in TOML

*Written by `nms-gym reference --study-keys -o examples/configs`; change `calibration/study/schema.py` instead.*

A study says which model, which recordings, which channel drives which muscle, what is fitted and what is held out. The
shipped one needs no other files:

```bash
nms-gym inspect asset:demo/study.toml      # check it, and say what a calibration would do
nms-gym calibrate asset:demo/study.toml
```

```toml
{demo}```

The same from Python, with plain arrays and no files: `calibration.make_study`, whose arguments are these tables.
"""


def study_reference(configs: Path | None = None) -> str:
    """The page, as Markdown; with ``configs``, also what each study of that folder is and needs."""
    demo = asset_path("demo/study.toml").read_text(encoding="utf-8")
    parts = [HEAD.format(demo=demo)]
    studies = sorted(configs.glob("*.toml")) if configs is not None else []
    if studies:
        parts.append("## Studies of public data\n")
        parts.append("The recordings are not shipped: `NMS_GYM_DATA` is the folder that holds those named.\n")
        parts.append("| study | what it is | recordings |\n|---|---|---|")
        parts += [_study(path) for path in studies]
        parts.append("")
    parts.append("## Keys\n")
    parts += [_table(table) for table in TABLES.values()]
    return "\n".join(parts)


def write_study_reference(folder: Path) -> Path:
    """Write the page as ``README.md`` beside the studies of ``folder``.

    Raises:
        InputError: the folder is missing.
    """
    path = folder / "README.md"
    with atomic_path(path) as temporary:
        temporary.write_text(study_reference(folder), encoding="utf-8")
    return path


def _study(path: Path) -> str:
    """A row: the first sentence of the study's comment, and the data folders that it names."""
    text = path.read_text(encoding="utf-8")
    comment = re.match(r"(?:#.*\n)+", text)
    words = " ".join(line.lstrip("# ") for line in comment[0].splitlines()) if comment else ""
    sentence = re.split(r"(?<=[.)])\s+(?=[A-Z])", words)[0]
    needed = sorted(set(re.findall(r"\$\{NMS_GYM_DATA\}/(\w+)", text)))
    return f"| [`{path.name}`]({path.name}) | {sentence} | {', '.join(f'`{name}`' for name in needed)} |"


def _table(table: Table) -> str:
    lines = [f"### `{table.header}`\n"] if table.header else []
    lines.append(f"{table.text}\n")
    if table.keys:
        lines.append("| key | type | default | unit | meaning |\n|---|---|---|---|---|")
        lines += [
            f"| `{k.name}` | {k.kind} | {_default(k)} | {k.unit} | {k.text} |"
            for k in table.keys
            if k.text != f"`[{k.name}]`"
        ]
        lines.append("")
    return "\n".join(lines)


def _default(key: Key) -> str:
    if key.shown:
        return key.shown
    value: Any = key.default
    if value is REQUIRED:
        return "required"
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value:g}`"
