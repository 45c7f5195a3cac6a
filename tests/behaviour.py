r"""Record what a checkout answers, through every way in, and compare two records.

    python tests/behaviour.py record CHECKOUT --models FOLDER --scans PREPROCESSING:FILE ... \
           --slices FILE ... --bad FILE ... -o RECORD
    python tests/behaviour.py compare BEFORE AFTER

A refactoring that should change nothing is checked so: record the commit before and the one after
on one machine, then compare. A record holds label volumes and other output files as hashes, JSON
without timings, versions and paths, and each refusal's status, type and message, from the
library, the command line, HTTP and gRPC. It imports nothing of the checkout: everything runs in
processes whose working directory it is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNSTABLE = {"seconds", "versions", "request_id", "backend"}
"""Keys of JSON answers that differ from run to run, or with the installation."""

LIBRARY = """
import hashlib, json, sys
from pathlib import Path
from neurobento import NeuroBentoError, Parcellator, find_model, open_backend, read_scan
parcellator = Parcellator(open_backend(find_model("regions"), threads=2))
for preprocessing, path in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        done = parcellator.parcellate(read_scan(Path(path)), preprocessing)
        volumes = [(v.region.name, v.voxels, v.volume_mm3) for v in done.volumes]
        found = {
            "labels": hashlib.sha256(done.labels.tobytes()).hexdigest(),
            "network_labels": hashlib.sha256(done.network_labels.tobytes()).hexdigest(),
            "volumes": hashlib.sha256(repr(volumes).encode()).hexdigest(),
            "warnings": done.warnings,
        }
    except (NeuroBentoError, OSError) as error:
        found = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps([Path(path).name, found]), flush=True)
"""

GRPC = """
import hashlib, json, sys
from pathlib import Path
import numpy as np, tritonclient.grpc as triton
client = triton.InferenceServerClient(sys.argv[1])
for model, tensor, preprocessing, path in zip(*(sys.argv[n::4] for n in (2, 3, 4, 5))):
    sent = triton.InferInput(tensor, [1], "BYTES")
    sent.set_data_from_numpy(np.array([Path(path).read_bytes()], dtype=object))
    parameters = {"preprocessing": preprocessing} if tensor == "scan" else {}
    try:
        answer = client.infer(model, [sent], parameters=parameters, client_timeout=500)
        found = {}
        for output in answer.get_response().outputs:
            array = answer.as_numpy(output.name)
            if output.name == "run":
                found["run"] = json.loads(array[0])
            else:
                content = array[0] if array.dtype == object else array.tobytes()
                found[output.name] = hashlib.sha256(content).hexdigest()
    except triton.InferenceServerException as error:
        found = {"status": error.status(), "message": error.message()}
    print(json.dumps([Path(path).name, found]), flush=True)
"""


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def stable(value: Any) -> Any:
    """Return a JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: stable(each) for key, each in value.items() if key not in UNSTABLE}
    return [stable(each) for each in value] if isinstance(value, list) else value


def content_of(name: str, content: bytes) -> Any:
    """Return an output file as a record has it: stable JSON, or a hash."""
    return stable(json.loads(content)) if name.endswith(".json") else sha256(content)


