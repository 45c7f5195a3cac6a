"""The error tree and its four-part messages."""

from __future__ import annotations

import pickle
import re

import pytest

from neurobento import errors
from neurobento.errors import NeuroBentoError

KINDS = [getattr(errors, name) for name in errors.__all__]
PARTS = {"expected": "a head", "found": "a tail", "remedy": "Turn it round."}
SUBJECT = "/home/somebody/JANE_DOE.nii.gz"


def drawn_tree() -> list[tuple[int, str]]:
    """(depth, name) of each class in the drawing at the top of errors.py, a leaf after its base."""
    drawing = (errors.__doc__ or "").split("\n\n", 1)[1]
    # A line without a branch goes on with the leaves of the line before it.
    lines = re.sub(r",\n[│ ]+", ", ", drawing).splitlines()
    drawn: list[tuple[int, str]] = []
    for line in lines:
        indent, base, leaves = re.findall(r"^([│├└─ ]*)(\w+)(?:: (.*))?$", line)[0]
        drawn.append((len(indent) // 4, base))
        drawn += [(len(indent) // 4 + 1, leaf) for leaf in leaves.split(", ") if leaf]
    return drawn


def test_the_drawing_is_the_tree() -> None:
    parents: dict[int, str] = {-1: "Exception"}
    for depth, name in drawn_tree():
        assert [base.__name__ for base in getattr(errors, name).__bases__] == [parents[depth - 1]]
        parents[depth] = name


def test_the_drawing_and_the_exports_name_the_same_classes() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert {name for _, name in drawn_tree()} == set(errors.__all__) == defined


def test_exports_are_sorted() -> None:
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_says_one_sentence_about_itself(kind: type[NeuroBentoError]) -> None:
    first = (kind.__doc__ or "").splitlines()[0]
    assert first.endswith(".")
    assert vars(kind).get("__doc__")


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_has_four_parts(kind: type[NeuroBentoError]) -> None:
    error = kind(**PARTS, subject=SUBJECT)
    assert str(error) == f"{SUBJECT}: expected a head; found a tail. Turn it round."
    assert error.parts == {**PARTS, "subject": SUBJECT}


@pytest.mark.parametrize("kind", KINDS)
def test_the_public_message_leaves_the_subject_out(kind: type[NeuroBentoError]) -> None:
    error = kind(**PARTS, subject=SUBJECT)
    assert error.public_message == "expected a head; found a tail. Turn it round."


def test_without_a_subject_message_and_public_message_agree() -> None:
    error = NeuroBentoError(**PARTS)
    assert str(error) == error.message == error.public_message


def test_parts_are_named_never_positional() -> None:
    with pytest.raises(TypeError):
        NeuroBentoError("something went wrong")  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("kind", KINDS)
def test_about_names_the_subject_and_changes_nothing_else(kind: type[NeuroBentoError]) -> None:
    error = kind(**PARTS)
    named = error.about(SUBJECT)
    assert type(named) is kind
    assert named.parts == {**PARTS, "subject": SUBJECT}
    assert error.subject is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subject", [None, SUBJECT])
def test_errors_pickle(kind: type[NeuroBentoError], subject: str | None) -> None:
    error = kind(**PARTS, subject=subject)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.parts == error.parts
    assert str(copy) == str(error)
