"""`python -m tests.deploy.kubernetes WHEEL`: make `schemas.json` again.

WHEEL is the package `kubernetes-validate` of PyPI (`pip download --no-deps kubernetes-validate`).
It holds the schemas of all kinds of every version of Kubernetes: 100 MB unpacked, too much to
install for a test. What the manifests use is taken from it, without the descriptions.
"""

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

VERSION: Final = "1.34.0"
KINDS: Final = {
    "apps/v1 StatefulSet": "io.k8s.api.apps.v1.StatefulSet",
    "batch/v1 Job": "io.k8s.api.batch.v1.Job",
    "policy/v1 PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "v1 ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1 Namespace": "io.k8s.api.core.v1.Namespace",
    "v1 Service": "io.k8s.api.core.v1.Service",
    "v1 ServiceAccount": "io.k8s.api.core.v1.ServiceAccount",
}
SCHEMAS: Final = Path(__file__).with_name("schemas.json")
_DEFINITIONS: Final = (
    f"kubernetes_validate/kubernetes-json-schema/v{VERSION}-local-strict/_definitions.json"
)
_FOR_PEOPLE: Final = frozenset(
    {"description", "x-kubernetes-patch-strategy", "x-kubernetes-patch-merge-key"}
)


def references(schema: Any) -> Iterator[str]:
    """Yield the names of the definitions that a schema refers to."""
    if isinstance(schema, dict):
        for name, part in schema.items():
            if name == "$ref" and isinstance(part, str):
                yield part.rpartition("/")[2]
            else:
                yield from references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from references(part)


def bare(schema: Any) -> Any:
    """Return a schema without what only people read."""
    if isinstance(schema, dict):
        return {
            name: bare(part)
            for name, part in schema.items()
            if not (name in _FOR_PEOPLE and isinstance(part, str))
        }
    return [bare(part) for part in schema] if isinstance(schema, list) else schema


def main(wheel: str) -> None:
    """Write what the kinds need, and say how much that is."""
    with zipfile.ZipFile(wheel) as archive:
        definitions = json.loads(archive.read(_DEFINITIONS))["$defs"]
    needed: dict[str, Any] = {}
    wanted = [*KINDS.values()]
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed[name] = bare(definitions[name])
            wanted += references(needed[name])
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "kubernetes": VERSION,
        "kinds": KINDS,
        "$defs": dict(sorted(needed.items())),
    }
    SCHEMAS.write_text(
        json.dumps(document, separators=(",", ":")).replace(',"io.', ',\n"io.') + "\n"
    )
    print(f"{len(needed)} definitions, {SCHEMAS.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
