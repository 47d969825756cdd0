"""The signed record of who moved a data set's aliases, and why: what they should say, whatever they do say.

    intent (signed)  ->  aliases  ->  the same text as the next entry of the record  ->  intent removed

All are tags of the registered model; an entry names the one before it by its hash, so that none can be put back later.
A move that is killed in between is completed by whoever comes next (`finish`). An alias that says something else
than the record, with no move under way, was moved by hand.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from serving.history import who
from serving.promotion import seen, signature
from serving.promotion.move_record import CHAMPION, ENTRY_NAME, INTENT, KIND, OVERRIDE, PREVIOUS, Move, Record, name_of
from serving.promotion.versions import RegistryError, aliased, client, find
from training.tracking import tracking_uri


def read(dataset: str) -> Record:
    """The record of a data set; an empty one where nothing is registered."""
    from mlflow.exceptions import MlflowException

    tags, created = {}, None
    try:
        model = client().get_registered_model(dataset)
        tags, created = model.tags, model.creation_timestamp
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"the registry cannot be read: {' '.join(str(error).split())[:300]}") from None
    found = ((ENTRY_NAME.fullmatch(name), text) for name, text in tags.items())
    return Record(
        dataset,
        seen.name_of(tracking_uri(), dataset, created),
        {int(match[1]): text for match, text in found if match},
        tags.get(INTENT),
    )


def make(dataset: str, why: str, reason: str, artifact: str, after: dict[str, str | None], past: Move | None) -> None:
    """Sign a move and carry it out.

    Args:
        after: champion and previous -> version, None to have no such alias.
        past: the last move; None takes what the aliases say now for what was before.

    Raises:
        RegistryError: somebody else moved them meanwhile.
    """
    record = read(dataset)
    if why == OVERRIDE:  # the way out, also of a record that went back
        seen.forget(record.model)
    before = past.after if past else {alias: _says(dataset, alias) for alias in after}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    move = Move(dataset, record.next_serial, why, reason, who(), now, artifact, before, after, record.link)
    client().set_registered_model_tag(dataset, INTENT, signature.sign(KIND, asdict(move)))
    finish(dataset)
    if (last := read(dataset).last()) != move:
        raise RegistryError(
            f"{dataset}: somebody else moved its aliases at the same time ({last}); look, then try again"
        )


def finish(dataset: str) -> Move | None:
    """Complete a move that was cut short; the move, None where nothing was under way.

    Raises:
        RegistryError: the intent is not signed by a key of ours, or a version that it names is gone.
    """
    record = read(dataset)
    if record.intent is None:
        _take_note(record)
        return None
    registry = client()
    move = record.last() if record.written() else record.pending()
    if move is not None and not record.written():
        show(move)
        registry.set_registered_model_tag(dataset, name_of(move.serial), record.intent)
    registry.delete_registered_model_tag(dataset, INTENT)
    _take_note(read(dataset))
    return move


def _take_note(record: Record) -> None:
    """Remember the record as it stands, if it is to be believed."""
    with suppress(RegistryError):
        if record.last() is not None:
            seen.remember(record.model, max(record.entries))


def show(move: Move) -> None:
    """Have the aliases say what a move says."""
    registry = client()
    for alias in (PREVIOUS, CHAMPION):  # in this order the champion before is never without a name
        wanted, says = move.after.get(alias), _says(move.dataset, alias)
        if wanted == says:
            continue
        if wanted is None:
            registry.delete_registered_model_alias(move.dataset, alias)
        else:
            registry.set_registered_model_alias(move.dataset, alias, find(move.dataset, wanted).version)


def _says(dataset: str, alias: str) -> str | None:
    version = aliased(dataset, alias)
    return version.version if version else None
