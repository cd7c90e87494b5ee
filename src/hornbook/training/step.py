"""One training step, in one piece: batches, loss, gradients, update."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor, nn

from hornbook.errors import NonFiniteLossError, command
from hornbook.kernels.runtime import deterministic, signals_held
from hornbook.language import msg
from hornbook.models.language_model import NO_TARGET, Batch
from hornbook.optim.optimizer import learning_rate_scale
from hornbook.text.batches import draw_blocks, stored_blocks
from hornbook.training.state import StepMetrics
from hornbook.training.trainer import Trainer


def train_step(trainer: Trainer) -> StepMetrics:
    """One update from one batch (several, when gradients accumulate).

    Several ranks call it together; each reads its share of every batch, and all update alike.
    The state is not touched before the update, and the update runs with signals held back: whenever
    an interrupt arrives, the state is that of a whole number of steps.
    Raises: NonFiniteLossError before the update.
    """
    started = time.perf_counter()
    state, config = trainer.state, trainer.config
    model, n_micro = trainer.sharded or state.model, config.train.gradient_accumulation
    scale = learning_rate_scale(
        state.step,
        state.steps,
        warmup_fraction=config.optimizer.warmup_fraction,
        decay_fraction=config.optimizer.decay_fraction,
    )
    model.train()
    model.zero_grad(set_to_none=True)
    losses: list[Tensor] = []
    with training_stream(trainer) as keep_stream, deterministic(config.train.deterministic):
        for micro in range(n_micro):
            read = read_batch(trainer, state.step * n_micro + micro)
            share = len(read.targets) / config.train.batch_size
            if not share:  # fewer blocks than ranks
                losses.append(torch.zeros((), device=model.device))
                continue
            loss = model.training_loss(read) * share
            if loss.requires_grad:  # an n-gram model alone has nothing to train
                (loss / n_micro).backward()
            losses.append(loss.detach())
        clip = config.optimizer.gradient_clip
        parameters = list(model.parameters())
        found = torch.stack(losses)
        if trainer.ranks.world > 1:
            found = trainer.ranks.average(parameters, found)
        norm = 0.0
        if trainer.ranks.sharded:
            norm = trainer.ranks.clip(parameters, clip or math.inf)
        elif parameters:
            norm = nn.utils.clip_grad_norm_(parameters, clip or math.inf)
        loss_nats, gradient_norm = (found.sum() / n_micro).item(), float(norm)
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            raise broken_step(trainer, found.tolist(), gradient_norm)
        with signals_held():
            state.optimizers.step(scale)
            state.step += 1
            keep_stream()
            seconds = time.perf_counter() - started
            state.seconds += seconds
            metrics = state.unfinished = StepMetrics(
                step=state.step,
                tokens=state.step * trainer.tokens_per_step,
                seconds=round(state.seconds, 4),
                train_loss=loss_nats,
                learning_rate_scale=scale,
                gradient_norm=gradient_norm,
                tokens_per_second=trainer.tokens_per_step / seconds,
                steps=state.steps,
            )
    return metrics


def read_batch(trainer: Trainer, index: int) -> Batch:
    """The rank's share of the index-th batch on its device, with n-grams where the model has them.

    N-grams are cross-fitted, and also read `trainer.context_before` tokens before each block. Of
    conversations only the answers are targets.
    """
    train, device = trainer.config.train, trainer.machine.device.value
    before, block_size = trainer.context_before, trainer.config.model.block_size
    share = {"rank": trainer.ranks.rank, "world": trainer.ranks.world}
    if trainer.drawing is not None:
        blocks = stored_blocks(trainer.drawing, index, batch_size=train.batch_size, **share)
    else:
        blocks = draw_blocks(
            trainer.tokens,
            index,
            batch_size=train.batch_size,
            block_size=before + block_size,
            seed=train.seed,
            places=trainer.places,
            **share,
        )
    targets = blocks.targets[:, before:]
    if trainer.dataset.answers is not None:
        at = blocks.starts[:, None] + before + 1 + np.arange(block_size)
        learned = torch.from_numpy(trainer.dataset.answers[0][at])
        targets = targets.where(learned, NO_TARGET)
    probs = None
    if trainer.cross_fit:
        found = trainer.cross_fit.lookup(blocks.inputs, blocks.starts + before, block_size)
        probs = found._replace(
            probabilities=found.probabilities.to(device), backoff=found.backoff.to(device)
        )
    return Batch(blocks.inputs.to(device), targets.to(device), probs)


def broken_step(trainer: Trainer, losses: list[float], norm: float) -> NonFiniteLossError:
    """The error of a step whose loss or gradient is NaN or infinite: where, and what to do.

    `losses` are those of each rank's batches, one rank after the other.
    """
    step, ranks = trainer.state.step, trainer.ranks
    n_micro = trainer.config.train.gradient_accumulation
    first = step * n_micro
    bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    at = None
    if bad is not None:
        at = bad // n_micro
        where = msg(
            "batch {number}: the loss is {loss}", number=first + bad % n_micro, loss=losses[bad]
        )
    else:
        at = next(iter(ranks.broken), None)
        where = msg("batch {first}: the gradient norm is {norm}", first=first, norm=norm)
        if n_micro > 1:
            last = first + n_micro - 1
            where = msg(
                "batch {first} to {last}: the gradient norm is {norm}",
                first=first,
                last=last,
                norm=norm,
            )
    if ranks.world > 1 and at is not None:
        where = msg("rank {rank}, {where}", rank=at, where=where)
    return NonFiniteLossError(
        msg(
            "step {step}, {where}; nothing was updated, and the last good state is kept. "
            "{command} meets it again. Try a lower learning_rate and muon_learning_rate, "
            "or precision = 'float32'",
            step=step + 1,
            where=where,
            command=command("train", "--resume", trainer.folder.path),
        )
    )


@contextmanager
def training_stream(trainer: Trainer) -> Iterator[Callable[[], None]]:
    """Inside, torch draws from the training's own random stream; the caller's is left as it was.

    Each of several ranks has a stream of its own, a function of seed, step and rank: a dropout mask
    that two ranks share would be one for two blocks.

    Yields a function that makes the stream's present position the start of the next step.
    """
    state, on_gpu = trainer.state, trainer.machine.device.value == "cuda"

    def keep() -> None:
        state.random_state = torch.get_rng_state()
        if on_gpu:
            state.cuda_random_state = torch.cuda.get_rng_state()

    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
        torch.set_rng_state(state.random_state)
        if trainer.ranks.world > 1:
            own = f"{trainer.config.train.seed}/{state.step}/{trainer.ranks.rank}"
            # It seeds a GPU's stream too.
            torch.manual_seed(int.from_bytes(sha256(own.encode()).digest()[:7]))
            yield lambda: None
            return
        if on_gpu and state.cuda_random_state is not None:
            torch.cuda.set_rng_state(state.cuda_random_state)
        elif on_gpu:
            torch.cuda.manual_seed(trainer.config.train.seed)
        yield keep
