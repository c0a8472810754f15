"""The files of the web UI: read and compressed once, when the server starts, and kept in memory.

What is in `http/ui/` is served as it was written, but without the comments of its modules: there is
no build step, and lines have the numbers that they have in the files. The address of an asset
begins with a digest of all files (`assets/<digest>/…`), so browsers may keep assets for a year and
never mix those of two versions. `index.html` has two places for the server to fill in:
`{{base}}`, where all relative URLs of the page begin, and `{{assets}}`, where those of assets do.

Every answer has the headers of `UI_HEADERS`: the page may load nothing from elsewhere, may not be
framed, and runs no script that is not one of its files.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from troth.http.api.context import Ui
from troth.http.wire.static_files import StaticFile

FOLDER: Final = Path(__file__).parent.parent / "ui"

UI_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; worker-src 'self'; form-action 'self'; base-uri 'self'; "
        b"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types troth",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (
        b"permissions-policy",
        b"accelerometer=(), autoplay=(), bluetooth=(), camera=(), display-capture=(), "
        b"encrypted-media=(), fullscreen=(), geolocation=(), gyroscope=(), hid=(), "
        b"idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), "
        b"picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), "
        b"usb=(), web-share=(), xr-spatial-tracking=()",
    ),
)
"""Of the browser's features only writing to the clipboard is not switched off: ids are copied."""

_INDEX: Final = "index.html"
_TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
}
"""What is served, by suffix; other files of the folder are for those who work on it."""

_COMMENTS: Final = (
    re.compile(r"^[ ]*/\*.*?\*/$", re.DOTALL | re.MULTILINE),
    re.compile(r"^[ ]*//.*$", re.MULTILINE),
    re.compile(r"/\*\* @[^\n]*?\*/ ?"),
)
"""Those that begin a line, and types within one. They are a fifth of what would be sent."""

_DIGEST_DIGITS: Final = 16
_YEAR_S: Final = 365 * 24 * 3600


class _Sources(NamedTuple):
    """The folder as it was read: `page` is `index.html`, `assets` the others by path."""

    page: str
    assets: Mapping[str, StaticFile]
    digest: str


def read_ui(base_path: str) -> Ui:
    """Return the UI of a server that is reached under a path. Raises OSError."""
    sources = _read()
    page = sources.page.replace("{{base}}", f"{base_path}ui/")
    page = page.replace("{{assets}}", f"assets/{sources.digest}")
    index = StaticFile(
        page.encode(),
        [
            *UI_HEADERS,
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ],
    )
    assets = {f"assets/{sources.digest}/{name}": file for name, file in sources.assets.items()}
    return Ui(index, assets)


@functools.cache
def _read() -> _Sources:
    """Read all files, once in a process."""
    cached = b"public, max-age=%d, immutable" % _YEAR_S
    found = {
        path.relative_to(FOLDER).as_posix(): served(path)
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in _TYPES
    }
    index = (FOLDER / _INDEX).read_bytes()
    digest = hashlib.sha256()
    for name, text in (*found.items(), (_INDEX, index)):
        digest.update(b"%b %d\n" % (name.encode(), len(text)))
        digest.update(text)
    assets = {
        name: StaticFile(
            text,
            [
                *UI_HEADERS,
                (b"content-type", _TYPES[Path(name).suffix]),
                (b"cache-control", cached),
            ],
        )
        for name, text in found.items()
    }
    return _Sources(index.decode(), assets, digest.hexdigest()[:_DIGEST_DIGITS])


def served(path: Path) -> bytes:
    """Return what is sent of a file: a module without its comments, all others as they are."""
    if path.suffix != ".js" or path.parent.name == "vendor":
        return path.read_bytes()
    text = path.read_text(encoding="utf-8")
    for comments in _COMMENTS:
        text = comments.sub(lambda found: "\n" * found[0].count("\n"), text)
    return text.encode()
