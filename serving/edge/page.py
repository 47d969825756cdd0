"""The OpenAPI description as one page that needs no script, no network and no build."""

from __future__ import annotations

import re
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid #d8d8e0; padding: .3rem .6rem .3rem 0 }
code { font: .9em ui-monospace, monospace }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #d8d8e0 }
@media (prefers-color-scheme: dark) { body { background: #17171a; color: #ececf1 } th, td, h2 { border-color: #3a3a42 } a { color: #9db7ff } }
"""


def render(description: dict[str, Any]) -> str:
    """HTML."""
    info = description["info"]
    link = '<a href="/openapi.json">/openapi.json</a>'
    parts = [f"<h1>{escape(info['title'])}</h1><p>{escape(info['description'])} As JSON: {link}</p>"]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(_operation(operation))
    for name, schema in description["components"]["schemas"].items():
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>{_properties(schema)}')
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}<title>{escape(info["title"])}</title></head><body>{"".join(parts)}</body></html>'


def _operation(operation: dict[str, Any]) -> str:
    parameters = [
        (each["name"], f"{each['in']}, {_kind(each['schema'])}", each["description"])
        for each in operation.get("parameters", [])
    ]
    responses = [(status, "", about["description"]) for status, about in operation["responses"].items()]
    body = '<p>Body: a JSON object, <a href="#Request">Request</a>.</p>' if "requestBody" in operation else ""
    return body + (_table("Parameter", parameters) if parameters else "") + _table("Status", responses)


def _properties(schema: dict[str, Any]) -> str:
    rows = [(name, _kind(about), about.get("description", "")) for name, about in schema["properties"].items()]
    return _table("Field", rows)


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(kind)}</td><td>{_text(about)}</td></tr>"
        for name, kind, about in rows
    )
    return f"<table><tr><th>{title}</th><th></th><th></th></tr>{cells}</table>"


def _text(about: str) -> str:
    """Prose, in which `words` are code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(about))


def _kind(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "")
    words = " or ".join(kind) if isinstance(kind, list) else kind
    return f"{words}: {', '.join(map(str, schema['enum']))}" if "enum" in schema else words
