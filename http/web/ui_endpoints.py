"""The web UI's pages and files: `GET /ui/…`, all from memory.

A path that names no file is a place within the UI, which the browser finds its way to: it gets
`index.html`. Only below `assets/` a file that is not there is 404: a page of an earlier version
asks for what it began with, and would take a page for a script.
"""

from typing import Final

from troth.core.codes import Code
from troth.http.api.context import Api, Ui
from troth.http.api.rows import Call, Endpoint, Parameter, Success
from troth.http.wire.errors import ApiError
from troth.http.wire.requests import Response

from .ui_files import UI_HEADERS

_ASSETS: Final = "assets/"


def _ui_of(api: Api) -> Ui:
    """Return the UI. Raises ApiError (404) if it is switched off."""
    if api.documents.ui is None:
        message = "The web UI is switched off (setting `ui`)."
        raise ApiError(Code.PATH_NOT_FOUND, message=message)
    return api.documents.ui


async def show_ui(api: Api, call: Call) -> Response:
    """GET /ui/…."""
    ui = _ui_of(api)
    path = call.path["path"]
    file = ui.assets.get(path)
    if file is not None:
        return file.answer(call.request)
    if path.startswith(_ASSETS):
        message = "The web UI has no such file. Perhaps an earlier version had it: load the page."
        raise ApiError(Code.PATH_NOT_FOUND, message=message, headers=UI_HEADERS)
    return ui.index.answer(call.request)


async def lead_to_ui(api: Api, call: Call) -> Response:  # noqa: ARG001  all handlers share it
    """GET /ui."""
    _ui_of(api)
    return Response(308, headers=[*UI_HEADERS, (b"location", b"ui/")])


ENDPOINTS: Final = (
    Endpoint(
        name="ui",
        group="Server",
        method="GET",
        path="/ui/{path...}",
        summary="Show the web UI",
        description=(
            "Files are below `assets/`; everything else is the page, which finds out what its "
            "address means. 404 if the setting `ui` is off."
        ),
        handler=show_ui,
        path_parameters=(
            Parameter(
                "path",
                "A file, or a place within the UI.",
                {"type": "string"},
                required=True,
                example="promises",
            ),
        ),
        successes=(Success(200, "A page, or a file of its.", str, "text/html"),),
        refusals=(Code.PATH_NOT_FOUND,),
        public=True,
        sheltered=False,
    ),
    Endpoint(
        name="uiStart",
        group="Server",
        method="GET",
        path="/ui",
        summary="Lead to the web UI",
        handler=lead_to_ui,
        successes=(Success(308, "It is at `/ui/`."),),
        refusals=(Code.PATH_NOT_FOUND,),
        public=True,
        sheltered=False,
    ),
)
