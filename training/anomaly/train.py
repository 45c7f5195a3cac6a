"""Train a network for anomalies on healthy slices alone.

    python -m training.anomaly.train training/configs/anomaly_unet.toml --slices FOLDER -o RUN

RUN receives `best.pt` (for `export`), `last.pt` (go on from it with --resume),
`log.csv`, `curves.png` (report B's figure 2) and `examples.png` (its figure 3). A fifth
of the healthy slices is for validation: when its loss has stopped falling the learning
rate is cut, and then training stops; the weights of the best epoch are kept. The same
slices then say how the score follows from the error map, and above which score a slice is
called anomalous.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import logging
import math
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.networks import build
from neurobento.networks.anomaly import AnomalyNetwork
from neurobento.networks.vgg16_autoencoder import VGG16Autoencoder, read_vgg16_weights
from neurobento.networks.weights import read_values
from training.anomaly.figures import draw_curves, draw_examples
from training.anomaly.reductions import (
    FALSE_POSITIVE_RATE,
    choose_reduction,
    error_maps_of,
    scores_by_all,
    threshold_from,
)
from training.anomaly.slices import folds_of, read_slices
from training.anomaly.synthetic import add_coarse_noise, augment_slices, put_in_anomalies
from training.loop.checkpoint import write_values
from training.loop.recipe import build_table

__all__ = ["AnomalyRecipe", "AnomalyRun", "main", "read_anomaly_recipe"]

FIELDS = ("epoch", "seconds", "loss", "validation_loss", "learning_rate")
VALIDATION_DRAWS = 4
"""What is put into validation slices, or done to them, is drawn this often, and once for all."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AnomalyRecipe:
    """Network and training.

    Attributes
    ----------
    network
        A preset of `neurobento.networks` for anomalies.
    objective
        "reconstruction": mean absolute error of what comes out to what went in;
        "denoising": the same, coarse noise having been added to what goes in;
        "synthetic": cross entropy and Dice of where something was put into a slice;
        "none", of a network that has nothing to learn.
    encoder
        Of vgg16_autoencoder: "imagenet", or a file with VGG16's weights, and frozen;
        "none" trains it too.
    augment
        Whether slices are turned, bent, mirrored and of changing contrast.
    epochs, repeats
        Epochs at most; rounds through the slices in each.
    batch_size, learning_rate, weight_decay
        Of AdamW.
    cut_after, stop_after
        Epochs without a lower validation loss until the learning rate is halved, and
        until training stops.
    seed
        Of weights, order and everything random.
    """

    network: str
    objective: Literal["reconstruction", "denoising", "synthetic", "none"]
    encoder: str = "none"
    augment: bool = True
    epochs: int = 100
    repeats: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    cut_after: int = 5
    stop_after: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "repeats", "batch_size", "cut_after", "stop_after"):
            if (value := getattr(self, name)) < 1:
                raise _wrong(name, f"{name} of at least 1", str(value))
        if self.encoder != "none" and self.network != "vgg16_autoencoder":
            found = f"another with {self.network}"
            raise _wrong("encoder", '"none": only vgg16_autoencoder has one', found)


def _wrong(subject: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject=subject, expected=expected, found=found, remedy="Correct the recipe."
    )


