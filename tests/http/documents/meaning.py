"""What an OpenAPI document means, as lines of text: without descriptions, examples and references.

Two documents that promise the same to a program have the same lines, be they of OpenAPI 3.0 or
3.1, and whatever they share through `$ref`. So the lines can be kept and compared.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

Document = dict[str, Any]

_LIMITS = (
    "format",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "uniqueItems",
    "maxProperties",
)

_INT64 = ["format=int64", f"minimum={-(2**63)}", f"maximum={2**63 - 1}"]


def status_of(code: int) -> str:
    """The status of a code of a refusal."""
    return str(code // 100)


class Meaning:
    """The lines of one document."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def lines(self) -> Iterator[str]:
        """Yield the lines, operations in the order of the document."""
        schemes = self._document["components"]["securitySchemes"]
        for name, scheme in sorted(schemes.items()):
            yield f"credentials {name}: {scheme['type']} {scheme['scheme']}"
        refusals = {
            self.shape(response["content"]["application/json"]["schema"])
            for operations in self._document["paths"].values()
            for operation in operations.values()
            for response in map(self._resolved, operation["responses"].values())
            if "x-codes" in response
        }
        for refusal in sorted(refusals):
            yield f"refusal {refusal}"
        for path, operations in self._document["paths"].items():
            for method, operation in operations.items():
                yield ""
                yield f"{method.upper()} {path} {operation['operationId']}"
                yield from (f"  {line}" for line in self._operation(operation))

    def _operation(self, operation: Document) -> Iterator[str]:
        yield f"group {', '.join(operation['tags'])}"
        if operation.get("deprecated"):
            yield "deprecated"
        yield f"security {self._security({**self._document, **operation}['security'])}"
        for given in operation["parameters"]:
            parameter = self._resolved(given)
            star = "" if parameter.get("required") else "?"
            style = f" {parameter['style']}" if "style" in parameter else ""
            shape = self.shape(parameter["schema"])
            yield f"{parameter['in']} {parameter['name']}{star}{style}: {shape}"
        if "requestBody" in operation:
            body = self._resolved(operation["requestBody"])
            star = "" if body["required"] else "?"
            for kind, content in body["content"].items():
                yield f"body{star} {kind}: {self.shape(content.get('schema', {}))}"
        for status, response in sorted(self._by_status(operation), key=itemgetter(0)):
            headers = "".join(
                f" {name}: {self.shape(header['schema'])}"
                for name, given in response.get("headers", {}).items()
                if int(status) in (header := self._resolved(given))["x-statuses"]
            )
            if "x-codes" in response:
                codes = [code for code in response["x-codes"] if status == status_of(code)]
                yield f"{status}{headers} refused {' '.join(map(str, codes))}"
            elif "content" not in response:
                yield f"{status}{headers}"
            else:
                for kind, content in response["content"].items():
                    yield f"{status}{headers} {kind}: {self.shape(content['schema'])}"

    def _by_status(self, operation: Document) -> Iterator[tuple[str, Document]]:
        """Each status with its response; `4XX` and `5XX` are the statuses of their codes."""
        for status, given in operation["responses"].items():
            response = self._resolved(given)
            statuses = {*map(status_of, response["x-codes"])} if status.endswith("XX") else {status}
            yield from ((one, response) for one in statuses)

    def _security(self, kinds: list[dict[str, list[str]]]) -> str:
        shown = [
            " and ".join(":".join([name, *scopes]) for name, scopes in kind.items()) or "nothing"
            for kind in kinds
        ]
        return " or ".join(shown) or "public"

    def _resolved(self, part: Document) -> Document:
        if "$ref" not in part:
            return part
        found: Any = self._document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return self._resolved(found)

    def shape(self, schema: Document, within: tuple[str, ...] = ()) -> str:
        """Return what a schema accepts, on one line. A schema inside itself is `...`."""
        if "$ref" in schema:
            name = schema["$ref"]
            if name in within:
                return "..."
            return self.shape(self._resolved(schema), (*within, name))
        kinds = schema.get("type", [])
        is_nullable = schema.get("nullable", False)
        if isinstance(kinds, str):
            kinds = [kinds]
        forms = set()
        for kind in kinds:
            forms.add(self._of_type(kind, schema, within))
        for key in ("anyOf", "oneOf", "allOf"):
            forms |= {self.shape(form, within) for form in schema.get(key, [])}
        if is_nullable:
            forms.add("null")
        # Alternatives inside alternatives are alternatives.
        flat = {form for joined in forms for form in _alternatives(joined)}
        return " | ".join(sorted(flat)) or "anything"

    def _of_type(self, kind: str, schema: Document, within: tuple[str, ...]) -> str:
        if kind == "null":
            return kind
        limits = [f"{name}={schema[name]}" for name in _LIMITS if name in schema]
        if kind == "integer" and limits in (_INT64, _INT64[:1]):
            return "int64"
        words = [word for word in schema.get("enum", []) if word is not None]
        if words:
            limits.append(f"one of {' '.join(sorted(map(str, words)))}")
        shown = f"{kind}({', '.join(limits)})" if limits else kind
        if kind == "array" and "items" in schema:
            return f"{shown}[{self.shape(schema['items'], within)}]"
        if kind != "object":
            return shown
        required = schema.get("required", [])
        parts = [
            f"{name}{'' if name in required else '?'}: {self.shape(inner, within)}"
            for name, inner in sorted(schema.get("properties", {}).items())
        ]
        more = schema.get("additionalProperties", True)
        if isinstance(more, dict):
            parts.append(f"*: {self.shape(more, within)}")
        elif more:
            parts.append("*")
        return f"{shown}{{{', '.join(parts)}}}"


def _alternatives(shape: str) -> list[str]:
    """Split at the bars that stand outside of all brackets."""
    found, depth, start = [], 0, 0
    for place, character in enumerate(shape):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "|" and depth == 0:
            found.append(shape[start : place - 1])
            start = place + 2
    return [*found, shape[start:]]
