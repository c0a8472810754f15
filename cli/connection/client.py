"""The HTTP client of the command line: one request, one answer, clear words for what went wrong.

It is imported when a command runs: loading httpx takes longer than showing a command's help. What a
refusal says is in `answers.py`. Nothing shows a traceback, and no message shows a password.
"""

import contextlib
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import click
import httpx

from .addresses import DEFAULT_SERVER, is_loopback_host
from .answers import ApiAnswer, RequestRefused, ServerUnreachable, refusal

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
DOWNLOAD_TIMEOUT_S: Final = 300.0
"""Between two pieces of a file; the first one may have to wait for a checkpoint."""
_ERROR_NUMBER: Final = re.compile(r"\[Errno -?[0-9]+\] ")


class ApiClient:
    """Talks to one server over one connection. Used in a `with` block."""

    def __init__(
        self,
        server: str,
        user: str | None,
        password: str | None,
        token: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        """Connect to `server`, a URL or `HOST:PORT`; nothing is sent yet.

        `ca_file` holds the certificates (PEM) that may vouch for the server, instead of the
        usual ones. Raises click.UsageError for a server, credentials or certificates that cannot
        be used, and click.ClickException for an unusable proxy of the environment.
        """
        url = server if "://" in server else f"http://{server}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _bad_server(f"it is not a valid URL ({error})") from error
        if parts.scheme not in {"http", "https"} or not host:
            raise _bad_server("it must begin with http:// or https:// and name a host")
        if (user is None) != (password is None):
            raise click.UsageError("--user and --password belong together: give both or neither.")
        if user is not None and token is not None:
            raise click.UsageError("--token and --user exclude each other: give one of them.")
        if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
            raise click.UsageError("--token (or TROTH_TOKEN): it is not a valid token.")
        headers = {"accept": "application/json", "user-agent": "troth"}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        bracketed = f"[{host}]" if ":" in host else host
        self.shown_url = f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")
        try:
            self._http = httpx.Client(
                auth=None if user is None or password is None else httpx.BasicAuth(user, password),
                # Reading the certificate store takes longer than the rest of a command.
                verify=_trusted(ca_file) if parts.scheme == "https" else False,
                # A proxy cannot reach what only this machine can.
                trust_env=not is_loopback_host(host),
                timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                headers=headers,
            )
            self._base = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise _bad_server(f"it is not a valid URL ({error})") from error
        except (ImportError, ValueError) as error:
            # httpx reads the proxies of the environment; of SOCKS it knows nothing without help.
            raise click.ClickException(
                f"the proxy settings of the environment cannot be used ({error}). Unset "
                f"ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, or put {host} into NO_PROXY."
            ) from error

    @property
    def url(self) -> str:
        """The server's URL, without a slash at the end."""
        return str(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | list[Any] | bytes | None = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """Send one request; `path` is percent-encoded. Raises RequestRefused, ServerUnreachable.

        A body of bytes is JSON already.
        """
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {name.encode(): text.encode() for name, text in (headers or {}).items()}
        if content is not None:
            sent[b"content-type"] = b"application/json"
        # Joined as text: the path's own percent-encoding must reach the server unchanged.
        url = str(self._base) + path
        try:
            with self._http.stream(
                method, url, content=content, params=list(query) or None, headers=sent
            ) as response:
                # The poll port takes any path for a worker's; its stream never ends on its own.
                if response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise self._a_stream()
                response.read()
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{self.shown_url} did not answer in time.") from error
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._answer(response)

    @contextlib.contextmanager
    def download(self, method: str, path: str) -> Iterator[Iterator[bytes]]:
        """Send one request whose answer is a file, and give out its pieces. Raises as `ask`."""
        url = str(self._base) + path
        begun = False
        try:
            with self._http.stream(method, url, timeout=DOWNLOAD_TIMEOUT_S) as response:
                if not response.is_success:
                    response.read()
                    self._answer(response)
                begun = True
                yield response.iter_bytes()
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{self.shown_url} did not answer in time.") from error
        except httpx.HTTPError as error:
            if begun:
                problem = "closed the connection before its whole answer was there"
                raise ServerUnreachable(f"{self.shown_url} {problem}.") from error
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ServerUnreachable:
        reason = _ERROR_NUMBER.sub("", str(error)).strip() or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return ServerUnreachable(
                f"the certificate of {self.shown_url} is not trusted ({reason}). If an authority "
                "of your own has signed it, name its certificate with --ca-file, TROTH_CA_FILE or "
                "SSL_CERT_FILE."
            )
        if self._base.scheme == "https" and "SSL" in reason:
            return ServerUnreachable(
                f"{self.shown_url} does not speak TLS as expected ({reason}). Is it http:// there?"
            )
        return ServerUnreachable(
            f"no server can be reached at {self.shown_url} ({reason}). "
            "Start one with `troth serve`, or name it with --server."
        )

    def _a_stream(self) -> ServerUnreachable:
        return ServerUnreachable(
            f"{self.shown_url} streams messages to workers (--poll-listen of `troth serve`). "
            "Name the API's address (--listen) with --server."
        )

    def pages(self, path: str, query: Sequence[tuple[str, str]], key: str) -> Iterator[list[Any]]:
        """Yield all pages of a search, each the list under `key`. Raises as `ask`."""
        while True:
            answer = self.ask("GET", path, query=query)
            if not isinstance(answer.content, dict) or key not in answer.content:
                raise self.not_the_api()
            yield answer.content[key]
            if not answer.content.get("cursor"):
                return
            query = [("cursor", answer.content["cursor"])]

    def not_the_api(self) -> ServerUnreachable:
        """Return the error for an answer that the API never gives."""
        return ServerUnreachable(
            f"{self.shown_url} answered in a form that is not the API's. Is it a Troth server?"
        )

    def _answer(self, response: httpx.Response) -> ApiAnswer:
        text = response.text
        try:
            content = json.loads(text) if text.strip() else None
        except ValueError:
            content = None
            if response.is_success:
                raise self.not_the_api() from None
        answer = ApiAnswer(
            response.status_code, text, content, response.headers.get("fencing-token")
        )
        if not response.is_success:
            retry_after = response.headers.get("retry-after")
            message = refusal(answer, response.reason_phrase, retry_after)
            raise RequestRefused(message, answer)
        return answer


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    """Return what judges the server's certificate. Raises click.UsageError.

    The environment's SSL_CERT_FILE and SSL_CERT_DIR count for every server; httpx looks at them
    only where it looks at proxies too.
    """
    file: str | None
    directory: str | None
    if ca_file is not None:
        file, directory, origin = str(ca_file), None, "--ca-file (or TROTH_CA_FILE)"
    else:
        file = os.environ.get("SSL_CERT_FILE") or None
        directory = os.environ.get("SSL_CERT_DIR") or None
        origin = "SSL_CERT_FILE or SSL_CERT_DIR"
    shown = file or directory
    if shown is None:
        return True
    try:
        return ssl.create_default_context(cafile=file, capath=directory)
    except OSError as error:
        raise click.UsageError(
            f"{origin}: {shown} holds no usable certificates ({error.strerror or error})."
        ) from error


def _bad_server(reason: str) -> click.UsageError:
    return click.UsageError(f"--server (or TROTH_SERVER): {reason}. Example: {DEFAULT_SERVER}")