def files_in(folder: Path) -> dict[str, Any]:
    """Return every file below a folder as a record has it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: content_of(path.name, path.read_bytes()) for path in files}


class Checkout:
    """Runs commands of one checkout with its own interpreter."""

    def __init__(self, folder: Path, python: Path, models: Path) -> None:
        self.folder, self.python = folder, python
        self.environment = {
            **os.environ,
            "BENTOML_DO_NOT_TRACK": "True",
            "NEUROBENTO_MODELS": str(models),
            "PYTHONPATH": str(folder),
        }
        self.models = models

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with some arguments."""
        return subprocess.run(
            [str(self.python), "-W", "ignore", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )

    def record_library(self, scans: list[tuple[str, Path]]) -> dict[str, Any]:
        """Return what the Python API gives for scans."""
        done = self.run("-c", LIBRARY, *(str(word) for pair in scans for word in pair))
        assert done.returncode == 0, done.stderr
        return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))

    def record_command(self, command: str, *options: str, path: Path) -> dict[str, Any]:
        """Return a command's exit status, last line and files for one input."""
        with tempfile.TemporaryDirectory() as folder:
            models = ["--models", str(self.models), "--threads", "2"]
            arguments = [command, str(path), "-o", folder, *models, *options]
            entry = "from neurobento.cli.main import main"
            if not (self.folder / "neurobento/cli/main.py").exists():
                entry = "from neurobento.cli import main"
            code = f"import sys\n{entry}\nsys.exit(main(sys.argv[1:]))"
            done = self.run("-c", code, *arguments)
            lines = done.stderr.strip().splitlines()
            said = lines[-1].replace(folder, "OUT") if lines and done.returncode else ""
            return {"status": done.returncode, "said": said, "files": files_in(Path(folder))}

    @contextlib.contextmanager
    def serving(self) -> Iterator[tuple[str, str]]:
        """Serve on free ports of 127.0.0.1; yield the HTTP and the gRPC address."""
        ports = []
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports.append(free.getsockname()[1])
        with tempfile.TemporaryDirectory() as home:
            self.environment |= {"BENTOML_HOME": home, "NEUROBENTO_GRPC_PORT": str(ports[1])}
            stored = self.run("-m", "export.to_bento", "--models", str(self.models))
            assert stored.returncode == 0, stored.stderr
            process = subprocess.Popen(
                [
                    *(str(self.python), "-m", "bentoml", "serve", "service:NeuroBento"),
                    *("--host", "127.0.0.1", "--port", str(ports[0])),
                ],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                yield f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(120)


def wait_until_ready(url: str, seconds: float = 300) -> None:
    """Wait for a server's `/readyz`."""
    import httpx

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    raise TimeoutError(f"the server is not ready after {seconds:g} s")


def record_http(url: str, route: str, path: Path, fields: dict[str, str]) -> dict[str, Any]:
    """Return the status and the body of a request as a record has them."""
    import httpx

    accept = {"accept": "application/zip"}
    with path.open("rb") as file:
        answer = httpx.post(
            url + route, files={"file": ("scan", file)}, data=fields, headers=accept, timeout=900
        )
    kind = answer.headers.get("content-type", "")
    body: Any = sha256(answer.content)
    if kind.startswith("application/json"):
        body = stable(answer.json())
    elif kind == "application/zip":
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            body = {name: content_of(name, archive.read(name)) for name in archive.namelist()}
    return {"status": answer.status_code, "type": kind, "body": body}


def record(args: argparse.Namespace) -> dict[str, Any]:
    """Record everything that a checkout answers."""
    checkout = Checkout(args.checkout.resolve(), args.python, args.models.resolve())
    scans = [(*each.split(":", 1),) for each in args.scans]
    scans = [(preprocessing, Path(path).resolve()) for preprocessing, path in scans]
    slices = [path.resolve() for path in args.slices]
    bad = [path.resolve() for path in args.bad]
    refused = [(preprocessing, path) for path in bad for preprocessing in ("stripped", "none")]
    both = [*scans, *(("none", path) for path in bad)]
    result: dict[str, Any] = {"library": checkout.record_library(both)}
    say("library done")
    result["command"] = {
        **{
            f"parcellate {preprocessing} {path.name}": checkout.record_command(
                "parcellate", "--preprocessing", preprocessing, path=path
            )
            for preprocessing, path in [*scans, *refused]
        },
        **{
            f"anomaly {path.name}": checkout.record_command("anomaly", path=path)
            for path in [*slices, *bad, scans[0][1]]
        },
    }
    say("commands done")
    with checkout.serving() as (url, grpc):
        wait_until_ready(url)
        result["http"] = {
            **{
                f"/v1/parcellation {preprocessing} {path.name}": record_http(
                    url, "/v1/parcellation", path, {"preprocessing": preprocessing}
                )
                for preprocessing, path in [*scans, *refused]
            },
            **{
                f"/v1/anomaly {path.name}": record_http(url, "/v1/anomaly", path, {})
                for path in [*slices, *bad]
            },
            "an unknown model": record_http(
                url, "/v1/parcellation", scans[0][1], {"model": "nobody"}
            ),
            "an unknown preprocessing": record_http(
                url, "/v1/parcellation", scans[0][1], {"preprocessing": "half"}
            ),
            "a path that is not there": record_http(url, "/v1/nothing", scans[0][1], {}),
        }
        say("HTTP done")
        arguments = [
            word
            for preprocessing, path in both
            for word in ("regions", "scan", preprocessing, str(path))
        ]
        arguments += [
            word for path in [*slices, *bad] for word in ("anomaly", "slice", "-", str(path))
        ]
        done = checkout.run("-c", GRPC, grpc, *arguments)
        assert done.returncode == 0, done.stderr
        result["grpc"] = {
            f"{n} {name}": stable(found)
            for n, (name, found) in enumerate(map(json.loads, done.stdout.splitlines()))
        }
        say("gRPC done")
    malformed = checkout.run("-c", MALFORMED, str(args.malformed))
    assert malformed.returncode == 0, malformed.stderr
    result["malformed"] = json.loads(malformed.stdout.splitlines()[-1])
    return result


MALFORMED = """
import importlib, json, pathlib, sys
is_new = pathlib.Path("tests/malformed_files/run.py").exists()
module = importlib.import_module("tests.malformed_files.run" if is_new else "tests.malformed_run")
found = module.outcomes(0, int(sys.argv[1]))
print(json.dumps({f"{n} {o.name}": [o.expected, o.error, o.message] for n, o in enumerate(found)}))
"""


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf of a record with its path."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flat(each, (*path, str(key)))
    elif isinstance(value, list):
        for n, each in enumerate(value):
            yield from flat(each, (*path, str(n)))
    else:
        yield path, value


def compare(before: Path, after: Path) -> int:
    """Print the differences, those of wording apart. Return 1 where more than wording differs."""
    old, new = (dict(flat(json.loads(path.read_text()))) for path in (before, after))
    wording, other = [], []
    for path in sorted({*old, *new}):
        a, b = old.get(path), new.get(path)
        if a != b:
            words = path[-1] in ("said", "message") or (path[0] == "malformed" and path[-1] == "2")
            (wording if words and a and b else other).append((path, a, b))
    for title, differing in (("only the wording", wording), ("more than the wording", other)):
        print(f"{len(differing)} differ in {title}")
        for path, a, b in differing:
            print(f"  {' / '.join(path)}\n    - {a}\n    + {b}")
    print(f"{len(old)} values before, {len(new)} after")
    return 1 if other else 0


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=re.sub(r"\n.*", "", __doc__ or "", flags=re.S))
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("checkout", type=Path)
    recording.add_argument("--python", type=Path, default=Path(sys.executable))
    recording.add_argument("--models", type=Path, required=True, help="folder of models to use")
    recording.add_argument("--scans", nargs="+", required=True, help="PREPROCESSING:FILE")
    recording.add_argument("--slices", type=Path, nargs="+", required=True)
    recording.add_argument("--bad", type=Path, nargs="+", required=True)
    recording.add_argument("--malformed", type=int, default=300, help="damaged files to read")
    recording.add_argument("-o", "--output", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.before, args.after)
    args.output.write_text(json.dumps(record(args), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
