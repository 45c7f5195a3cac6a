"""Who shows the token is let through, and nobody else; no message has a token in it."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

import pytest

from neurobento.errors import ConfigError, NotAuthorised
from neurobento.serving.settings import read_token
from neurobento.serving.token import Token

SECRET = "0123456789abcdef-token"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEUROBENTO_TOKEN", "NEUROBENTO_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Path]:
    def file(content: bytes) -> Path:
        path = tmp_path / "token"
        path.write_bytes(content)
        monkeypatch.setenv("NEUROBENTO_TOKEN_FILE", str(path))
        return path

    return file


def lets_through(token: Token, shown: bytes) -> bool:
    try:
        token.require(shown)
    except NotAuthorised:
        return False
    return True


OTHERS = [b"", b"Bearer", b"Bearer ", SECRET.encode(), f"Basic {SECRET}".encode()]
OTHERS += [f"Bearer {SECRET[:-1]}".encode(), f"Bearer {SECRET}x".encode()]
OTHERS += [f"Bearer {SECRET.upper()}".encode(), b"Bearer \xff\x00", b"Bearer None"]


def test_who_shows_the_token_is_let_through_and_without_one_everybody() -> None:
    for shown in (b"", b"Bearer whatever"):
        assert lets_through(Token(None), shown)
    assert lets_through(Token(SECRET), f"Bearer {SECRET}".encode())
    assert [shown for shown in OTHERS if lets_through(Token(SECRET), shown)] == []
    with pytest.raises(NotAuthorised, match="found none"):
        Token(SECRET).require(b"")


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not timed here: `hmac.compare_digest` is asked, and its answer is taken."""
    compared: list[set[bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append({a, b})
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert lets_through(Token(SECRET), b"Bearer another")
    assert compared == [{b"Bearer another", f"Bearer {SECRET}".encode()}]


@pytest.mark.parametrize("secret", [SECRET, "x" * 16])
def test_a_token_comes_from_its_variable_and_without_it_there_is_none(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lets_through(Token(read_token()), b"")
    monkeypatch.setenv("NEUROBENTO_TOKEN", secret)
    token = Token(read_token())
    assert lets_through(token, f"Bearer {secret}".encode())
    assert not lets_through(token, b"")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "  \n\n"])
def test_a_token_comes_from_its_file_without_the_lines_end_before_the_variable(
    write: Callable[[bytes], Path], end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(f"{SECRET}{end}".encode())
    for variable in (None, "another-one-that-is-long-enough"):
        if variable:
            monkeypatch.setenv("NEUROBENTO_TOKEN", variable)
        token = Token(read_token())
        assert lets_through(token, f"Bearer {SECRET}".encode())
        assert not lets_through(token, b"")


def test_a_variable_that_could_be_guessed_or_a_file_without_a_good_token_is_refused(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for token in ("", "hunter2", "x" * 15):
        monkeypatch.setenv("NEUROBENTO_TOKEN", token)
        with pytest.raises(ConfigError, match="at least 16 characters"):
            Token(read_token())
    monkeypatch.delenv("NEUROBENTO_TOKEN")
    for content in (b"", b"\n", b"hunter2", b"x" * 15 + b" \n", b"\xff" * 32):
        write(content)
        with pytest.raises(ConfigError, match="at least 16 characters"):
            Token(read_token())


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/", ""])
def test_a_file_that_cannot_be_read_does_not_open_the_service(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROBENTO_TOKEN_FILE", path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Token(read_token())


@pytest.mark.parametrize("from_file", [False, True])
def test_no_message_has_a_token_in_it(
    from_file: bool, write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if from_file:
        write(b"hunter2")
    else:
        monkeypatch.setenv("NEUROBENTO_TOKEN", "hunter2")
    with pytest.raises(ConfigError) as bad:
        Token(read_token())
    with pytest.raises(NotAuthorised) as refused:
        Token(SECRET).require(b"Bearer tried-by-somebody")
    said = f"{bad.value} {bad.value.parts} {refused.value} {refused.value.parts} {Token(SECRET)!r}"
    assert not [word for word in ("hunter2", "tried-by", SECRET) if word in said]
