"""What is installed is whole, and is what the tests test."""

from __future__ import annotations

import importlib
import os
import re
import sys
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import REPOSITORY

PACKAGES = ("nms_gym", "calibration")


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.skipif(
    os.environ.get("NMS_GYM_REQUIRE_INSTALLED") != "1", reason="NMS_GYM_REQUIRE_INSTALLED=1 asks for it"
)
@pytest.mark.parametrize("name", PACKAGES)
def test_the_installed_package_is_tested_and_not_the_checkout(name):
    found = Path(str(importlib.import_module(name).__file__)).resolve()
    assert found.is_relative_to(Path(sysconfig.get_path("purelib")).resolve())
    assert not found.is_relative_to(REPOSITORY / name)
    assert REPOSITORY not in {Path(entry).resolve() for entry in sys.path}


@pytest.mark.parametrize("name", PACKAGES)
def test_types_are_shipped(name):
    assert (Path(str(importlib.import_module(name).__file__)).parent / "py.typed").is_file()


def test_every_commit_is_checked_by_the_versions_that_a_merge_is():
    wanted = dict(line.split("==") for line in project()["optional-dependencies"]["dev"] if "==" in line)
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    found = dict(re.findall(r"/(ruff|pyright)-\S+\n\s+rev: v(\S+)", text))
    assert found == wanted
    assert set(wanted) == {"ruff", "pyright"}


def test_the_citation_is_of_this_version():
    text = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.M)[1] == version("nms-gym") == project()["version"]
