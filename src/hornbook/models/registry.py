"""From settings to a model: the network of a spec, n-grams, or both joined."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hornbook.config import ModelConfig
from hornbook.errors import ConfigError
from hornbook.kernels.ngrams import ngram_kernels
from hornbook.language import msg
from hornbook.models.context_counts import ContextCounts
from hornbook.models.language_model import LanguageModel
from hornbook.models.lora import adapt
from hornbook.models.mixture import GPTWithCounts
from hornbook.models.ngram import NGramLanguageModel
from hornbook.models.stack import StackModel
from hornbook.ngram.model import NGramModel


def build(config: ModelConfig, vocab_size: int, counted: NGramModel | None = None) -> LanguageModel:
    """The model that `config` describes, freshly initialised from torch's global generator.

    Raises: ConfigError when it needs n-grams and none are given.
    """
    network = config.spec.network(config, vocab_size) if config.spec.network else None
    if config.lora_rank is not None:
        if not isinstance(network, StackModel):
            raise ConfigError(
                msg("lora_rank is for a gpt or a gpt2, and model = {model!r}", model=config.model)
            )
        adapt(network, config.lora_rank)
    if network and not config.with_counts:
        return network
    if counted is None:
        raise ConfigError(
            msg("a {kind} model needs n-grams: give build() an NGramModel", kind=config.kind)
        )
    ngrams = NGramLanguageModel(counted, config.context_size)
    return GPTWithCounts(network, ngrams) if network else ngrams


def use_ngram_kernels(model: torch.nn.Module) -> None:
    """Have every part of a model that reads n-grams use the C kernels, where it is on a CPU.

    Raises: NativeUnavailableError.
    """
    for part in model.modules():
        if isinstance(part, NGramLanguageModel | ContextCounts):
            part.kernels = ngram_kernels()


def counted_on_meta(network: Callable[[ModelConfig, int], LanguageModel]) -> Callable[..., int]:
    """A function that counts a network's parameters without allocating them."""

    def parameters(config: ModelConfig, vocab_size: int) -> int:
        with torch.device("meta"), _Uninitialized():
            return network(config, vocab_size).parameter_count

    return parameters


def meta_model(
    config: ModelConfig, vocab_size: int, counted: NGramModel | None = None
) -> LanguageModel:
    """The same model on the device "meta": names and shapes, and no numbers.

    Raises: as `build`; RuntimeError for more elements than 64 bits can count.
    """
    with torch.device("meta"), _Uninitialized():
        return build(config, vocab_size, counted)


class _Uninitialized(TorchFunctionMode):
    """Skips initialisation, which on the device "meta" imports torch's compiler: 1.4 s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
