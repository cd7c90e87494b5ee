"""What a page keeps of a model."""

from dataclasses import dataclass

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
        found = []
        if self.precision != "float32":
            found.append(f"weights in {self.precision}")
        if self.n_grams:
            pruned = f" of {self.all_n_grams:,}" if self.n_grams < self.all_n_grams else ""
            found.append(
                f"{self.n_grams:,}{pruned} n-grams, which are pieces of the training text: "
                "--network-only leaves them out"
            )
        if self.mixed_tokens:
            found.append(
                f"a mixer, with all {self.mixed_tokens:,} tokens of training text that it counts: "
                "--network-only leaves them out"
            )
        if self.network_only and self.all_n_grams:
            found.append("the network alone, without the n-grams it was trained with")
        if self.mixer_left_out:
            found.append("without the mixer, which corrects the probabilities in the run")
        if self.loss is not None and self.full_loss is not None and not self.is_exact:
            found.append(
                f"loss {self.loss:.4f} nats/char, {self.full_loss:.4f} in the run "
                f"({self.loss - self.full_loss:+.4f}), over {self.measured_tokens:,} tokens of the "
                "validation text"
            )
        return found
