"""What-ifs: a model with some of its parts switched off, by forward hooks, for a while."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import index

import torch
from torch import Tensor, nn

from hornbook.errors import ConfigError
from hornbook.language import msg
from hornbook.lens.anatomy import Anatomy, zeros
from hornbook.lens.registry import anatomy_of, unmixed
from hornbook.models.language_model import LanguageModel
from hornbook.models.mixing import Mixing
from hornbook.models.mixture import GPTWithCounts


@contextmanager
def without(
    model: LanguageModel,
    *,
    heads: Sequence[tuple[int, int]] = (),
    mlps: Sequence[int] = (),
    network: bool = False,
    ngrams: bool = False,
    cache: bool = False,
    gate: bool = False,
    mixer: bool = False,
) -> Iterator[None]:
    """Inside, parts of a model are off: it predicts, is evaluated and generates without them.

    `heads` are (layer, head) and `mlps` layers: what they add to the residual stream is zero.
    Without `network` the n-grams predict alone, and without `ngrams`, which takes the context cache
    with it, the network. Without `cache` nothing counts as repeated in the context, and without
    `gate` the n-grams weigh 1 everywhere. Without `mixer` nothing corrects these probabilities.
    Engines opened before are not changed.
    Raises: ConfigError for a part that the model does not have, or if nothing is left.
    """
    anatomy = anatomy_of(model)
    if mixer and not isinstance(model, Mixing):
        raise ConfigError(msg("without mixer: this model has none"))
    whole, model = model, unmixed(model)
    check(model, anatomy, network=network, ngrams=ngrams, cache=cache, gate=gate)
    layers = anatomy.mlps()
    heads = [(at(layer, anatomy.n_layer, msg("layer")), head) for layer, head in heads]
    heads = [(layer, at(head, anatomy.n_head, msg("head"))) for layer, head in heads]
    mlps = [at(layer, len(layers), msg("MLP")) for layer in mlps]
    with ExitStack() as hooks:
        for layer, head in heads:
            hooks.enter_context(anatomy.without_head(layer, head))
        for layer in mlps:
            hooks.enter_context(layers[layer].register_forward_hook(zeros))
        if isinstance(model, GPTWithCounts):
            if network:
                hooks.enter_context(model.network.logits.register_forward_hook(zeros))
            if cache:
                hooks.enter_context(model.recent.register_forward_hook(nothing_repeated))
            if gate:
                hooks.enter_context(model.trust.register_forward_hook(ones))
            if ngrams:  # after `gate`: a weight of zero
                hooks.enter_context(model.trust.register_forward_hook(zeros))
        if isinstance(whole, Mixing) and mixer:
            before, whole.mixer_is_off = whole.mixer_is_off, True
            hooks.callback(setattr, whole, "mixer_is_off", before)
        yield


def check(model: LanguageModel, anatomy: Anatomy, **off: bool) -> None:
    """Check that a model has the parts that are to be off, and something besides.

    Raises: ConfigError.
    """
    named = [name for name, chosen in off.items() if chosen]
    if named and not isinstance(model, GPTWithCounts):
        what = msg("a network alone") if anatomy.parts() else msg("nothing but n-grams")
        raise ConfigError(
            msg(
                "without {part}: only a network joined with n-grams has parts to leave out, and "
                "this model is {what}",
                part=named[0],
                what=what,
            )
        )
    if off["network"] and off["ngrams"]:
        raise ConfigError(msg("without network and ngrams: nothing would be left to predict"))


def at(place: int, count: int, what: str) -> int:
    """The number of a part. Raises: ConfigError for one that is not there."""
    if not 0 <= index(place) < count:
        there = msg("the model has no {what}", what=what)
        if count:
            there = msg("the model has {what}s 0 to {last}", what=what, last=count - 1)
        raise ConfigError(
            msg("without {what} {place}: {there}", what=what, place=place, there=there)
        )
    return index(place)


def ones(_part: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """A forward hook that makes a result one."""
    return torch.ones_like(output)


def nothing_repeated(
    _part: nn.Module, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """A forward hook of the context cache: the n-grams as they came, and no n-gram repeated."""
    return inputs[1], torch.zeros_like(output[1])
