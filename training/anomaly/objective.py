"""The losses by which networks learn from healthy slices alone."""

from __future__ import annotations

import numpy as np
import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.networks.anomaly import AnomalyNetwork
from training.anomaly.synthetic import add_coarse_noise, put_in_anomalies

__all__ = ["AnomalyObjective"]


class AnomalyObjective(nn.Module):
    """A network and the loss that a recipe's `objective` names."""

    def __init__(self, network: AnomalyNetwork, objective: str, device: torch.device) -> None:
        super().__init__()
        self.network, self.objective, self.device = network, objective, device
        self.overlap = DiceLoss(sigmoid=True, batch=True)

    def forward(
        self, images: Tensor, random: np.random.Generator, features: Tensor | None = None
    ) -> Tensor:
        """Return the loss of slices (N, 128, 128) in [0, 1]; `features` spare the encoder."""
        return self.loss(self.network, images, random, features)

    def loss(
        self,
        network: AnomalyNetwork,
        images: Tensor,
        random: np.random.Generator,
        features: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of another network, such as an average of this one."""
        if features is not None:
            return F.l1_loss(network.decode(features)[:, 0], images.to(self.device))
        if self.objective == "synthetic":
            changed, mask = put_in_anomalies(images, random)
            logits, mask = self._output(network, changed), mask.to(self.device)
            entropy = F.binary_cross_entropy_with_logits(logits, mask)
            overlap: Tensor = self.overlap(logits[:, None], mask[:, None])
            return entropy + 0.5 * overlap
        noisy = add_coarse_noise(images, random) if self.objective == "denoising" else images
        return F.l1_loss(self._output(network, noisy)[:, 0], images.to(self.device))

    def _output(self, network: AnomalyNetwork, images: Tensor) -> Tensor:
        output: Tensor = network(images[:, None].to(self.device))
        return output
