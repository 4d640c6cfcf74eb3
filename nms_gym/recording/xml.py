"""XML from anywhere: read safely, and whatever is missing or no number refused by file and element.

``where`` begins every message: the file, and the object that the element belongs to.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree as ET
from defusedxml.common import DefusedXmlException

from nms_gym.errors import InputError, listed


def xml_root(path: str | os.PathLike[str], what: str = "the file") -> Element:
    """Root element of a file; ``what`` it should be, for messages.

    What OpenSim's own parser (TinyXML) lets pass is read too, see ``mended``.

    Raises:
        InputError: no such file, or no XML that may be read (entities are refused).
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read {what}: {error.strerror or error}") from error
    try:
        return ET.fromstring(data)
    except DefusedXmlException as error:
        raise InputError(f"{path}: not a usable XML file: {error}") from error
    except (ParseError, ValueError, LookupError) as error:
        try:
            return ET.fromstring(mended(data))
        except (ParseError, DefusedXmlException, ValueError, LookupError):
            raise InputError(f"{path}: not a usable XML file: {error}") from error


_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)")
_COLONS_IN_TAG = re.compile(r"(</?)([A-Za-z_][\w.-]*(?:::?[\w.-]+)+)")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DECLARED = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")


def mended(data: bytes) -> str:
    """The document as text, without what strict parsers refuse and OpenSim's does not.

    That is: bytes that are not of the encoding declared (read as Windows-1252), a bare ``&``, tags with colons
    (``HuntCrossleyForce::ContactParameters`` becomes ``HuntCrossleyForce__ContactParameters``), comments with ``--``
    inside, control characters, and anything before the first tag.
    """
    text = _CONTROL.sub("", _decoded(data))
    text = text[max(text.find("<"), 0) :]
    parts, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        parts.append(text[at:start])
        at = end + 3
    text = "".join([*parts, text[at:]])
    if text.startswith("<?xml"):
        text = text[text.find("?>") + 2 :].lstrip()
    if "xmlns:" in text:  # prefixes mean something; two colons never do
        text = re.sub(r"(?<=[\w.-])::(?=[\w.-]+[\s/>])", "__", text)
    else:
        text = _COLONS_IN_TAG.sub(lambda found: found[1] + found[2].replace(":", "_"), text)
    return _BARE_AMPERSAND.sub("&amp;", text)


def _decoded(data: bytes) -> str:
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    declared = _DECLARED.match(data[:200].lstrip())
    for encoding in ("utf-8", *([declared[1].decode()] if declared else [])):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1252", errors="replace")


def xml_child(element: Element, tag: str, where: str) -> Element:
    """The child of an element. InputError where there is none."""
    child = element.find(tag)
    if child is None:
        raise InputError(f"{where}: no <{tag}> in <{element.tag}>; there are {listed({e.tag for e in element})}")
    return child


def xml_text(element: Element, tag: str, where: str) -> str:
    """Text of a child. InputError where it is missing or empty."""
    text = (xml_child(element, tag, where).text or "").strip()
    if not text:
        raise InputError(f"{where}: <{tag}> is empty")
    return text


def xml_text_or(element: Element, tag: str, default: str) -> str:
    """Text of a child, or ``default`` where it is missing or empty."""
    return (element.findtext(tag) or "").strip() or default


def xml_float(text: str, what: str) -> float:
    """A finite number. InputError names ``what`` where it is none."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} is {text!r}; expected a finite number")
    return value


def xml_number(element: Element, tag: str, where: str, default: float | None = None) -> float:
    """The number in a child, or ``default`` where there is no such child. InputError where it has anything else."""
    if default is not None and element.find(tag) is None:
        return default
    return xml_float(xml_text(element, tag, where), f"{where}: <{tag}>")


def xml_integer(element: Element, tag: str, where: str) -> int:
    """The whole number in a child. InputError where it is missing or has anything else."""
    text = xml_text(element, tag, where)
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where}: <{tag}> is {text!r}; expected a whole number") from None


def xml_numbers(element: Element, tag: str, where: str, count: int | None = None) -> tuple[float, ...]:
    """The finite numbers in a child, ``count`` of them if given. InputError where it is missing or has others."""
    text = xml_text(element, tag, where)
    values = tuple(xml_float(word, f"{where}: <{tag}>") for word in text.split())
    if count is not None and len(values) != count:
        raise InputError(f"{where}: <{tag}> is {text!r}; expected {count} numbers")
    return values
