"""Build TensorRT engines from models, in the cache where the backend looks for them.

    python -m export.to_tensorrt models/unet --flavour tensorrt-rtx --sm 8.9 12.0 --precision fp16

`tensorrt` builds on the GPU it builds for, `tensorrt-rtx` for any named compute capability, even
without a GPU. An existing engine is not built again.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from export.graph.engine import choose_all, keep_uint8_for_the_end
from export.graph.half_precision import compute_in_half
from neurobento.backends.cuda import find_gpu, require_gpu
from neurobento.backends.engine import (
    FLAVOURS,
    PRECISIONS,
    PROFILE,
    RECIPE,
    EngineFacts,
    engine_folder,
    find_engine,
    gpu_target,
    private_folder,
    read_engine,
    write_engine,
    write_private,
)
from neurobento.backends.tensorrt import load_flavour
from neurobento.command import run
from neurobento.environment import engines_folder
from neurobento.errors import ConfigError, EngineMismatch
from neurobento.registry import Model, open_model

__all__ = ["build_engine", "main"]

logger = logging.getLogger(__name__)


def build_engine(
    model: Model,
    flavour: str,
    precision: str = "fp32",
    capabilities: Sequence[str] = (),
    root: Path | None = None,
) -> Path:
    """Build an engine unless it exists; return its folder.

    The precision is that of the convolutions. Compute capabilities are for "tensorrt-rtx"; by
    default this GPU's. Raises EngineMismatch if the library refuses the model or the folder is not
    safe.
    """
    library = load_flavour(flavour)
    facts = EngineFacts(
        flavour=flavour,
        library=library.__version__,
        targets=_targets(flavour, capabilities),
        precision=precision,
        profile=PROFILE,
        onnx_sha256=model.spec.onnx_sha256,
        recipe=RECIPE,
    )
    try:
        folder = find_engine(model, facts, root)
        read_engine(folder)
    except EngineMismatch:
        # A build takes minutes, so an unsafe folder is refused first.
        engine_folder(model, facts, root)
        engine = _build(library, model, facts, root or engines_folder())
        folder = write_engine(model, facts, engine, root)
    return folder


def _targets(flavour: str, capabilities: Sequence[str]) -> tuple[str, ...]:
    if flavour == "tensorrt-rtx" and capabilities:
        return tuple(sorted({f"sm_{c.replace('.', '')}" for c in capabilities}))
    if capabilities:
        raise ConfigError(
            subject="--sm",
            expected="no compute capability: tensorrt builds for the GPU it runs on",
            found=", ".join(capabilities),
            remedy="Omit --sm, or choose --flavour tensorrt-rtx.",
        )
    return (gpu_target(flavour, require_gpu()),)


def _build(library: Any, model: Model, facts: EngineFacts, root: Path) -> bytes:
    trt_log = library.Logger(library.Logger.ERROR)
    builder = library.Builder(trt_log)
    # Keep the graph's types; later versions always do and drop the flag.
    typed = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = library.OnnxParser(network, trt_log)
    if not parser.parse(_graph(model, facts.precision)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = [f"{error.node_operator()}: {error.desc()}" for error in errors]
        raise _build_failure(model, facts, "; ".join(reasons))
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    shape = model.spec.input_shape
    profile.set_shape("image", *((batch, *shape) for batch in PROFILE))
    config.add_optimization_profile(profile)
    if facts.flavour == "tensorrt-rtx":
        _set_capabilities(library, config, facts)
        engine = builder.build_serialized_network(network, config)
    else:
        with _TimingCache(config, _timing_cache_path(facts, root)):
            engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _build_failure(model, facts, "the builder gave no engine")
    return bytes(engine)


def _timing_cache_path(facts: EngineFacts, root: Path) -> Path:
    name = re.sub(r"[^\w.]+", "-", " ".join((facts.library, *facts.targets)))
    return root / facts.flavour / f"{name}.cache"


def _graph(model: Model, precision: str) -> bytes:
    graph = onnx.load(model.onnx)
    choose_all(graph)
    if precision != "fp32":
        compute_in_half(graph, precision)  # type: ignore[arg-type]
    keep_uint8_for_the_end(graph)
    return bytes(graph.SerializeToString())


def _set_capabilities(library: Any, config: Any, facts: EngineFacts) -> None:
    """Set the compute capabilities that the facts name."""
    known = {name.lower().replace("sm", "sm_"): value for name, value in _capabilities(library)}
    config.num_compute_capabilities = len(facts.targets)
    for i, target in enumerate(facts.targets):
        if target not in known:
            raise ConfigError(
                subject="--sm",
                expected=f"one of {', '.join(sorted(known))} for this library",
                found=target,
                remedy="Name another compute capability, or choose --flavour tensorrt.",
            )
        config.set_compute_capability(known[target], i)


def _capabilities(library: Any) -> list[tuple[str, Any]]:
    return [
        (name, value)
        for name, value in library.ComputeCapability.__members__.items()
        if name.startswith("SM")
    ]


class _TimingCache:
    """Context manager that reuses timings of earlier builds on this GPU, to build faster."""

    def __init__(self, config: Any, path: Path) -> None:
        self._config, self._path = config, path

    def __enter__(self) -> None:
        private_folder(self._path.parent)
        if not self._path.is_file() or not self._set_timings(self._path.read_bytes()):
            self._set_timings(b"")

    def _set_timings(self, timings: bytes) -> bool:
        """Return whether the library accepts these timings."""
        cache = self._config.create_timing_cache(timings)
        return cache is not None and bool(self._config.set_timing_cache(cache, False))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        cache = None if error else self._config.get_timing_cache()
        if cache is not None:
            write_private(self._path, bytes(cache.serialize()))


def _build_failure(model: Model, facts: EngineFacts, reasons: str) -> EngineMismatch:
    return EngineMismatch(
        subject=f"{model.spec.name} on {facts.flavour}",
        expected=f"a graph that {facts.flavour} {facts.library} builds in {facts.precision}",
        found=reasons,
        remedy="Try --precision fp32 or fp16; nothing was written.",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if an engine was refused, after building all others."""
    parser = argparse.ArgumentParser(prog="python -m export.to_tensorrt")
    parser.add_argument("models", type=Path, nargs="+", help="models/NAME ...")
    parser.add_argument("--flavour", choices=list(FLAVOURS), default=_default_flavour())
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["fp32"])
    parser.add_argument(
        "--sm", nargs="+", default=[], metavar="8.9", help="compute capabilities (tensorrt-rtx)"
    )
    parser.add_argument("--engines", type=Path, help="folder of engines")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    refused = 0
    for folder in args.models:
        model = open_model(folder)
        for precision in args.precision:
            try:
                engine = build_engine(model, args.flavour, precision, args.sm, args.engines)
            except EngineMismatch as error:
                refused = 1
                logger.error("%s %s: %s", model.spec.name, precision, error.message)
            else:
                logger.info("%s %s: %s", model.spec.name, precision, engine)
    return refused


def _default_flavour() -> str:
    """Return TensorRT if there is a GPU to build for, else TensorRT-RTX."""
    return "tensorrt" if find_gpu() else "tensorrt-rtx"


if __name__ == "__main__":
    raise SystemExit(run(main, "export.to_tensorrt"))
