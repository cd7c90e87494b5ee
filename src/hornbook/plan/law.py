"""The scaling law: the loss that a model of some size reaches on some tokens, and what fits it.

Constants are fitted to the runs under "Which size for which time" in docs/experiments.md.
"""

import math
from dataclasses import dataclass

SIZE_POWER = 0.7
# The most epochs that repeated tokens are worth, which models small for their text reach.
MOST_EPOCHS_WORTH = 15


@dataclass(frozen=True)
class Law:
    """The constants that `predicted_loss` reads."""

    floor: float
    size_term: float
    text_term: float
    text_power: float
    steps_half_worth: float
    epochs_worth: float  # times the text's tokens per parameter


NETWORK_LAW = Law(1.209, 0.0426, 0.2258, 0.355, 368, 4.7)
# Beside n-grams a network learns what they leave, and its size matters little.
LAW_WITH_COUNTS = Law(1.300, 0.0041, 0.028, 0.497, 611, math.inf)


def predicted_loss(
    parameters: int, tokens: int, steps: int, unique_tokens: int, *, with_counts: bool = False
) -> float:
    """Loss in nats per character at the end of training: a guide for choosing, not a promise.

    Few large steps teach less than many small ones on the same tokens (the form is McCandlish
    et al. 2018's, arXiv:1812.06162). A repeated token teaches less than a new one, a share of 1/e
    after a number of epochs (Muennighoff et al. 2023, arXiv:2305.16264) that falls with the share
    of the text that the model could hold. The rest is Hoffmann et al. 2022's law, arXiv:2203.15556.
    """
    law = LAW_WITH_COUNTS if with_counts else NETWORK_LAW
    repeated_epochs = max(0.0, tokens / unique_tokens - 1)
    epochs_worth = min(MOST_EPOCHS_WORTH, law.epochs_worth * unique_tokens / parameters)
    repeated = epochs_worth * (1 - math.exp(-repeated_epochs / epochs_worth))
    fresh = min(tokens, unique_tokens) + unique_tokens * repeated
    worth = fresh / (1 + law.steps_half_worth / steps)
    return (
        law.floor
        + law.size_term * (1e6 / parameters) ** SIZE_POWER
        + law.text_term * (1e6 / worth) ** law.text_power
    )


def dropout(parameters: int, tokens: int, unique_tokens: int) -> float:
    """The dropout for epochs times parameters per token of the text.

    Measured (docs/experiments.md): at 9, dropout 0.1 costs 0.05 nats, at 10 on another text 0.01;
    at 13 it gains 0.08; at 25, 0.2 gains another 0.03.
    """
    epochs_times_size = parameters * tokens / unique_tokens**2
    return 0.0 if epochs_times_size < 12 else 0.1 if epochs_times_size < 20 else 0.2


def weight_decay(usual: float, tokens: int, unique_tokens: int) -> float:
    """The weight decay for a number of epochs.

    Measured (docs/experiments.md): at 1.4 epochs, 0.03 gains 0.005 nats on 0.1; at 8, 0.1 gains
    0.014 on 0.03.
    """
    return usual if tokens < 4 * unique_tokens else 0.1
