"""Who is let in: nobody without the token, under another host name or from another origin."""

import asyncio
import socket
import threading
import urllib.error
import urllib.request

import pytest

pytest.importorskip("bokeh")

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from discovr_jax.explore import page, projection, server
from discovr_jax.explore.videos import ExploreError
from tests.explore import explore_case


@pytest.fixture(scope="module")
def address():
    """Of a server in a thread of its own."""
    videos = explore_case.made_up()
    pages = page.Pages(videos, *projection.project(videos.features))
    started, told = threading.Event(), {}

    def serve():
        asyncio.set_event_loop(asyncio.new_event_loop())
        told["server"], told["address"] = server.start(pages.add_to)
        told["loop"] = IOLoop.current()
        started.set()
        told["loop"].start()
        told["server"].stop()
        told["loop"].close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(60)
    yield told["address"]
    told["loop"].add_callback(told["loop"].stop)
    thread.join(30)


def answer(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_page_names_no_other_host(address):
    status, text = answer(address)
    assert status == 200 and "60 videos, placed by eight numbers" in text and "not a medical device" in text
    places = text.split('src="')[1:] + text.split('href="')[1:]
    here = (f"/{address.split('/')[3]}/", "static/", "data:")
    assert places and all(each.startswith(here) for each in places), places
    assert "cdn" not in text and "v001" not in text  # what is shown comes through the websocket


def test_its_scripts_come_from_here(address):
    status, text = answer(f"{address}static/js/bokeh.min.js")
    assert status == 200 and len(text) > 100_000


@pytest.mark.parametrize("path", ["", "0" * 32 + "/", "0" * 32 + "/static/js/bokeh.min.js", "favicon.ico", "ws", "é"])
def test_without_the_token_nothing_is_there(address, path):
    host = "/".join(address.split("/")[:3])
    assert answer(f"{host}/{urllib.parse.quote(path)}")[0] == 403


def test_another_host_name_is_refused(address):
    assert answer(address, Host="example.org")[0] == 403
    port = address.split(":")[2].split("/")[0]
    assert answer(address, Host=f"localhost:{port}")[0] == 200


def test_another_origin_is_refused(address):
    assert answer(address, Origin="http://example.org")[0] == 403
    assert answer(address, Origin="null")[0] == 403


@pytest.mark.parametrize("wrong", ["token", "origin", ""])
def test_the_websocket_needs_both(address, wrong):
    own = "/".join(address.split("/")[:3])
    base = own + "/" + "0" * 32 + "/" if wrong == "token" else address
    headers = {"Origin": "http://127.0.0.1:1" if wrong == "origin" else own}
    request = HTTPRequest(base.replace("http:", "ws:") + "ws", headers=headers)

    async def connect():
        connection = await websocket_connect(request, subprotocols=["bokeh", "none"])
        connection.close()

    if wrong:
        with pytest.raises(HTTPClientError) as refused:
            asyncio.run(connect())
        assert refused.value.code == 403
    else:
        asyncio.run(connect())


def test_only_this_machine_is_served(address):
    port = int(address.split(":")[2].split("/")[0])
    others = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in {*others, "127.0.0.2"}:
        with socket.socket() as probe:
            probe.settimeout(5)
            assert probe.connect_ex((other, port)) != 0, other


def test_a_port_that_is_taken_is_named():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ExploreError, match=f"--port={port} is taken"):
            server.start(lambda document: None, port)
