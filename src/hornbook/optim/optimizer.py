"""Which parameters each optimizer updates, and the learning rate at each step.

torch's optimizer classes are not used: the first object of one imports torch's compiler, 1.4 s.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from hornbook.config import OptimizerConfig
from hornbook.errors import CheckpointError
from hornbook.kernels.training import TrainingKernels
from hornbook.language import msg
from hornbook.models.language_model import LanguageModel
from hornbook.models.schema import is_matrix
from hornbook.optim.muon import Muon, own_parts
from hornbook.parallel import Ranks

EPSILON = 1e-8
EMBEDDING_RATE = 2


def learning_rate_scale(
    step: int, steps: int, *, warmup_fraction: float, decay_fraction: float
) -> float:
    """The share of the full learning rate at a step: linear warmup, constant, linear decay.

    A pure function of its arguments: 0 < scale <= 1 for 0 <= step < steps.
    Source: the warmup-stable-decay schedule, Hu et al. 2024, arXiv:2404.06395.
    """
    up = (step + 1) / max(1.0, warmup_fraction * steps)
    down = (steps - step) / max(1.0, decay_fraction * steps)
    return min(1.0, up, down)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that Muon updates, by name: every matrix inside a block."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if is_matrix(name, tuple(parameter.shape))
    }


def embeddings(model: nn.Module) -> list[Tensor]:
    """The embedding tables; one tied to the logits is not among them."""
    of_products = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    return [
        part.weight
        for part in model.modules()
        if isinstance(part, nn.Embedding) and id(part.weight) not in of_products
    ]


class AdamW:
    """torch's fused AdamW over some parameters, bit for bit (a test compares them).

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, betas: tuple[float, float], decay: float
    ) -> None:
        self.parameters = list(parameters)
        self.state: dict[Tensor, dict[str, Tensor]] = {each: {} for each in self.parameters}
        self.lr, self.betas, self.decay = lr, betas, decay

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Update every parameter that has a gradient, at `scale` times the full rate."""
        moved = [each for each in self.parameters if each.grad is not None]
        if not moved:
            return
        states = [self.begun(each) for each in moved]
        adamw(
            own_parts(moved),
            own_parts([each.grad for each in moved if each.grad is not None]),
            own_parts([state["exp_avg"] for state in states]),
            own_parts([state["exp_avg_sq"] for state in states]),
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.lr * scale,
            weight_decay=self.decay,
            eps=EPSILON,
            maximize=False,
        )

    def begun(self, parameter: Tensor) -> dict[str, Tensor]:
        """A parameter's state, zero at first."""
        state = self.state[parameter]
        if not state:
            state.update(
                step=torch.zeros((), device=parameter.device),
                exp_avg=torch.zeros_like(parameter),
                exp_avg_sq=torch.zeros_like(parameter),
            )
        return state


class Optimizers:
    """Muon for the blocks' matrices and AdamW for the rest, stepped as one.

    Muon orthogonalises each matrix's momentum in the precision of the run, by the C `kernels` where
    they are given. AdamW updates embeddings, logits and gains; only matrices decay. Beside Muon an
    embedding, of which a batch updates few rows, has EMBEDDING_RATE times the learning rate.
    """

    def __init__(
        self, model: LanguageModel, config: OptimizerConfig, kernels: TrainingKernels | None = None
    ) -> None:
        self.names: dict[Tensor, str] = {
            parameter: name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        rate, decay, betas = config.learning_rate, config.weight_decay, (config.beta1, config.beta2)
        if config.optimizer == "adamw":
            decayed = [parameter for parameter in self.names if parameter.ndim >= 2]
            level = [parameter for parameter in self.names if parameter.ndim < 2]
            self.groups: list[Muon | AdamW] = [
                AdamW(decayed, lr=rate, betas=betas, decay=decay),
                AdamW(level, lr=rate, betas=betas, decay=0.0),
            ]
            return
        by_muon = [each for each in matrices(model).values() if each in self.names]
        tables = [each for each in embeddings(model) if each in self.names]
        taken = {*by_muon, *tables}
        others = [parameter for parameter in self.names if parameter not in taken]
        self.groups = [
            Muon(
                by_muon,
                lr=config.muon_learning_rate,
                momentum=config.momentum,
                decay=decay,
                dtype=model.compute_dtype,
                kernels=kernels,
            ),
            AdamW(tables, lr=EMBEDDING_RATE * rate, betas=betas, decay=0.0),
            AdamW(others, lr=rate, betas=betas, decay=0.0),
        ]

    def step(self, scale: float) -> None:
        """Update every parameter at `scale` times its full learning rate; drop the gradients."""
        for group in self.groups:
            group.step(scale)
        for parameter in self.names:
            parameter.grad = None

    def share(self, ranks: Ranks) -> None:
        """Share the work with other ranks, which have the same parameters and gradients."""
        for group in self.groups:
            if isinstance(group, Muon):
                group.ranks = ranks

    def gather(self) -> None:
        """Complete the state that other ranks hold a share of, once there is any."""
        for group in self.groups:
            if isinstance(group, Muon):
                group.gather()

    def begin(self) -> None:
        """Make all state, to be filled."""
        for group in self.groups:
            for parameter in group.parameters:
                if isinstance(group, Muon):
                    group.buffer(parameter)
                else:
                    group.begun(parameter)

    def forget(self) -> None:
        """Give the memory of all state back, once it is saved and no step will follow."""
        for group in self.groups:
            group.state = {parameter: {} for parameter in group.parameters}

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors ("blocks.0.mlp.up.weight/momentum_buffer"), for saving."""
        return {
            f"{self.names[parameter]}/{key}": value
            for group in self.groups
            for parameter, state in group.state.items()
            for key, value in state.items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave.

        Raises: CheckpointError when a parameter's state is missing or has another shape.
        """
        for group in self.groups:
            for parameter in group.parameters:
                name = self.names[parameter]
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
                        msg(
                            "the optimizer's state does not fit this model: {name} is missing "
                            "or has another shape; was the run's config.toml edited?",
                            name=name,
                        )
                    )
                group.state[parameter].update(state)
