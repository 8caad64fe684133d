"""The commands in this process: what cannot be done is said in one line, with the right exit code."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from streamdac import cli, load
from streamdac.errors import BadDataError, UnavailableError, UsageError
from streamdac.frontends.ws_access import Settings, check_exposure, is_loopback, read_token
from streamdac.frontends.ws_client import Target, open_socket, with_room


@pytest.fixture
def nobody() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"ws://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["listen", "{nobody}", "-o", "null:"], 69, "cannot connect"),
        (["listen", "WSS://127.0.0.1:1", "-o", "null:"], 69, "wss://127.0.0.1:1: cannot connect"),
        (["call", "{nobody}", "-i", "tone:440", "-o", "null:", "-n", "9"], 2, "9 codebooks, model small has 4"),
        (["send", "{nobody}", "-i", "missing.wav"], 66, "missing.wav"),
        (["send", "{nobody}/a", "--room", "b", "-i", "null:1"], 2, "room 'b' and a path of another room"),
        (["send", "http://127.0.0.1", "-i", "null:1"], 2, "need ws://HOST"),
        (["send", "ws://[x", "-i", "null:1"], 2, "'ws://[x': Invalid IPv6 URL"),
        (["send", "ws://h:99999", "-i", "null:1"], 2, "'ws://h:99999': Port out of range"),
        (["send", "ws://h:abc", "-i", "null:1"], 2, "'ws://h:abc': Port could not be cast"),
        (["send", "ws://a..b", "-i", "null:1"], 2, "label empty or too long"),
        (["serve", "--host", "a..b"], 2, "listening on a..b without TLS"),
        (["serve", "--host", "a..b", "--insecure"], 2, "cannot listen on 'a..b'"),
        (["serve", "--room", "my room"], 2, "no room can be 'my room'"),
        (["serve", "--room", "healthz"], 2, "no room can be 'healthz'"),
        (["send", "wss://127.0.0.1:1", "-i", "null:1", "--tls-ca", "missing.pem"], 66, "missing.pem"),
        (["send", "{nobody}", "-i", "null:1", "--token-file", "missing"], 66, "token file missing"),
        (["serve", "--host", "0.0.0.0"], 2, "without TLS (--tls-cert, --tls-key) and a token (--token-file)"),
        (["serve", "--tls-cert", "missing.pem"], 2, "both a certificate and its key"),
        (["serve", "--tls-cert", "missing.pem", "--tls-key", "missing.pem"], 66, "missing.pem"),
        (["serve", "--tls-cert", "/", "--tls-key", "missing.pem"], 66, "cannot read /: Is a directory"),
        (["serve", "--tls-cert", "missing.pem", "--tls-key", "/"], 66, "cannot read missing.pem: No such file"),
        (["serve", "--host", "192.0.2.1", "--insecure"], 69, "cannot listen on 192.0.2.1:8765"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    model, nobody, capsys, monkeypatch, tmp_path, arguments, code, text
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMDAC_MODEL", str(model))
    assert cli.main([argument.format(nobody=nobody) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert err.startswith("streamdac: ")
    assert len(err.splitlines()) == 1


def test_a_port_that_is_taken_is_unavailable(capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 69
    assert capsys.readouterr().err == f"streamdac: cannot listen on 127.0.0.1:{port}: is in use\n"


def test_what_is_no_certificate_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    assert cli.main(["serve", "--tls-cert", str(tmp_path / "x.pem"), "--tls-key", str(tmp_path / "x.pem")]) == 65
    assert "no certificate with its key" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes another user's place: needs root")
@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--token-file", "closed"],
        ["serve", "--tls-cert", "open", "--tls-key", "closed"],
        ["serve", "--tls-cert", "closed", "--tls-key", "open"],
        ["send", "wss://127.0.0.1:1", "-i", "null:1", "--tls-ca", "closed"],
    ],
)
def test_what_may_not_be_read_is_denied(tmp_path, capsys, monkeypatch, model, certificate, words) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMDAC_MODEL", str(model))
    for name, mode in (("open", 0o644), ("closed", 0o600)):
        (tmp_path / name).write_bytes(certificate[0].read_bytes())
        (tmp_path / name).chmod(mode)
    for folder in (tmp_path, *tmp_path.parents[:2], model.parent):
        folder.chmod(0o755)
    small = load(model)
    monkeypatch.setattr("streamdac.frontends.ws_call.load_codec", lambda *_: small)
    os.seteuid(65_534)
    try:
        assert cli.main(words) == 77
    finally:
        os.seteuid(0)
    assert "closed: Permission denied" in capsys.readouterr().err


async def test_a_connection_that_is_closed_without_a_word_is_said_to_be() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UnavailableError) as info:
            await open_socket(Target(f"wss://127.0.0.1:{port}/x"))
    reason = "cannot connect: the connection was closed (is it a ws:// server, without TLS?)"
    assert str(info.value) == f"wss://127.0.0.1:{port}/x: {reason}"


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False),
     ("::", False), ("192.168.1.1", False), ("no.such.host.invalid", False), ("a..b", False), ("x" * 64, False)],
)  # fmt: skip
def test_only_addresses_of_this_machine_are_loopback(host, own) -> None:
    assert is_loopback(host) is own


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, "TLS (--tls-cert, --tls-key) and a token (--token-file)"),
        ({"token": "x"}, "without TLS (--tls-cert, --tls-key):"),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, "without a token (--token-file):"),
    ],
)
def test_listening_to_the_world_needs_tls_and_a_token(settings, missing) -> None:
    with pytest.raises(UsageError) as info:
        check_exposure(Settings(host="0.0.0.0", **settings))
    assert missing in str(info.value)
    check_exposure(Settings(host="0.0.0.0", insecure=True, **settings))
    check_exposure(Settings(host="127.0.0.1", **settings))
    check_exposure(Settings(host="0.0.0.0", token="x", tls_cert=Path("c"), tls_key=Path("k")))


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", "ü".encode()])
def test_a_token_is_one_printable_word(tmp_path, content) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(BadDataError, match="token file"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize(
    ("command", "code"), [(["send", "{nobody}", "-i", "null:1"], 69), (["serve", "--port", "0", "-i", "null:0.1"], 0)]
)
def test_a_token_may_come_through_a_pipe(model, nobody, capsys, command, code) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"sesame\n")
    os.close(writer)
    arguments = [argument.format(nobody=nobody) for argument in command]
    try:
        assert cli.main([*arguments, "--model", str(model), "--token-file", f"/dev/fd/{reader}"]) == code
    finally:
        os.close(reader)
    assert "token file" not in capsys.readouterr().err


def test_a_token_is_the_first_line_of_its_file(tmp_path) -> None:
    (tmp_path / "token").write_text("sesame\nnot this\n")
    assert read_token(tmp_path / "token") == "sesame"


@pytest.mark.parametrize(
    ("url", "room", "whole"),
    [
        ("ws://h", "r", "ws://h/r"),
        ("ws://h:1/r", "r", "ws://h:1/r"),
        ("wss://[::1]:1/", "a b", "wss://[::1]:1/a%20b"),
        ("ws://h/x", None, "ws://h/x"),
        ("WSS://h/X?y", None, "wss://h/X?y"),
        ("Ws://h:1", "R", "ws://h:1/R"),
    ],
)
def test_a_room_becomes_the_path(url, room, whole) -> None:
    assert with_room(url, room) == whole
