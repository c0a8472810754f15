"""Where a server is, and the paths of what it has: text alone, nothing is looked up."""

import ipaddress
from typing import Final
from urllib.parse import quote, urlsplit

DEFAULT_SERVER: Final = "http://127.0.0.1:8001"


def path_of(*segments: str | int) -> str:
    """Return a path whose segments the server decodes to exactly these texts, slashes included."""
    return "".join("/" + _segment(str(segment)) for segment in segments)


def _segment(text: str) -> str:
    # HTTP clients and proxies resolve `.` and `..` away unless they are encoded.
    if text in {".", ".."}:
        return text.replace(".", "%2E")
    return quote(text, safe=":@!$&'()*+,;=~")


def is_loopback(server: str) -> bool:
    """Return whether a server that `ApiClient` takes is on this machine."""
    url = server if "://" in server else f"http://{server}"
    try:
        return is_loopback_host(urlsplit(url).hostname or "")
    except ValueError:
        return False


def is_loopback_host(host: str) -> bool:
    """Return whether a host, a name or an IP address, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
