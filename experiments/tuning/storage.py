"""Where studies are kept: SQLite beside the other products, or what TIDEGATE_STUDY_STORAGE names."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from command import UserError

VARIABLE = "TIDEGATE_STUDY_STORAGE"
PACKAGES = {"postgresql+psycopg:": "psycopg[binary]", "redis": "redis"}  # by how a URL begins
BEAT_SECONDS, SILENT_SECONDS = 30, 150  # a worker that has not been heard of for this long is taken for dead
LOCK_SECONDS = 60  # SQLite's own patience, 5 s, is little where several workers write


class StudySettings(BaseSettings):
    """Read from the environment: it says where, never what, so it is no part of params.yaml.

    `study_storage` is a database URL (`postgresql://user@host/name`), `redis://host/0` or `journal:FILE`.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore")

    study_storage: str | None = None


class StudyStorageError(UserError):
    """The storage cannot be opened; names the variable, and no password."""


def url_of(out: Path) -> str:
    """The storage's URL; several workers and machines that read the same one work on the same studies."""
    stated = StudySettings().study_storage
    if stated is None:
        out.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{(out / 'studies.db').resolve()}"
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", stated)


def open_storage(url: str):
    """The Optuna storage behind a URL.

    A database has a heartbeat, by which a trial is known to be dead whose machine is gone. A journal has none: such
    a trial stays marked as running until its own machine goes on with the study.

    Raises:
        StudyStorageError: the address is none, its driver is not installed, or nothing answers there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the heartbeat is marked as experimental
            return _journal(url) if url.startswith(("redis", "journal:")) else _database(url)
    except ImportError:
        package = next((name for scheme, name in PACKAGES.items() if url.startswith(scheme)), "its database's driver")
        raise StudyStorageError(f"{_named(url)} needs a package that is not installed: {package}") from None
    except Exception as error:  # each driver has exceptions of its own
        said = " ".join(str(error.__cause__ or error).split())
        raise StudyStorageError(f"{_named(url)} cannot be opened: {without_password(said)[:200]}") from None


def _journal(url: str):
    from optuna.storages import JournalStorage, journal

    if url.startswith("journal:"):
        return JournalStorage(journal.JournalFileBackend(url.removeprefix("journal:")))
    return JournalStorage(journal.JournalRedisBackend(url))


def _database(url: str):
    try:
        return _tables(url)
    except ImportError:
        raise
    except Exception:  # another process was making the tables: now they are there
        time.sleep(1)
        return _tables(url)


def _tables(url: str):
    from optuna.storages import RDBStorage

    patience = {"connect_args": {"timeout": LOCK_SECONDS}} if url.startswith("sqlite") else {}
    return RDBStorage(
        url,
        engine_kwargs=patience | {"pool_pre_ping": True},
        heartbeat_interval=BEAT_SECONDS,
        grace_period=SILENT_SECONDS,
    )


def _named(url: str) -> str:
    return f"{VARIABLE}: {without_password(url)}"


def without_password(text: str) -> str:
    """A text in which no URL says its password."""
    return re.sub(r"://([^:/@\s]*):[^@\s]*@", r"://\1:***@", text)
