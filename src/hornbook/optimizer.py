"""How weights move: which parameters, by which rule, how far at each step."""

import torch
from torch import Tensor, nn

from hornbook.config import OptimizerConfig
from hornbook.errors import CheckpointError
from hornbook.models import LanguageModel
from hornbook.muon import Muon


def learning_rate_scale(
    step: int, steps: int, *, warmup_fraction: float, decay_fraction: float
) -> float:
    """The share of the full learning rate at a step: up in a line, level, down in a line.

    A pure function of its arguments: 0 < scale <= 1 for 0 <= step < steps, and the last step is
    still a step.
    Source: the warmup-stable-decay schedule, Hu et al. 2024, arXiv:2404.06395.
    """
    up = (step + 1) / max(1.0, warmup_fraction * steps)
    down = (steps - step) / max(1.0, decay_fraction * steps)
    return min(1.0, up, down)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The parameters Muon takes: every matrix inside a block."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and name.removeprefix("network.").startswith("blocks.")
    }


class Optimizers:
    """Muon for the blocks' matrices and AdamW for the rest, stepped as one.

    Muon orthogonalises each matrix's momentum, in the precision of the run. Tables of embeddings
    and logits, and gains, are AdamW's, and only matrices decay.
    """

    def __init__(self, model: LanguageModel, config: OptimizerConfig) -> None:
        self.config = config
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.parts: list[torch.optim.Optimizer] = []
        by_muon = matrices(model) if config.optimizer == "muon" else {}
        if by_muon:
            self.parts.append(
                Muon(
                    by_muon.values(),
                    lr=config.muon_learning_rate,
                    momentum=config.momentum,
                    weight_decay=config.weight_decay,
                    dtype=model.compute_dtype,
                )
            )
        rest = [p for name, p in model.named_parameters() if name not in by_muon]
        decayed = [p for p in rest if p.ndim >= 2 and config.optimizer == "adamw"]
        level = [p for p in rest if not any(p is other for other in decayed)]
        groups = [(decayed, config.weight_decay), (level, 0.0)]
        if rest:  # counting alone has none
            self.parts.append(
                torch.optim.AdamW(
                    [
                        {"params": members, "weight_decay": decay}
                        for members, decay in groups
                        if members
                    ],
                    lr=config.learning_rate,
                    betas=(config.beta1, config.beta2),
                    fused=True,
                )
            )
        self.full_rates = [[group["lr"] for group in part.param_groups] for part in self.parts]

    def step(self, scale: float) -> None:
        """Move every parameter at `scale` times its full learning rate, and drop the gradients."""
        for part, rates in zip(self.parts, self.full_rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors ("blocks.0.mlp.up.weight/momentum_buffer"), for saving."""
        return {
            f"{self.names[id(parameter)]}/{key}": value
            for part in self.parts
            for parameter, state in part.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave.

        Raises: CheckpointError when a parameter's state is missing or has another shape.
        """
        for part in self.parts:
            for parameter in (p for group in part.param_groups for p in group["params"]):
                name = self.names[id(parameter)]
                prefix = f"{name}/"
                state = {
                    key.removeprefix(prefix): value.to(parameter.device).clone()
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                if not state or any(
                    (value.ndim and value.shape != parameter.shape) or not value.is_floating_point()
                    for value in state.values()
                ):
                    raise CheckpointError(
                        f"the optimizer's state does not fit this model: {name} is missing or has "
                        "another shape; was the run's config.toml edited?"
                    )
                part.state[parameter].update(state)
