"""Code and documents are in plain English: no literal translations, no docstring without a verb."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("neurobento", "training", "export", "benchmarks")
FILES = [path.relative_to(ROOT) for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]
FILES.append(Path("service.py"))
DOCUMENTS = [
    *("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
]

OPENERS = frozenset(
    ["What", "Whether", "How", "Of", "That", "As", "Where", "Let", "Who", "When", "Which", "Why"]
)
"""First words that make a docstring a fragment."""

PARTICIPLES = frozenset(
    [
        "asked",
        "augmented",
        "corrupt",
        "described",
        "ended",
        "failed",
        "found",
        "given",
        "gone",
        "kept",
        "killed",
        "known",
        "left",
        "lost",
        "measured",
        "mixed",
        "refused",
        "registered",
        "resized",
        "said",
        "spared",
        "taken",
        "timed",
        "told",
        "traced",
        "tried",
        "truncated",
        "wanted",
        "windowed",
    ]
)
"""Function names that are neither a verb nor named after what they return."""

PHRASES = (
    "hangs? (on|of)",
    "to be had",
    "(is|are) told",
    "by whom",
    "of its own accord",
    "left to itself",
    "(is|to be) said",
    "without a word",
    "in vain",
    "for want of",
    "lets? go of",
    "(errors?|failures?|file|one|messages?) of ours",
    "whoever",
    "is asked for",
    "tells of",
    "goes on(?! to)",
    "says nothing of",
    "comes of",
)
"""Literal translations that this repository once held, each as a pattern."""

PATTERN = re.compile(r"\b(" + "|".join(PHRASES).replace(" ", r"\s+") + r")\b", re.IGNORECASE)


def area(file: Path) -> str:
    """The first two folders of a file, or the file itself at the top."""
    return "/".join(file.parts[:-1][:2]) or file.name


def fragments(source: str) -> Iterator[tuple[int, str]]:
    """Line and first line of each docstring, a constant's too, that opens as a fragment."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = str(node.value.value).strip()
            if text and text.split()[0].strip(",:") in OPENERS:
                yield node.lineno, text.splitlines()[0]


def participles(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each function that is called by a bare past participle."""
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.strip("_") in PARTICIPLES:
            yield node.lineno, node.name


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string and of each block of comments."""
    comments: list[str] = []
    start = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if comments and token.start[0] != last + 1:
                yield start, " ".join(comments)
                comments = []
            start = start if comments else token.start[0]
            last = token.start[0]
            comments.append(token.string.lstrip("# "))
    if comments:
        yield start, " ".join(comments)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def banned_phrases(texts: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(line, match[0]) for line, text in texts for match in PATTERN.finditer(text)]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    'What it is.'",
        "class A:\n    '''Whether, or not.'''",
        "class A:\n    async def f(self):\n        'How it goes.'",
    ],
)
def test_the_rule_sees_fragments(source: str) -> None:
    assert len(list(fragments(source))) == 1


def test_the_rule_sees_bare_participles() -> None:
    assert list(participles("def _told():\n    pass\ndef tell():\n    pass")) == [(1, "_told")]


@pytest.mark.parametrize(
    "source",
    [
        "'It hangs on the threads.'",
        "# the answer is\n# told to nobody",
        "raise E(f'{n} files are not to be had')",
        "def f():\n    '''Close it.\n\n    The work is done in\n    vain.\n    '''",
    ],
)
def test_the_rule_sees_phrases(source: str) -> None:
    assert len(banned_phrases(prose(source))) == 1


@pytest.mark.parametrize(
    "source", ["def f():\n    'Return what was read.'", "# It depends on that.\nname = 'go'"]
)
def test_the_rule_passes_plain_sentences(source: str) -> None:
    assert list(fragments(source)) == []
    assert banned_phrases(prose(source)) == []


@pytest.mark.parametrize(
    "check",
    [fragments, participles, lambda source: banned_phrases(prose(source))],
    ids=["docstrings-open-with-a-verb-or-a-noun", "no-bare-participles", "no-banned-phrases"],
)
@pytest.mark.parametrize("folder", sorted({area(file) for file in FILES}))
def test_code_is_in_plain_english(
    folder: str, check: Callable[[str], Iterable[tuple[int, str]]]
) -> None:
    found = [
        f"{file}:{line}: {text}"
        for file in FILES
        if area(file) == folder
        for line, text in check((ROOT / file).read_text())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("document", sorted({area(Path(name)) for name in DOCUMENTS}))
def test_documents_use_no_banned_phrase(document: str) -> None:
    found = [
        f"{name}:{paragraph}: {phrase}"
        for name in DOCUMENTS
        if area(Path(name)) == document
        for paragraph, phrase in banned_phrases(
            enumerate((ROOT / name).read_text().split("\n\n"), 1)
        )
    ]
    assert not found, "\n".join(found)
