"""Hide passwords, tokens and keys in text that is logged, raised or stored.

Hidden are: what stands before the @ of a URL, except a user name that a password follows; values of parameters such as
password=, sslpassword=, token= or X-Amz-Signature=, also percent-encoded; API keys, AWS key ids and private keys; and the
secrets that this process's environment holds, however a driver quotes them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from functools import lru_cache, partial
from types import TracebackType
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
MIN_LENGTH = 6  # of a known secret: a shorter one would also hide parts of ordinary words

# To the last @ of the word, because a password that nobody percent-encoded may hold any character. file:///a@b has no host.
CREDENTIALS = re.compile(r"(://|%(?:25)*3a%(?:25)*2f%(?:25)*2f)(?!/|%(?:25)*2f)(\S*)(@|%(?:25)*40)", re.IGNORECASE)
USER = re.compile(r"[\w.+-]*(:|%(?:25)*3a)", re.IGNORECASE)
# Its first part begins where a word does: from each letter of a long word on it would be searched anew.
SECRET_NAME = r"""(?:(?<![\w.-])[\w.-]*(?:password|passwd|passphrase|pwd|secret|token|api[_-]?key|access[_-]?key(?:[_-]?id)?
    |account[_-]?key|private[_-]?key|credentials?|signature)|\bsig|\bpass)"""
PARAMETER = re.compile(  # a quoted value, or one that ends at white space or &, less the punctuation behind it
    rf"""({SECRET_NAME}(?:["']?\s?(?:=|%(?:25)*3d)\s?|["']\s?:\s?))
    ('[^']*'|"[^"]*"|(?:(?!%(?:25)*26)[^\s&])*(?:(?!%(?:25)*26)[^\s&,;'"<>)\]}}]))""",
    re.IGNORECASE | re.VERBOSE,
)
YAML_VALUE = re.compile(rf"({SECRET_NAME}:[ ]+)(\S+)(?=\s*$)", re.IGNORECASE | re.VERBOSE | re.MULTILINE)
HEADER = re.compile(
    r"""((?:authorization["']?\s?[:=]\s?["']?(?:bearer|basic)\s|x-api-key["']?\s?[:=])\s*["']?)[^\s'",)}\]]+""",
    re.IGNORECASE,
)
KEY = re.compile(  # of AWS, of this project's endpoint, and private keys in PEM
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\btidegate_[0-9a-f]{8}_[\w-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
# Each match of a pattern above holds one of these words. Most log lines hold none, and need no search.
KEY_WORDS = ("AKIA", "ASIA", "tidegate_", "-----BEGIN")
SECRET_WORDS = ("pass", "pwd", "secret", "token", "key", "credential", "sig", "authorization")
SECRET_VARIABLE = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|_KEY|ACCESS_KEY_ID)$")
URL_PASSWORD = re.compile(r"://[^:/@\s]*:(\S+)@")


def redact(text: str) -> str:
    """The text without secrets; `***` stands for each."""
    return _hide(text, _known_secrets())


def _hide(text: str, secrets: Sequence[str]) -> str:
    if any(word in text for word in KEY_WORDS):
        text = KEY.sub(HIDDEN, text)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    if "://" in text or "%" in text:
        text = CREDENTIALS.sub(_hide_credentials, text)
    lower = text.lower()
    if any(word in lower for word in SECRET_WORDS):
        for pattern in (HEADER, PARAMETER, YAML_VALUE):
            text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def without_credentials(url: str) -> str:
    """A URL to show: without user, password and parameters."""
    scheme, separator, rest = url.partition("://")
    place = rest if rest.startswith("/") else rest.rpartition("@")[2]
    return f"{scheme}{separator}{place}".partition("?")[0]


def install(error_texts: bool = True) -> None:
    """Redact all log messages of this process, and the tracebacks that it logs or ends with. Safe to call twice.

    Args:
        error_texts: False leaves the texts of exceptions out of logged tracebacks: they may quote what a client sent.
    """
    _recent_secrets.cache_clear()
    logging.setLogRecordFactory(partial(RedactedRecord, error_texts))
    sys.excepthook = _print_traceback
    threading.excepthook = lambda caught: _print_traceback(caught.exc_type, caught.exc_value, caught.exc_traceback)


class RedactedRecord(logging.LogRecord):
    """A log record whose message and traceback are redacted."""

    def __init__(self, error_texts: bool, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.exc_info and self.exc_info[0] is not None:
            lines = traceback.format_exception(*self.exc_info) if error_texts else _frames(self.exc_info[1])
            self.exc_text = redact("".join(lines).rstrip("\n"))  # formatters use it instead of their own
        if self.stack_info:
            self.stack_info = redact(self.stack_info)

    def getMessage(self) -> str:
        return _hide(super().getMessage(), _recent_secrets(time.monotonic() // 1))


def _frames(error: BaseException | None) -> list[str]:
    """A traceback without the text of its error."""
    frames = traceback.format_tb(error.__traceback__) if error else []
    return ["Traceback (most recent call last):\n", *frames, type(error).__qualname__]


def _print_traceback(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    """As Python prints an error that nobody caught."""
    if sys.stderr is not None:
        print(redact("".join(traceback.format_exception(kind, error, where))), end="", file=sys.stderr)


def _hide_credentials(found: re.Match[str]) -> str:
    user = USER.match(found[2])
    return f"{found[1]}{user[0] if user else ''}{HIDDEN}{found[3]}"


@lru_cache(1)
def _recent_secrets(second: float) -> list[str]:
    """The known secrets as of this second: to look through the environment for each log line takes too long."""
    return _known_secrets()


def _known_secrets() -> list[str]:
    """Values of the environment that are secret, and passwords of its URLs as they are written and decoded."""
    known: set[str] = set()
    for name, value in os.environ.items():
        if "://" in value:
            found = URL_PASSWORD.search(value)
            if found:
                # A parser that takes a / or # of the password for the end of the host quotes what it believes to be a port.
                known |= {found[1], unquote(found[1]), *(f"'{part}'" for part in re.split("[/#?@:]", found[1]))}
        elif SECRET_VARIABLE.search(name):
            known |= {line.strip() for line in value.splitlines()}
    return sorted((secret for secret in known if len(secret) >= MIN_LENGTH), key=len, reverse=True)
