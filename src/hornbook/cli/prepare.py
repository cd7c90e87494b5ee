"""`hornbook prepare`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hornbook.cli.console import log, note
from hornbook.cli.terminal import CorpusArguments, Natural, print_json
from hornbook.cli.texts import AS_IT_IS, TextOptions
from hornbook.config import Config
from hornbook.cores import usable
from hornbook.errors import ConfigError, command, display_path
from hornbook.language import msg, tr

if TYPE_CHECKING:
    from hornbook.preparation.work import Outcome

MEGABYTE = 1_000_000


def run(
    *source: CorpusArguments,
    out: Path,
    reading: TextOptions = AS_IT_IS,
    separator: str | None = None,
    tokenizer: str = "bpe",
    vocab_size: Natural = 8192,
    validation: float = 0.01,
    keep_duplicates: Annotated[bool, Parameter(negative="")] = False,
    near: float = 1.0,
    shard: str | None = None,
    shard_mb: Natural = 64,
    workers: Natural = 0,
    json: bool = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
) -> None:
    """Prepare texts larger than memory as a store of tokens, which hornbook train reads.

    Stopped and started again, it goes on where it stopped. Several jobs can share the work.

    Args:
        source: Files, folders or patterns such as 'web/*.jsonl.gz', of text or, with --field, of
            JSON Lines, CSV or Parquet; also compressed. GROUP=SOURCE names a group, for train
            --mix.
        out: The folder of the store.
        separator: What stands between the documents of a file of text, such as '<|endoftext|>'.
            Without one a file is a document, and a long one is cut into passages.
        tokenizer: bpe, byte, or a tokenizer: the file tokenizer.json, or a run's folder.
        vocab_size: Of bpe: how many tokens it learns, from the beginnings of all shards.
        validation: The share of documents that are held out, by their hash.
        keep_duplicates: Keep documents that are there twice; by default each is kept once.
        near: Leave out documents too that have so great a share of their windows of eight tokens
            in common with an earlier one, such as 0.8; estimated (MinHash).
        shard: As I/N: do the I-th of N shares of the work, in an array of jobs that see one folder.
        shard_mb: The size of what makes one shard, in megabytes of text.
        workers: How many processes tokenise. The default is one for each core.
        json: Print one JSON object instead of a summary.
        quiet: Print only the result.
    """
    if not source:
        raise ConfigError(msg("expected a source: files, folders or patterns"))
    if not 0 < validation < 1:
        raise ConfigError(
            msg(
                "--validation {validation:g}: expected a share between 0 and 1",
                validation=validation,
            )
        )
    if not 0 < near <= 1 or (near < 1 and keep_duplicates):
        raise ConfigError(
            msg(
                "--near {near:g}: expected a share above 0, and without --keep-duplicates",
                near=near,
            )
        )
    if not shard_mb:
        raise ConfigError(msg("--shard-mb 0: expected at least 1"))
    job, jobs = share_of(shard)
    usual = Config().override(**reading.given()).data  # checks the values
    if usual.encoding is not None:
        from hornbook.text.decoding import expect_encoding

        expect_encoding(usual.encoding)
    from hornbook.preparation import work
    from hornbook.preparation.documents import Reading

    wanted = work.Wanted(
        sources=list(source),
        reading=Reading(
            usual.encoding, usual.field, usual.newlines, usual.normalize, separator or None
        ),
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        validation_share=validation,
        unit_bytes=shard_mb * MEGABYTE,
        keep_duplicates=keep_duplicates,
        near=near,
    )
    columns = TextColumn(tr("shards")), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), disable=quiet)
    task = bar.add_task("", total=None)
    try:
        with bar:
            outcome = work.prepare(
                wanted,
                out,
                job=job,
                jobs=jobs,
                workers=workers or usable().count,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (KeyboardInterrupt, SystemExit):
        log(msg("stopped; whole shards are kept, and the same command goes on from there"))
        raise
    show(outcome, out, json=json)


def share_of(shard: str | None) -> tuple[int, int]:
    """I and N of "I/N". Raises: ConfigError."""
    if shard is None:
        return 1, 1
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    job, jobs = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= job <= jobs:
        raise ConfigError(
            msg("--shard {shard}: expected I/N with I from 1 to N, such as 1/8", shard=shard)
        )
    return job, jobs


def show(outcome: "Outcome", out: Path, *, json: bool) -> None:
    """What there is now, on stdout."""
    store = outcome.store
    figures = {"store": str(out), "shards": outcome.shards, "written": outcome.written}
    if store is None:
        if json:
            print_json({**figures, "finished": False})
        else:
            waiting = tr(
                "{written:,} of {shards:,} shards are written; the job that writes the last one "
                "finishes the store",
                written=outcome.written,
                shards=outcome.shards,
            )
            sys.stdout.write(f"{waiting}\n")
        return
    made, shown = store.manifest, display_path(out)
    sizes = {
        part: sum(getattr(each, part).tokens for each in made.shards)
        for part in ("train", "validation")
    }
    documents = sum(each.train.documents + each.validation.documents for each in made.shards)
    for each in made.skipped[:3]:
        note(msg("skipped: {reason}", reason=each.reason))
    if len(made.skipped) > 3:
        note(
            msg(
                "skipped {number:,} more files, listed in {store}/store.json",
                number=len(made.skipped) - 3,
                store=shown,
            )
        )
    if json:
        dropped = {
            name: getattr(made.dropped, name)
            for name in ("empty", "exact_duplicates", "near_duplicates")
        }
        facts = {"sha256": store.sha256, "tokens": sizes, "groups": store.groups}
        rest = {"documents": documents, "dropped": dropped, "vocab_size": made.vocab_size}
        print_json({**figures, "finished": True, **facts, **rest})
        return
    lines = [
        tr(
            "{name}: {train:,} tokens for training, {validation:,} for validation, vocabulary of "
            "{vocab_size:,}",
            name=shown,
            train=sizes["train"],
            validation=sizes["validation"],
            vocab_size=made.vocab_size,
        ),
        tr(
            "{documents:,} documents in {shards:,} shards; left out: {exact:,} duplicates, "
            "{near:,} near duplicates, {empty:,} empty",
            documents=documents,
            shards=outcome.shards,
            exact=made.dropped.exact_duplicates,
            near=made.dropped.near_duplicates,
            empty=made.dropped.empty,
        ),
    ]
    if len(store.groups) > 1:
        groups = (f"{name} {tokens:,}" for name, tokens in store.groups.items())
        lines.append(tr("training tokens of each group: {groups}", groups=", ".join(groups)))
    lines.append(tr("train on it with: {command}", command=command("train", out)))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
