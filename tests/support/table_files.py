"""Files of tables as tests write them, and the settings with which they are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from config.params import EventsFormat

PLAIN = {"encoding": None, "delimiter": None, "quote": '"', "na_values": [], "time_format": None, "timezone": "UTC"}
FORMAT = EventsFormat.model_validate(PLAIN)


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """Write lines of text; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def zstd_compress(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()
