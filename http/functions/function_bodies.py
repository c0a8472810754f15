"""The request bodies of functions and tags; see `schemas.py` for how they are written."""

from typing import Annotated

from msgspec import Struct

from troth.core import limits
from troth.core.catalog import FunctionKind, Language
from troth.http.wire.fields import Choice, Flag, Nested, Text

from .markers import Matching, Reference, References, Within

CODE_WORDS = (FunctionKind.CODE.value, "DOCKER")
"""Both mean code for the nodes: the second is GreenCloud's word, though nothing is a container."""

_NAME = Matching(
    "The function's name; others may have the same.",
    "resize-image",
    required=True,
    pattern=f"[A-Za-z0-9_-]{{1,{limits.FUNCTION_NAME_LIMIT_BYTES}}}",
    allowed=f"1 to {limits.FUNCTION_NAME_LIMIT_BYTES} letters, digits, `-` and `_`",
)
_NEW_NAME = Matching(_NAME.description, _NAME.example, pattern=_NAME.pattern, allowed=_NAME.allowed)
_DESCRIPTION = Matching(
    "For people.",
    "Makes thumbnails",
    pattern=f"[ -~]{{0,{limits.FUNCTION_DESCRIPTION_LIMIT_BYTES}}}",
    allowed=f"printable ASCII of at most {limits.FUNCTION_DESCRIPTION_LIMIT_BYTES} characters",
)
_TAGS = References(
    "The ids of the function's tags, or the tags themselves. The tags must be the account's.",
    [],
    limit_count=limits.FUNCTION_LABELS_LIMIT_COUNT,
)
_URL = Text(
    "What an HTTP function calls: an absolute http or https URL. Required for these, and only "
    "allowed there.",
    limit_bytes=limits.FUNCTION_URL_LIMIT_BYTES,
    form="http-url",
)


class CapabilitiesBody(Struct, rename="camel"):
    """What a function demands of a node; what is absent stays as it is."""

    timeout: Annotated[
        int | None,
        Within(
            "How many seconds one execution may take, from when it is assigned.",
            10,
            minimum=1,
            maximum=limits.FUNCTION_TIMEOUT_LIMIT_S,
        ),
    ] = None
    cpu_count: Annotated[
        int | None,
        Within("CPUs; 0 demands nothing.", 0, maximum=limits.FUNCTION_CPU_LIMIT_COUNT),
    ] = None
    mem_size: Annotated[
        int | None,
        Within("Memory in MB; 0 demands nothing.", 0, maximum=limits.FUNCTION_MEMORY_LIMIT_MB),
    ] = None
    network_latency: Annotated[
        int | None,
        Within(
            "Largest network latency in ms; 0 demands nothing.",
            0,
            maximum=limits.FUNCTION_LATENCY_LIMIT_MS,
        ),
    ] = None
    privileged: Annotated[
        bool | None, Flag("Whether the node must be privileged. `privilaged` is understood too.")
    ] = None
    privilaged: bool | None = None

    def __post_init__(self) -> None:
        """Take the other spelling of `privileged` for it."""
        if self.privileged is None:
            self.privileged = self.privilaged


class CreateFunctionBody(Struct, rename="camel"):
    """What a new function is."""

    name: Annotated[str | None, _NAME] = None
    type: Annotated[
        str | None,
        Choice(
            "`HTTP` calls a URL; `CODE` is code for the nodes, uploaded as a build. `DOCKER` means "
            "the same as `CODE`.",
            FunctionKind.CODE.value,
            required=True,
            choices=(FunctionKind.HTTP.value, *CODE_WORDS),
        ),
    ] = None
    lang: Annotated[
        str | None,
        Matching(
            "The language of the code. Required for code, and only allowed there.",
            Language.PYTHON.value,
            pattern="[Pp][Yy]|[Jj][Ss]",
            allowed="PY or JS; the nodes run no other language (GO, CS, RB, RS)",
        ),
    ] = None
    url: Annotated[str | None, _URL] = None
    description: Annotated[str | None, _DESCRIPTION] = None
    tag: Annotated[list[Reference | str] | None, _TAGS] = None
    capabilities: Annotated[
        CapabilitiesBody | None,
        Nested("What it demands of a node; may be set later.", body=CapabilitiesBody),
    ] = None


class ChangeFunctionBody(Struct, rename="camel"):
    """What is to be different about a function; what is absent stays as it is."""

    name: Annotated[str | None, _NEW_NAME] = None
    description: Annotated[str | None, _DESCRIPTION] = None
    url: Annotated[str | None, _URL] = None
    tag: Annotated[list[Reference | str] | None, _TAGS] = None


_LABEL_NAME = f"[ -~]{{1,{limits.LABEL_NAME_LIMIT_BYTES}}}"
_LABEL_ALLOWED = f"printable ASCII of 1 to {limits.LABEL_NAME_LIMIT_BYTES} characters"
_COLOR = Matching(
    "For people: `#` and 3 or 6 hexadecimal digits.",
    "#2e7d32",
    pattern="(#(?:[0-9A-Fa-f]{3}){1,2})?",
    allowed="`#` and 3 or 6 hexadecimal digits",
)


class CreateLabelBody(Struct, rename="camel"):
    """What a new tag is."""

    name: Annotated[
        str | None,
        Matching(
            "The name.", "production", required=True, pattern=_LABEL_NAME, allowed=_LABEL_ALLOWED
        ),
    ] = None
    color: Annotated[str | None, _COLOR] = None


class ChangeLabelBody(Struct, rename="camel"):
    """What is to be different about a tag; what is absent stays as it is."""

    name: Annotated[
        str | None,
        Matching("The name.", "production", pattern=_LABEL_NAME, allowed=_LABEL_ALLOWED),
    ] = None
    color: Annotated[str | None, _COLOR] = None
