"""A real Prometheus with the rules of `deploy/prometheus/`, faster than they are meant to be.

It scrapes and judges once a second, and waits a second where a rule waits for minutes, so that a
test can see an alert fire and resolve.
"""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from .repository import ROOT
from .server import free_ports
from .tools import tool

RULES: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
CONFIGURATION: Final = ROOT / "deploy" / "prometheus" / "prometheus.yml"
WAIT_S: Final = 90.0
"""How long to wait for what takes a few seconds on a machine that does nothing else."""


class Prometheus:
    """One Prometheus that watches a server's port; a token lets it in."""

    def __init__(self, directory: Path, port: int, token: str | None = None) -> None:
        """Write its configuration, from the one that is shipped."""
        directory.mkdir(parents=True)
        self._directory = directory
        self._port = free_ports(1)[0]
        configuration = yaml.safe_load(CONFIGURATION.read_text())
        configuration["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["rule_files"] = [str(directory / "alerts.yml")]
        (job,) = configuration["scrape_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        if token is None:
            del job["authorization"]
        else:
            (directory / "token").write_text(token)
            job["authorization"]["credentials_file"] = str(directory / "token")
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        rules, count = re.subn(r"(?m)^( +for:) \w+$", r"\1 1s", RULES.read_text())
        assert count > 10, "the rules wait"
        (directory / "alerts.yml").write_text(rules)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                (
                    *(tool("prometheus", "prometheus"), "--log.level=warn"),
                    f"--config.file={self._directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ask(self, path: str, **fields: str) -> Any:
        """Return the data of an answer of its API, or None while it starts."""
        query = urllib.parse.urlencode(fields)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{fields}: {error.read().decode()}") from error
        except (ConnectionError, urllib.error.URLError):
            return None

    def series(self, query: str) -> list[dict[str, Any]]:
        """Return what a query gives now; nothing while it starts."""
        found = self.ask("query", query=query)
        return [] if found is None else list(found["result"])

    def alerts(self) -> Mapping[str, Mapping[str, str]]:
        """Return the alerts that fire, by name, with their annotations."""
        found = self.ask("alerts")
        alerts = [] if found is None else found["alerts"]
        return {
            one["labels"]["alertname"]: one["annotations"]
            for one in alerts
            if one["state"] == "firing"
        }

    def wait_firing(self, names: Collection[str]) -> Mapping[str, Mapping[str, str]]:
        """Wait until all of these alerts fire, together or one after the other."""
        seen: dict[str, Mapping[str, str]] = {}
        deadline_s = time.monotonic() + WAIT_S
        while not seen.keys() >= set(names):
            seen |= self.alerts()
            assert time.monotonic() < deadline_s, f"only {sorted(seen)} fired; {self._said()}"
            time.sleep(0.2)
        return seen

    def wait_resolved(self) -> None:
        """Wait until no alert fires."""
        deadline_s = time.monotonic() + WAIT_S
        while (firing := self.alerts()) or not self.series('up{job="troth"} == 1'):
            assert time.monotonic() < deadline_s, f"{sorted(firing)} still fire; {self._said()}"
            time.sleep(0.2)

    def wait_scraped(self) -> None:
        """Wait until it has read the server's metrics."""
        deadline_s = time.monotonic() + WAIT_S
        while not self.series('up{job="troth"} == 1'):
            assert time.monotonic() < deadline_s, f"nothing was scraped; {self._said()}"
            time.sleep(0.2)

    def _said(self) -> str:
        return (self._directory / "log").read_text(errors="replace")[-2_000:]