def read_anomaly_recipe(path: Path) -> AnomalyRecipe:
    """The recipe in a TOML file.

    Raises
    ------
    ConfigError
        It is not TOML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        recipe: AnomalyRecipe = build_table(AnomalyRecipe, tomllib.loads(path.read_text()))
        return recipe
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ConfigError(
            subject=str(path),
            expected="a recipe with network and objective",
            found=str(error),
            remedy="Compare it with training/configs/report_autoencoder.toml.",
        ) from None


class AnomalyRun:
    """A training run on healthy slices.

    Parameters
    ----------
    recipe
        What to train and how.
    train, validation
        Healthy slices, (N, 128, 128) float32 in [0, 1].
    device
        "cpu", "cuda", ...
    folder
        Where checkpoints and the log go; nothing is written without one.
    """

    def __init__(
        self,
        recipe: AnomalyRecipe,
        train: NDArray[np.float32],
        validation: NDArray[np.float32],
        device: str = "cpu",
        folder: Path | None = None,
    ) -> None:
        if not len(train) or not len(validation):
            raise ConfigError(
                subject="slices",
                expected="healthy ones for training and for validation",
                found=f"{len(train)} and {len(validation)}",
                remedy="Give more pictures of healthy heads.",
            )
        self.recipe, self.folder = recipe, folder
        self.device = torch.device(device)
        self.train_images = torch.from_numpy(train)
        self.validation_images = torch.from_numpy(
            # what learns nothing has seen none of them
            np.concatenate([train, validation]) if recipe.objective == "none" else validation
        )
        torch.manual_seed(recipe.seed)
        # a third quicker on a CPU
        self.network = _network(recipe).to(self.device, memory_format=torch.channels_last)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        if bool(trained) == (recipe.objective == "none"):
            expected = '"none" for what has nothing to learn, and for nothing else'
            raise _wrong("objective", expected, f'"{recipe.objective}" for {recipe.network}')
        # an optimiser wants something to optimise
        trained = trained or [nn.Parameter(torch.zeros(1))]
        self.optimiser = torch.optim.AdamW(
            trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            # its patience is the number of epochs that it lets pass
            self.optimiser,
            factor=0.5,
            patience=recipe.cut_after - 1,
            threshold=0.0,
        )
        self.overlap = DiceLoss(sigmoid=True, batch=True)
        self.train_features = self._features(self.train_images)
        self.validation_features = self._features(self.validation_images)
        self.history: list[dict[str, float]] = []
        self.best = copy.deepcopy(self.network.state_dict())
        self.seconds = 0.0
        self.detection: dict[str, float] = {}

    @property
    def best_row(self) -> dict[str, float]:
        """The log's row of the best epoch."""
        return min(self.history, key=lambda row: row["validation_loss"])

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none is needed, or validation has stopped improving."""
        if self.recipe.objective == "none":
            return True
        epoch = len(self.history)
        stale = epoch - self.best_row["epoch"] if self.history else 0
        return epoch >= self.recipe.epochs or stale >= self.recipe.stop_after

    def train(self, minutes: float | None = None) -> AnomalyNetwork:
        """Go on until the run is finished or the time is up.

        Returns
        -------
        network
            Of the best epoch, with the reduction that suits it; its threshold is in
            `detection`.
        """
        stop = math.inf if minutes is None else time.perf_counter() + 60 * minutes
        with tqdm(total=self.recipe.epochs, initial=len(self.history), unit="epoch") as bar:
            while not self.finished and time.perf_counter() < stop:
                row = self._epoch()
                bar.set_postfix(loss=f"{row['loss']:.4f}", validation=f"{self._lowest():.4f}")
                bar.update()
        network = copy.deepcopy(self.network).eval()
        network.load_state_dict(self.best)
        self._set_detection(network)
        return network

    def _set_detection(self, network: AnomalyNetwork) -> None:
        healthy, error_maps = self.validation_images.numpy(), error_maps_of(network)
        network.reduction = choose_reduction(error_maps, healthy, self.recipe.seed)
        scores = scores_by_all(error_maps(healthy))[network.reduction]
        self.detection = {
            "threshold": threshold_from(scores),
            "false_positive_rate": FALSE_POSITIVE_RATE,
        }
        self.best = copy.deepcopy(network.state_dict())
        self._save()

    def _lowest(self) -> float:
        return self.best_row["validation_loss"]

    def _epoch(self) -> dict[str, float]:
        start, epoch = time.perf_counter(), len(self.history)
        rate = self.optimiser.param_groups[0]["lr"]
        random = np.random.default_rng([self.recipe.seed, epoch])
        places = np.concatenate(
            [random.permutation(len(self.train_images)) for _ in range(self.recipe.repeats)]
        )
        self.network.train()
        losses = []
        for first in range(0, len(places), self.recipe.batch_size):
            chosen = places[first : first + self.recipe.batch_size]
            images, features = self.train_images[chosen], self.train_features
            if self.recipe.augment:
                images = augment_slices(images, random)
            loss = self._loss(images, random, None if features is None else features[chosen])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            losses.append(float(loss.detach()))
        validation = self._validate()
        self.seconds += time.perf_counter() - start
        values = (epoch + 1.0, self.seconds, float(np.mean(losses)), validation, rate)
        row = dict(zip(FIELDS, values, strict=True))
        if not self.history or validation < self._lowest():
            self.best = copy.deepcopy(self.network.state_dict())
        self.history.append(row)
        self.schedule.step(validation)
        self._save()
        return row

    def _features(self, images: Tensor) -> Tensor | None:
        """What a frozen encoder makes of slices that are the same in every epoch, (N, 512, 4, 4).

        To ask it again in each would be nine tenths of the work.
        """
        frozen = isinstance(self.network, VGG16Autoencoder) and self.recipe.encoder != "none"
        if not frozen or self.recipe.augment or self.recipe.objective != "reconstruction":
            return None
        with torch.no_grad():
            parts = images[:, None].split(self.recipe.batch_size)
            return torch.cat([self.network.encode(part.to(self.device)) for part in parts])

    def _loss(
        self, images: Tensor, random: np.random.Generator, features: Tensor | None = None
    ) -> Tensor:
        if features is not None:
            return F.l1_loss(self.network.decoder(features)[:, 0], images.to(self.device))
        if self.recipe.objective == "synthetic":
            changed, mask = put_in_anomalies(images, random)
            logits, mask = self._answer(changed), mask.to(self.device)
            entropy = F.binary_cross_entropy_with_logits(logits, mask)
            overlap: Tensor = self.overlap(logits[:, None], mask[:, None])
            return entropy + 0.5 * overlap
        noisy = add_coarse_noise(images, random) if self.recipe.objective == "denoising" else images
        return F.l1_loss(self._answer(noisy)[:, 0], images.to(self.device))

    def _answer(self, images: Tensor) -> Tensor:
        answer: Tensor = self.network(images[:, None].to(self.device))
        return answer

    def _validate(self) -> float:
        """The loss on the validation slices, what is random in it drawn alike every time."""
        self.network.eval()
        draws = 1 if self.recipe.objective == "reconstruction" else VALIDATION_DRAWS
        random = np.random.default_rng([self.recipe.seed, 2**31])
        with torch.inference_mode():
            losses = [
                float(self._loss(self.validation_images, random, self.validation_features))
                for _ in range(draws)
            ]
        return float(np.mean(losses))

    def _save(self) -> None:
        if self.folder is None:
            return
        values = {
            "recipe": dataclasses.asdict(self.recipe),
            "history": self.history,
            "seconds": self.seconds,
            "average": self.best,
            "detection": self.detection,
        }
        write_values(self.folder / "best.pt", values)
        states = {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        write_values(self.folder / "last.pt", values | states)
        with (self.folder / "log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.history)

    def resume(self, path: Path) -> None:
        """Take over the state of a checkpoint of the same recipe.

        Raises
        ------
        ConfigError
            It was made with another recipe, or is no checkpoint.
        """
        values = read_values(path)
        if "schedule" not in values or values["recipe"] != dataclasses.asdict(self.recipe):
            raise ConfigError(
                subject=str(path),
                expected="the last checkpoint of a run of this recipe",
                found="another",
                remedy="Give its own recipe, or start a new run.",
            )
        self.network.load_state_dict(values["network"])
        self.optimiser.load_state_dict(values["optimiser"])
        self.schedule.load_state_dict(values["schedule"])
        self.history, self.seconds, self.best = (
            values["history"],
            values["seconds"],
            values["average"],
        )


def _network(recipe: AnomalyRecipe) -> AnomalyNetwork:
    network: nn.Module = build(recipe.network)
    if not isinstance(network, AnomalyNetwork):
        raise ConfigError(
            subject="network",
            expected="a network for anomalies",
            found=recipe.network,
            remedy="Train it with `python -m training.parcellation.train`.",
        )
    if isinstance(network, VGG16Autoencoder) and recipe.encoder != "none":
        network.features.load_state_dict(read_vgg16_weights(recipe.encoder))
        network.freeze_encoder()
    return network


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.anomaly.train")
    parser.add_argument("recipe", type=Path, help="a TOML file, such as those in training/configs")
    parser.add_argument("--slices", type=Path, required=True, help="folder with `no` and `yes`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--encoder", help='"imagenet", "none" or a file of VGG16\'s weights')
    parser.add_argument("--resume", action="store_true", help="go on from the folder's last.pt")
    parser.add_argument("--minutes", type=float, help="stop cleanly after this time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = read_anomaly_recipe(args.recipe)
    if args.encoder:
        recipe = dataclasses.replace(recipe, encoder=args.encoder)
    slices = read_slices(args.slices)
    # as in `training.anomaly.report`: one of each picture
    places = slices.one_of_each()
    healthy = places[~slices.tumour[places]]
    # the report's 80 to 20
    in_validation = folds_of(healthy, 5, recipe.seed) == 0
    train, validation = healthy[~in_validation], healthy[in_validation]
    images = slices.images
    args.output.mkdir(parents=True, exist_ok=True)
    training = AnomalyRun(recipe, images[train], images[validation], args.device, args.output)
    if args.resume:
        training.resume(args.output / "last.pt")
    network = training.train(args.minutes).cpu()
    if training.history:
        draw_curves(training.history, args.output / "curves.png")
        best = training.best_row
        logger.info("lowest validation loss %.4f, epoch %d", best["validation_loss"], best["epoch"])
    shown = [*validation[:4], *np.flatnonzero(slices.tumour)[:4]]
    draw_examples(network, images[shown], args.output / "examples.png")
    logger.info("score: %s of the error map; %s", network.reduction, training.detection)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.anomaly.train"))
