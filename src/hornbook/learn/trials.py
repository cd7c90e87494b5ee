"""Exercises whose answer is a function: how each is tried, and what the likely wrong ones give.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Trial(NamedTuple):
    """For an exercise whose answer is a function: how to test one, and named functions.

    `given` is Python for what the function is called with, to be shown to its author.
    """

    given: str
    run: Callable[[Callable[..., Any]], Any]
    functions: dict[str, Callable[..., Any]]


def windows() -> Trial:
    """batch-4: the inputs and targets of a block of the tokens 100, 101, 102, ..."""
    Cut = Callable[[list[int], int, int], tuple[list[int], list[int]]]
    functions: dict[str, Cut] = {
        "right": lambda tokens, at, size: (tokens[at : at + size], tokens[at + 1 : at + size + 1]),
        "the inputs themselves": lambda tokens, at, size: (tokens[at : at + size],) * 2,
        "one back": lambda tokens, at, size: (
            tokens[at : at + size],
            tokens[at - 1 : at + size - 1],
        ),
        "one short": lambda tokens, at, size: (tokens[at : at + size], tokens[at + 1 : at + size]),
        "one too many": lambda tokens, at, size: (
            tokens[at : at + size + 1],
            tokens[at + 1 : at + size + 1],
        ),
    }

    def run(window: Cut) -> Any:
        return window(list(range(100, 120)), 5, 4)

    return Trial("tokens = list(range(100, 120)), start = 5, block_size = 4", run, functions)


def causal_means() -> Trial:
    """trick-3: the mean of the past, [T,C] -> [T,C], of rows with distinct means."""
    import torch

    x_TC = torch.tensor([[1.0, 8.0], [4.0, 2.0], [10.0, 5.0], [3.0, 7.0]])
    past_TT = torch.ones(4, 4).tril()
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "right": lambda x_TC: past_TT / past_TT.sum(dim=1, keepdim=True) @ x_TC,
        "sum": lambda x_TC: past_TT @ x_TC,
        "whole": lambda x_TC: torch.full((4, 4), 0.25) @ x_TC,
        "future": lambda x_TC: past_TT.T / past_TT.T.sum(dim=1, keepdim=True) @ x_TC,
        "columns": lambda x_TC: past_TT / past_TT.sum(dim=0) @ x_TC,
    }

    def run(causal_mean: Callable[[Tensor], Tensor]) -> Any:
        return causal_mean(x_TC)

    return Trial("x = torch.tensor([[1.0, 8], [4, 2], [10, 5], [3, 7]])", run, functions)


def heads() -> Trial:
    """attention-4: one causal head on random numbers, three of [T,D] -> [T,D]."""
    import torch

    T, D = 5, 4
    rows = torch.randn(3, T, D, generator=torch.Generator().manual_seed(0))
    past_TT = torch.ones(T, T).tril()

    def hide(scores_TT: Tensor, by: float = float("-inf")) -> Tensor:
        return scores_TT.masked_fill(past_TT == 0, by)

    def attend(scores_TT: Tensor, v_TD: Tensor) -> Tensor:
        return scores_TT.softmax(dim=-1) @ v_TD

    functions: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "right": lambda q, k, v: attend(hide(q @ k.T / D**0.5), v),
        "no scale": lambda q, k, v: attend(hide(q @ k.T), v),
        "scale by the size": lambda q, k, v: attend(hide(q @ k.T / D), v),
        "scale by the length": lambda q, k, v: attend(hide(q @ k.T / T**0.5), v),
        "no mask": lambda q, k, v: attend(q @ k.T / D**0.5, v),
        "mask after": lambda q, k, v: past_TT * (q @ k.T / D**0.5).softmax(dim=-1) @ v,
        "mask with zero": lambda q, k, v: attend(hide(q @ k.T / D**0.5, by=0.0), v),
        "wrong axis": lambda q, k, v: hide(q @ k.T / D**0.5).softmax(dim=-2) @ v,
        "roles swapped": lambda q, k, v: attend(hide(k @ q.T / D**0.5), v),
        "no softmax": lambda q, k, v: past_TT * (q @ k.T / D**0.5) @ v,
    }

    def run(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
        return function(*rows)

    return Trial("q, k, v = torch.randn(3, 5, 4)", run, functions)


def blocks() -> Trial:
    """block-4: a pre-norm block of one number and three functions that do not commute."""
    Step = Callable[[float], float]
    Kind = Callable[[float, Step, Step, Step], float]

    functions: dict[str, Kind] = {
        "right": lambda x, norm, attention, mlp: (y := x + attention(norm(x))) + mlp(norm(y)),
        "no path": lambda x, norm, attention, mlp: mlp(norm(attention(norm(x)))),
        "no second path": lambda x, norm, attention, mlp: mlp(norm(x + attention(norm(x)))),
        "no first path": lambda x, norm, attention, mlp: (y := attention(norm(x))) + mlp(norm(y)),
        "post-norm": lambda x, norm, attention, mlp: norm((y := norm(x + attention(x))) + mlp(y)),
        "old input": lambda x, norm, attention, mlp: x + attention(norm(x)) + mlp(norm(x)),
        "old sum": lambda x, norm, attention, mlp: x + mlp(norm(x + attention(norm(x)))),
        "no norm": lambda x, _, attention, mlp: (y := x + attention(x)) + mlp(y),
        "norm on the path": lambda x, norm, attention, mlp: (
            norm(y := norm(x) + attention(norm(x))) + mlp(norm(y))
        ),
    }

    def run(block: Kind) -> Any:
        return block(4.0, lambda x: x / 2, lambda x: x + 1, lambda x: 3 * x)

    return Trial("x = 4.0, norm(x) = x / 2, attention(x) = x + 1, mlp(x) = 3 * x", run, functions)


TRIALS: dict[str, Callable[[], Trial]] = {
    "batch-4": windows,
    "trick-3": causal_means,
    "attention-4": heads,
    "block-4": blocks,
}
