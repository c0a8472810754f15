"""Functions and builds on a real server: through its sockets, over kills and restarts."""

import pytest

from tests.helpers.server import ServerProcess
from tests.helpers.tokens import Client, new_client
from tests.helpers.zips import plain_zip

HANDLER = "def handle(request):\n    return request\n"


@pytest.mark.slow
def test_builds_outlive_kills(server: ServerProcess) -> None:
    client = new_client(server, "a")
    made = client.json("POST", "/v1/function", {"name": "f", "type": "CODE", "lang": "PY"})
    function_id = made["id"]
    # Nearly as large as allowed: it goes through hypercorn, the log and the checkpoint.
    noise = b"".join(number.to_bytes(4, "little") for number in range(1_000_000))
    large = plain_zip({"handler.py": HANDLER, "data.bin": noise}, compression=0)
    first = client.build(function_id, large)
    server.kill9()  # perhaps before it was checked
    server.start()

    assert client.checked(first)["status"] == "SUCCESS"
    assert client.send("GET", f"/v1/build/{first}/archive") == (200, large)
    uploaded = [client.build(function_id, plain_zip({"handler.py": HANDLER})) for _ in range(5)]
    server.kill9()
    server.start()
    for build_id in uploaded:
        assert client.checked(build_id)["status"] == "SUCCESS"
    newest = client.json("GET", "/v1/build/list")["results"][0]["id"]
    assert client.json("GET", f"/v1/function/{function_id}")["buildId"] == newest
    assert server.terminate() == 0
    server.start()
    assert client.send("GET", f"/v1/build/{first}/archive") == (200, large)
    assert client.send("DELETE", f"/v1/function/{function_id}") == (204, b"")
    assert client.json("GET", "/v1/build/list")["totalCount"] == 0
    server.kill9()
    server.start()
    assert client.json("GET", "/v1/function/list") == []
    assert client.send("GET", f"/v1/build/{first}/archive")[0] == 404


def test_accounts_are_apart_on_a_real_server(server: ServerProcess) -> None:
    owner, other = new_client(server, "a"), new_client(server, "b")
    made = owner.json("POST", "/v1/function", {"name": "f", "type": "DOCKER", "lang": "JS"})
    place = f"/v1/function/{made['id']}"

    assert owner.send("GET", place)[0] == 200
    assert other.send("GET", place)[0] == 404
    assert other.send("DELETE", place)[0] == 404
    assert other.json("GET", "/v1/function/list") == []
    assert Client(server, "troth_" + "x" * 43).send("GET", place)[0] == 401
