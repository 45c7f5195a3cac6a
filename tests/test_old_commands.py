"""Commands still answer to their old names, and name the new ones."""

from __future__ import annotations

import re
import runpy
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OLD_NAME = re.compile(r'^run_old_name\(__name__, "([a-z_.]+)"\)$', re.MULTILINE)
ALIASES = {
    path: found[1]
    for folder in ("benchmarks", "training")
    for path in sorted((ROOT / folder).glob("*.py"))
    if (found := OLD_NAME.search(path.read_text()))
}


def test_every_old_command_is_an_alias() -> None:
    assert len(ALIASES) == 20


@pytest.mark.parametrize(("path", "module"), ALIASES.items(), ids=[path.stem for path in ALIASES])
def test_an_old_command_answers_and_names_its_new_module(
    path: Path, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    # `run` would otherwise install its handler in this process.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert f"usage: python -m {module} " in capsys.readouterr().out
