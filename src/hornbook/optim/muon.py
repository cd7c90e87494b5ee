"""Muon: momentum, then the nearest semi-orthogonal matrix as the step.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. The arithmetic is that of torch's
own Muon (a test compares them), with all matrices of one shape orthogonalised together, or each by
the C kernel in kernels/muon.c.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hornbook.kernels.training import Matrix, MuonStep, TrainingKernels
from hornbook.parallel import ALONE, Ranks

# The quintic of the post above: its slope at zero is as steep as convergence allows.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
EPSILON = 1e-7


class Muon:
    """Muon over matrices. `dtype` is the precision of the orthogonalisation.

    One after another, the matrices of a small model cost more in calls than in arithmetic: stacked,
    the 14 of a 2-layer 64-wide model take 2.0 ms a step instead of 7.2 (one thread). The C
    `kernels` of that precision take 0.6 ms instead of 1.8, and 6.3 instead of 9.7 at a width of 128
    (two threads). Of several `ranks` each updates its share of the matrices, and sends it to the
    others: orthogonalising all of them takes a fifth of a step of 10 million parameters. A rank has
    the momentum of its own share alone, until `gather`. Sharded matrices, of which a rank has some
    rows, are gathered whole for the rank that orthogonalises them; the momentum stays in rows.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float,
        decay: float,
        dtype: torch.dtype = torch.bfloat16,
        kernels: TrainingKernels | None = None,
    ) -> None:
        self.ranks: Ranks = ALONE
        self.parameters = list(parameters)
        self.state: dict[Tensor, dict[str, Tensor]] = {each: {} for each in self.parameters}
        self.lr, self.momentum, self.decay, self.dtype = lr, momentum, decay, dtype
        self.kernels = kernels

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move every matrix by its orthogonalised momentum, at `scale` times the full rate."""
        moved = [each for each in self.parameters if each.grad is not None]
        if self.ranks.sharded:
            self.move_rows(moved, self.lr * scale)
            return
        mine = self.ranks.mine(moved) if self.ranks.world > 1 else moved
        if self.kernels:
            self.move_by_kernel(mine, self.lr * scale, self.kernels)
        else:
            for places in by_shape(mine):
                self.move([mine[place] for place in places], self.lr * scale)
        if self.ranks.world > 1:
            self.ranks.exchange(moved)

    def gather(self) -> None:
        """Take the momentum of each matrix from the rank that updates it."""
        self.ranks.exchange([self.buffer(each) for each in self.parameters])

    def buffer(self, matrix: Tensor) -> Tensor:
        """A matrix's momentum, zero at first."""
        return self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))

    def move_by_kernel(self, matrices: list[Tensor], lr: float, kernels: TrainingKernels) -> None:
        """One step of matrices whose sides are multiples of 32."""
        step = MuonStep(
            iterations=ITERATIONS, momentum=self.momentum, kept=1 - lr * self.decay,
            epsilon=EPSILON, rate=lr, linear=LINEAR, cubic=CUBIC, quintic=QUINTIC,
        )  # fmt: skip
        gradients = [matrix.grad.contiguous() for matrix in matrices if matrix.grad is not None]
        kernels.move(
            step,
            [
                Matrix(*each.shape, each.data_ptr(), self.buffer(each).data_ptr(), grad.data_ptr())
                for each, grad in zip(matrices, gradients, strict=True)
            ],
        )

    def move(self, matrices: list[Tensor], lr: float) -> None:
        """One step of matrices of one shape, or its transpose."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        buffers = [self.buffer(matrix) for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, buffers, self.momentum)
        steps = orthogonalized([each.to(self.dtype) for each in ahead])
        torch._foreach_mul_(matrices, 1 - lr * self.decay)
        for matrix, step in zip(matrices, steps, strict=True):
            matrix.add_(step, alpha=-lr * scale_of(matrix))

    def move_rows(self, matrices: list[Tensor], lr: float) -> None:
        """One step of sharded matrices: each rank moves its rows of all of them."""
        if not matrices:
            return
        parts = own_parts(matrices)
        gradients = own_parts([matrix.grad for matrix in matrices if matrix.grad is not None])
        buffers = own_parts([self.buffer(matrix) for matrix in matrices])
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        ahead = torch._foreach_lerp(gradients, buffers, self.momentum)
        ahead = [each.to(self.dtype) for each in ahead]
        mine = self.ranks.whole(matrices, ahead)
        steps = list(mine)
        for places in by_shape(mine):
            found = orthogonalized([mine[place] for place in places])
            for place, step in zip(places, found, strict=True):
                steps[place] = step
        torch._foreach_mul_(parts, 1 - lr * self.decay)
        rows = self.ranks.rows(matrices, ahead, steps)
        for matrix, part, step in zip(matrices, parts, rows, strict=True):
            part.add_(step, alpha=-lr * scale_of(matrix))


def own_parts(tensors: Sequence[Tensor]) -> list[Tensor]:
    """This rank's rows of sharded tensors; others themselves."""
    return [each.to_local() if hasattr(each, "to_local") else each for each in tensors]


def by_shape(matrices: Sequence[Tensor]) -> list[list[int]]:
    """The places of the matrices of each shape, or its transpose."""
    found: dict[tuple[int, ...], list[int]] = {}
    for place, matrix in enumerate(matrices):
        found.setdefault(tuple(sorted(matrix.shape)), []).append(place)
    return list(found.values())


def scale_of(matrix: Tensor) -> float:
    """How far a matrix moves for one unit of the learning rate: tall ones further."""
    rows, columns = matrix.shape
    return max(1.0, rows / columns) ** 0.5


def orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalize` for matrices of one shape or its transpose; a tall one is transposed."""
    steps = orthogonalize(torch.stack([wide(each) for each in matrices])).unbind()
    return [
        step.T if matrix.size(0) > matrix.size(1) else step
        for matrix, step in zip(matrices, steps, strict=True)
    ]


def wide(matrix: Tensor) -> Tensor:
    """A matrix with no more rows than columns: itself or its transpose."""
    return matrix.T if matrix.size(0) > matrix.size(1) else matrix


def orthogonalize(matrices: Tensor) -> Tensor:
    """Push all singular values of each matrix towards 1 (into about 0.7 to 1.2).

    Shapes: [N,R,C] -> [N,R,C], R <= C. By Newton-Schulz iteration: matrix products alone.
    """
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC)
        x = torch.baddbmm(x, polynomial, x, beta=LINEAR)
    return x
