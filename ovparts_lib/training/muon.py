"""Muon: momentum whose update is made orthogonal, for the weight matrices inside transformers.

Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024 (quintic Newton-Schulz
iteration and its coefficients). Tables, biases, norms and the layers next to input and output belong to AdamW.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# torch.optim.Muon is not used: it computes the iteration in bfloat16, and so gives other weights than were shipped.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """A matrix with the singular vectors of ``matrix`` (r, c) and singular values of about 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; every parameter must be a matrix.

    Args:
        parameters: matrices (or parameter groups of them).
        lr: step size, the same for every matrix: updates have singular values of about 1.
        momentum: of the running mean of gradients.
        weight_decay: decoupled, times ``lr``.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(mean, group["momentum"]))
                stretch = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * stretch)
