"""What a page keeps of a model."""

from dataclasses import dataclass

from hornbook.language import msg
from hornbook.page.packing import Precision

DEFAULT_BYTES = 6_000_000


@dataclass(frozen=True)
class Kept:
    """What a page keeps of a model. Losses are in nats per character of the validation text."""

    precision: Precision
    n_grams: int
    all_n_grams: int
    exact_n_grams: bool
    network_only: bool
    mixed_tokens: int = 0
    mixer_left_out: bool = False
    loss: float | None = None
    full_loss: float | None = None
    measured_tokens: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether the page computes what the run's own model does."""
        whole = self.n_grams == self.all_n_grams and self.exact_n_grams
        left_out = self.network_only or self.mixer_left_out
        return self.precision == "float32" and whole and not left_out

    def sentences(self) -> list[str]:
        """What is in the page, a line for each part."""
        found: list[str] = []
        if self.precision != "float32":
            found.append(msg("weights in {precision}", precision=self.precision))
        if self.n_grams:
            number = f"{self.n_grams:,}"
            if self.n_grams < self.all_n_grams:
                number = msg("{kept:,} of {number:,}", kept=self.n_grams, number=self.all_n_grams)
            found.append(
                msg(
                    "{number} n-grams, which are pieces of the training text: --network-only "
                    "leaves them out",
                    number=number,
                )
            )
        if self.mixed_tokens:
            found.append(
                msg(
                    "a mixer, with all {tokens:,} tokens of training text that it counts: "
                    "--network-only leaves them out",
                    tokens=self.mixed_tokens,
                )
            )
        if self.network_only and self.all_n_grams:
            found.append(msg("the network alone, without the n-grams it was trained with"))
        if self.mixer_left_out:
            found.append(msg("without the mixer, which corrects the probabilities in the run"))
        if self.loss is not None and self.full_loss is not None and not self.is_exact:
            found.append(
                msg(
                    "loss {loss:.4f} nats/char, {full:.4f} in the run ({more:+.4f}), over "
                    "{tokens:,} tokens of the validation text",
                    loss=self.loss,
                    full=self.full_loss,
                    more=self.loss - self.full_loss,
                    tokens=self.measured_tokens,
                )
            )
        return found
