"""What the pages for people are made of: their frame, tables, prose and commands, as HTML.

They need no network and no font. Their style and their script are files (`docs.css`, `docs.js`), so
that the browser need not allow any in HTML; without the script they only lack buttons.
"""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import orjson

from troth.core.codes import Code
from troth.http.wire.static_files import StaticFile

_POLICY: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src data:",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)
_HTML: Final = ((b"content-type", b"text/html; charset=utf-8"), *_POLICY)
CSS: Final = ((b"content-type", b"text/css; charset=utf-8"), *_POLICY)
SCRIPT: Final = ((b"content-type", b"text/javascript; charset=utf-8"), *_POLICY)
_CODE: Final = re.compile(r"`([^`]+)`")

text = html.escape


def page(
    title: str,
    main: Iterable[str],
    *,
    nav: Iterable[str] = (),
    base: str = "docs/",
    varies_by: bytes = b"Accept-Encoding",
) -> StaticFile:
    """Return a page. `base` is where its files are, seen from it."""
    navigation = "".join(nav)
    if navigation:
        navigation = f'<nav aria-label="Contents">{navigation}</nav>\n'
    body = "\n".join(main)
    made = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{text(title)}</title>"
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="{base}style.css"><script src="{base}script.js" defer>'
        f"</script></head><body>\n{navigation}<main>\n{body}\n</main></body></html>\n"
    )
    return StaticFile(made.encode(), _HTML, varies_by=varies_by)


def inline(prose: str) -> str:
    """Return a text as HTML; what is between backticks is code."""
    return _CODE.sub(r"<code>\1</code>", text(prose, quote=False))


def paragraphs(prose: str) -> str:
    """Return a text as HTML: paragraphs are apart by an empty line, points begin with `- `.

    End tags that HTML does not need are left out.
    """
    made = []
    for part in prose.split("\n\n"):
        lines = part.strip().split("\n")
        if all(line.startswith(("- ", "  ")) for line in lines):
            points = re.split(r"(?:^|\n)- ", part.strip())[1:]
            made.append("<ul>" + "".join(f"<li>{inline(one)}" for one in points) + "</ul>")
        elif part.strip():
            made.append(f"<p>{inline(part)}")
    return "".join(made)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML already. End tags that HTML does not need are left out."""
    lines = ["<table><tr>", *(f'<th scope="col">{text(cell)}' for cell in head)]
    lines.extend("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return "".join([*lines, "</table>"])


def points(rows: Iterable[tuple[str, str]]) -> str:
    """Return a list of names and their meanings, which are HTML already; empty without any."""
    made = "".join(f"<dt>{name}<dd>{meaning}" for name, meaning in rows)
    return f"<dl>{made}</dl>" if made else ""


def json_line(value: Any) -> str:
    """Return a value as an example in one line, which the script writes with indents."""
    return f"<pre class=json>{text(orjson.dumps(value).decode(), quote=False)}</pre>"


def command(line: str) -> str:
    """Return a command of a shell that can be copied."""
    return f"<pre>{text(line, quote=False)}</pre>"


def code_link(code: Code) -> str:
    """Return a link to the explanation of a code, from `/docs`."""
    return f"<a href=docs/errors#{code.value}>{code.value}</a>"
