"""The pages for people, made from the endpoint table, the codes and the life cycles. No network."""

import html

from troth.core.codes import EXPLANATIONS, MESSAGES

from .api import Api, Pages
from .endpoints import Endpoint


def make_pages(api: Api, endpoints: tuple[Endpoint, ...]) -> Pages:
    """Make all documents of a server."""
    return Pages(
        openapi=b"{}",
        start=start_page(),
        documentation=documentation_page(api),
        errors=errors_page(),
    )


def start_page() -> bytes:
    """A pointer to the other pages."""
    return b"<!doctype html><title>Troth</title><a href='/docs'>Documentation</a>"


def documentation_page(api: Api) -> bytes:
    """All endpoints."""
    return b"<!doctype html><title>Troth</title>"


def errors_page() -> bytes:
    """All error codes."""
    return "".join(
        f"<h2 id='{code.value}'>{code.value} {html.escape(MESSAGES[code])}</h2><p>{html.escape(text)}"
        for code, text in EXPLANATIONS.items()
    ).encode()
