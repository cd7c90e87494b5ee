"""The loop around the steps: evaluation, samples, checkpoints, pace and early stopping."""

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from hornbook.config import Config
from hornbook.errors import DataError, NonFiniteLossError
from hornbook.eval.diagnosis import curve, evaluations_since_best
from hornbook.eval.loss import estimate
from hornbook.infer.sample import Sample, generate_sample
from hornbook.kernels.runtime import give_back_freed_memory
from hornbook.storage.disk import DISK, Disk
from hornbook.training.mixing import learn_mixer, make_room, stop_reading
from hornbook.training.resumption import resume
from hornbook.training.state import StepMetrics, finish_saves, record, save_if_best, save_last
from hornbook.training.step import train_step
from hornbook.training.trainer import Trainer, begin, begin_again


def train(
    config: Config | None = None,
    *,
    out: str | Path | None = None,
    resume_from: str | Path | None = None,
    disk: Disk = DISK,
) -> Generator[StepMetrics, None, None]:
    """Train a model, or resume training one: a generator of step metrics.

    `out` names the run folder (``runs/<corpus>-<n>`` unless given), for `hornbook.load`.
    Raises: ConfigError, DataError, CheckpointError, NonFiniteLossError.
    """
    trainer = resume(resume_from, disk=disk) if resume_from else begin(config, out=out, disk=disk)
    yield from steps(trainer)


def steps(trainer: Trainer) -> Generator[StepMetrics, None, None]:
    """Train to the end, yielding each step's metrics.

    Validation loss and a sample come every `eval_interval` steps and at the end, a checkpoint
    every `checkpoint_interval`. However the loop is left (a break, Ctrl-C, an error of the
    caller's) the state is saved, and `resume` continues with the very next step. A run that saves
    in the background (`async_save`) waits here for the end of it.
    Raises: NonFiniteLossError; CheckpointError when the disk refuses, before the next step where
    the run saves in the background; RankError, saving nothing more, because the others may hold a
    part of the state.
    """
    with trainer.lock, trainer.ranks.signals_noted(), trainer.saves:
        intervals, state = trainer.config.train, trainer.state
        # A resumed run's state is saved already, and at step 0 there is nothing to save.
        saved = state.step
        try:
            make_room(trainer)
            while state.unfinished or not ended(trainer):
                trainer.saves.check()
                metrics = state.unfinished or next_step(trainer)
                if keep_pace(trainer, metrics):
                    intervals, state = trainer.config.train, trainer.state
                    continue
                finished = trainer.pace.clock() if trainer.pace else 0.0
                ends = trainer.pace.ends if trainer.pace else ()
                at_end = state.step >= state.steps or state.step in ends
                if at_end or state.step % intervals.eval_interval == 0:
                    trainer.ranks.tell("evaluate")
                    val_loss = validation_loss(trainer)
                    made = sample_of(trainer)
                    give_back_freed_memory(state.model.parameter_count)
                    metrics = replace(
                        metrics, val_loss=val_loss, sample=made.text, prompt=made.prompt
                    )
                    save_if_best(trainer, val_loss)
                record(trainer, metrics)
                if at_end or state.step % intervals.checkpoint_interval == 0:
                    save_last(trainer)
                    saved = state.step
                if trainer.pace and metrics.val_loss is not None:
                    trainer.pace.evaluation_seconds = trainer.pace.clock() - finished
                yield metrics
            if state.step != saved:
                save_last(trainer)
                saved = state.step
            finish_saves(trainer)
            learn_mixer(trainer)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, NonFiniteLossError):
            if state.step != saved:
                save_last(trainer)
            finish_saves(trainer)
            raise
        except DataError:  # a damaged shard; of several ranks the others wait inside the step
            if trainer.ranks.world == 1:
                if state.step != saved:
                    save_last(trainer)
                finish_saves(trainer)
            raise
        finally:
            stop_reading(trainer)


def next_step(trainer: Trainer) -> StepMetrics:
    """The next step, by all ranks; before it is the place for a signal."""
    trainer.ranks.heed()
    trainer.ranks.tell("step", steps=trainer.state.steps)
    with trainer.ranks.passing():
        return train_step(trainer)


def validation_loss(trainer: Trainer) -> float:
    """Over the same blocks each time: it decides which weights are the best."""
    with trainer.ranks.passing():
        return estimate(
            trainer.sharded or trainer.state.model,
            trainer.dataset.validation,
            block_size=trainer.config.model.context_size,
            max_positions=trainer.config.train.eval_positions,
            answers=trainer.dataset.validation_answers,
            ranks=trainer.ranks,
        )


def ended(trainer: Trainer) -> bool:
    """Whether all steps are taken, or the last `patience` evaluations brought no improvement."""
    train, state = trainer.config.train, trainer.state
    if state.step >= state.steps or not train.patience or state.step % train.eval_interval:
        return state.step >= state.steps
    return evaluations_since_best(curve(trainer.folder.metrics_rows())) >= train.patience


def keep_pace(trainer: Trainer, metrics: StepMetrics) -> bool:
    """Plan more steps or fewer, where the run has a time to end at.

    Returns whether the plan was so far off that training begins again with another.
    """
    pace, state, train = trainer.pace, trainer.state, trainer.config.train
    if pace is None:
        return False
    pace.took(trainer.tokens_per_step / metrics.tokens_per_second)
    state.steps = max(1, pace.steps(state.step, state.steps, train.eval_interval))
    nothing_saved = state.step < min(train.eval_interval, train.checkpoint_interval)
    # Once anything is saved, the run keeps its model.
    if trainer.plan is None or trainer.judged or not nothing_saved:
        return False
    return pace.far_off(state.steps, trainer.plan.config.train.steps) and begin_again(trainer)


def sample_of(trainer: Trainer) -> Sample:
    """A short sample of the present model; the training's random stream is not disturbed."""
    model = trainer.state.model
    if trainer.sharded:
        from hornbook.training.sharded import whole_model

        trainer.ranks.tell("whole")
        model = whole_model(trainer) or model
    return generate_sample(
        model,
        trainer.dataset,
        max_new_tokens=trainer.config.train.sample_tokens,
        seed=trainer.config.train.seed,
    )
