"""The tree keeps its own rules: sizes, first words, no banned names, links that lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for path in (ROOT / "src").rglob("*.py") if "alcor_pb2" not in path.name)
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 600, 70
BANNED_FILES = {"utils", "util", "common", "misc", "helpers", "manager"}
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b|class Abstract[A-Z]|ManagerImpl")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=_name)
def test_a_file_fits_its_sentence(path: Path) -> None:
    """Every file opens with a docstring, is short enough to read, and carries no banned word or name."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file opens by saying what it is for"
    assert len(text.splitlines()) <= FILE_LINES, "split it by noun"
    assert path.stem not in BANNED_FILES
    if path != Path(__file__):
        assert not BANNED_WORDS.search(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=_name)
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link in a document names a file that is there."""
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{target} is not there"
