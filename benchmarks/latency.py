"""How long one scan takes in the network, backend beside backend.

    python -m benchmarks.latency IMAGE -o benchmarks/results/latency.json

SingleStream in MLPerf's words: one image on the network grid at a time, the
next when the last is done. Report A's U-Net in PyTorch fp32 runs in the same
rounds, as the yardstick: within a round every candidate runs once, so that a
noisy neighbour strikes all alike. Its weights are fresh; they do not change
its time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import FORMAT, environment, summary
from neurobento.backends import BACKENDS, Images, open_backend
from neurobento.command import run
from neurobento.errors import BackendUnavailable
from neurobento.networks import build
from neurobento.preprocessing import preprocess
from neurobento.registry import list_models
from neurobento.scan import read_scan

__all__ = ["REFERENCE", "candidates", "main", "measure"]

REFERENCE = "unet pytorch fp32"
WARM_UP = 1

Candidate = Callable[[Images], object]


def candidates(threads: int, models: Path | None = None) -> dict[str, Candidate]:
    """Name -> a function that runs one batch, for every model, backend and precision here."""
    found: dict[str, Candidate] = {REFERENCE: _pytorch("unet", threads)}
    for model in list_models(models):
        found[f"{model.spec.name} pytorch fp32"] = _pytorch(model.spec.network, threads)
        for name, (_, _, precisions) in BACKENDS.items():
            for precision in precisions:
                try:
                    backend = open_backend(model, name, precision=precision, threads=threads)
                except BackendUnavailable as error:
                    if precision == "fp32":
                        raise
                    print(f"left out: {error.message}", flush=True)
                    continue
                found[f"{model.spec.name} {name} {precision}"] = backend.infer
    return found


def _pytorch(preset: str, threads: int) -> Candidate:
    import torch

    torch.set_num_threads(threads)
    network: Any = build(preset).eval()

    def infer(images: Images) -> object:
        with torch.inference_mode():
            return network.labels(torch.from_numpy(images)).numpy()

    return infer


def measure(functions: dict[str, Candidate], images: Images, rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, by name; each round calls every function once."""
    for function in functions.values():
        for _ in range(WARM_UP):
            function(images)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for done in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function(images)
            seconds[name].append(time.perf_counter() - start)
        print(f"round {done + 1} of {rounds}", flush=True)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("image", type=Path, help="NAME_image.nii.gz of training.label")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    machine = environment()
    image = np.array(preprocess(read_scan(args.image), "none").image)[None, None]
    seconds = measure(candidates(args.threads), image, args.rounds)
    reference = float(np.median(seconds[REFERENCE]))
    result = {
        "format": FORMAT,
        "scenario": "SingleStream, network alone, batch 1",
        "threads": args.threads,
        "warm_up_calls": WARM_UP,
        "environment": machine,
        "models": {m.spec.name: m.spec.onnx_sha256 for m in list_models()},
        "candidates": {
            name: {
                **summary(samples),
                f"times_faster_than_{REFERENCE.replace(' ', '_')}": round(
                    reference / float(np.median(samples)), 2
                ),
                "seconds": [round(s, 4) for s in samples],
            }
            for name, samples in seconds.items()
        },
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, values in result["candidates"].items():  # type: ignore[attr-defined]
        print(f"{name:32} median {values['median']:.3f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.latency"))
