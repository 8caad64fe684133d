"""Peers with a codec in rooms of a real server: what arrives is what was sent, also over bad wires and after losses."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import streamdac
from streamdac.errors import DeniedError, ModelMismatchError, RemoteProtocolError, UnavailableError, UsageError
from streamdac.frontends.ws_access import Settings
from streamdac.frontends.ws_server import RelayServer
from streamdac.frontends.ws_stats import PeerStats
from streamdac.protocols.messages import SUBPROTOCOL, End, Mute, Offer, Packet, Role
from streamdac.protocols.negotiate import answer
from streamdac.protocols.netsim import Network
from streamdac.protocols.packets import packet_codes
from streamdac.protocols.session import Session, Side

from .parts import PATIENCE, LossyWire, hello, predicting_codec, raw, running, small_codec, speech, until, url

HOP = 320


def local(audio: np.ndarray) -> np.ndarray:
    """What the codes of audio `[T]` decode to here, frame by frame."""
    codec = small_codec()
    codes, decoder = codec.encode(audio), codec.decoder()
    parts = [decoder.push(codes[:, :, i : i + 1])[0, 0] for i in range(codes.shape[2])]
    return np.concatenate(parts)[: len(audio)]


async def gather(peer, samples: int | None = None) -> np.ndarray:
    """What a peer hears `[T]`, until there are so many samples or the connection ends."""
    blocks, got = [np.zeros(0, np.float32)], 0
    heard = aiter(peer)
    with contextlib.suppress(StopAsyncIteration):
        while samples is None or got < samples:
            block = await asyncio.wait_for(anext(heard), PATIENCE)
            blocks.append(block[:, 0])
            got += len(block)
    await heard.aclose()
    return np.concatenate(blocks)


@contextlib.asynccontextmanager
async def open_peer(relay_url: str, **options: Any) -> AsyncIterator[Any]:
    """A peer with the small model that does not adapt, unless told otherwise."""
    async with streamdac.connect(relay_url, **{"model": small_codec(), "adapt": False, **options}) as peer:
        yield peer


@contextlib.asynccontextmanager
async def overhearing() -> AsyncIterator[Any]:
    """A relay that cuts nothing, and a bare receiver of the small model's packets."""
    offer = Offer(small_codec().fingerprint, 24_000, 320, 4, 64)
    async with (
        running(adapt=False) as relay,
        raw(relay, greet=hello(Role.RECEIVE, offer=offer, codebooks=4), read=True) as listener,
    ):
        yield relay, listener


def frames_heard(listener: Any) -> list[np.ndarray]:
    """The codes `[K, C, F]` of each packet that came."""
    layout = listener.session.agreement.layout
    return [packet_codes(layout, packet) for packet in listener.heard(Packet)]


async def test_what_is_sent_arrives_with_exactly_its_codes() -> None:
    audio, codec = speech(0.6), small_codec()
    async with overhearing() as (relay, listener):
        async with open_peer(url(relay), role="send") as peer:
            await peer.send(audio)
        await until(lambda: listener.heard(End))
        assert np.array_equal(np.concatenate(frames_heard(listener), axis=2)[:, 0], codec.encode(audio)[0])
        assert listener.heard(End)[0].samples == len(audio)


async def test_with_vbr_packets_hold_fewer_codebooks_where_it_is_quiet() -> None:
    audio, codec = speech(0.6), small_codec()
    audio[4000:10_000] *= np.float32(1e-3)
    wanted = codec.encode(audio, vbr=True)[0]
    async with overhearing() as (relay, listener):
        async with open_peer(url(relay), role="send", vbr=True) as peer:
            await peer.send(audio)
        await until(lambda: listener.heard(End))
        frames = [codes[:, 0] for codes in frames_heard(listener)]
    assert [frame.shape[1] for frame in frames] == [1] * wanted.shape[1]
    assert [len(frame) for frame in frames] == (wanted >= 0).sum(axis=0).tolist()
    assert {len(frame) for frame in frames} >= {1, 4}
    for index, frame in enumerate(frames):
        assert np.array_equal(frame[:, 0], wanted[: len(frame), index])


@pytest.mark.parametrize("chunk", [100, 320, 5000])
async def test_an_exact_peer_hears_the_local_decode_sample_for_sample(chunk) -> None:
    audio = speech(0.5)
    async with running(adapt=False) as relay, open_peer(url(relay), role="receive", exact=True) as listener:
        async with open_peer(url(relay), role="send") as speaker:
            for start in range(0, len(audio), chunk):
                await speaker.send(audio[start : start + chunk])
        assert np.array_equal(await gather(listener, len(audio)), local(audio))
        await until(lambda: listener.stats().ended)
        assert (listener.stats().ended, listener.stats().left, listener.stats().broken) == (1, 0, 0)


async def test_an_exact_peer_is_told_that_a_sender_left_before_the_end() -> None:
    async with running(adapt=False) as relay, open_peer(url(relay), role="receive", exact=True) as listener:
        with contextlib.suppress(InterruptedError):
            async with open_peer(url(relay), role="send") as speaker:
                await speaker.send(speech(0.2))
                raise InterruptedError
        await until(lambda: listener.stats().left)
        assert (listener.stats().ended, listener.stats().left, listener.stats().broken) == (0, 1, 0)


async def test_a_send_that_is_cancelled_while_it_encodes_has_sent_its_hop() -> None:
    audio, codec = speech(0.2), small_codec()
    async with overhearing() as (relay, listener):
        async with open_peer(url(relay), role="send") as peer:
            encode = peer._encode

            def slow(block: np.ndarray) -> np.ndarray:
                time.sleep(0.02)
                return encode(block)

            peer._encode = slow
            for start in range(0, len(audio), HOP):
                sending = asyncio.ensure_future(peer.send(audio[start : start + HOP].copy()))
                await asyncio.sleep(0.005)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
        await until(lambda: listener.heard(End))
        assert np.array_equal(np.concatenate(frames_heard(listener), axis=2)[:, 0], codec.encode(audio)[0])
        (end,) = listener.heard(End)
        assert (end.samples - len(audio)) // HOP == end.frames - 15  # but for what passed in silence


async def test_an_exact_peer_reads_what_has_come_after_the_session_is_over() -> None:
    audio, heard = speech(0.5), []
    async with running(adapt=False) as relay:
        options = {"role": "receive", "exact": True, "retry_seconds": 0.0}
        with contextlib.suppress(UnavailableError):  # for the server has gone
            async with open_peer(url(relay), **options) as listener:
                blocks, behind = listener._playback._blocks, threading.Event()

                def slow(message: Any) -> Any:
                    behind.wait(PATIENCE)
                    return blocks(message)

                listener._playback._blocks = slow
                async with open_peer(url(relay), role="send") as speaker:
                    await speaker.send(audio)
                await until(lambda: listener._playback._messages.qsize() >= 37)
                await relay.stop()
                await until(listener._running.done)
                behind.set()
                async for block in listener:
                    heard.append(block)
    assert np.array_equal(np.concatenate(heard)[:, 0], local(audio))


async def test_a_live_peer_that_reads_slowly_comes_to_the_end_of_a_session_that_is_over() -> None:
    async def hear_to_the_end(relay: RelayServer) -> None:
        async with open_peer(url(relay), role="receive", retry_seconds=0.0) as listener:
            await until(lambda: len(listener._heard._blocks) > 5)
            await relay.stop()
            await until(listener._running.done)
            async for _ in listener:
                await asyncio.sleep(1.2 * HOP / 24_000)

    async with running() as relay:
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(hear_to_the_end(relay), PATIENCE)


async def heard_live(audio: np.ndarray) -> tuple[np.ndarray, PeerStats]:
    """What a live peer without drift correction hears, and what became of the frames."""
    options = {"role": "receive", "correct_drift": False, "delay": 0.9}
    async with running(adapt=False) as relay, open_peer(url(relay), **options) as listener:
        hearing = asyncio.create_task(gather(listener, 3 * 24_000))
        async with open_peer(url(relay), role="send") as speaker:
            await speaker.send(audio)
        return await hearing, listener.stats()


async def test_without_drift_correction_a_live_peer_hears_the_local_decode_sample_for_sample() -> None:
    audio = speech(0.8)
    for _ in range(5):
        heard, stats = await heard_live(audio)
        if (stats.played, stats.concealed) == (60, 0):
            break  # else this machine was too busy to be in time even with 0.9 s to spare
    start, expected = int(np.flatnonzero(heard)[0]), local(audio)
    assert np.array_equal(heard[start : start + len(expected)], expected)
    assert not heard[:start].any()
    assert not heard[start + len(expected) + HOP :].any()


@pytest.mark.parametrize(
    ("network", "redundancy"),
    [
        pytest.param(Network(delay=0.02, loss=0.1, ordered=True), 2, id="10-percent"),
        pytest.param(Network(delay=0.02, loss=0.1, burst=15, ordered=True), 0, id="bursts-of-200-ms"),
        pytest.param(Network(delay=0.02, stall_every=0.7, stall=0.2, ordered=True), 0, id="stalls-of-200-ms"),
    ],
)
async def test_over_a_bad_wire_the_audio_stays_finite_and_in_time(network, redundancy) -> None:
    audio = speech(4.0)
    async with running(adapt=False) as relay, LossyWire(relay, network) as wire:
        bad = f"ws://127.0.0.1:{wire.port}/"
        async with open_peer(bad, role="receive") as listener:
            hearing = asyncio.create_task(gather(listener, 6 * 24_000))
            async with open_peer(bad, role="send", redundancy_frames=redundancy) as speaker:
                await speaker.send(audio)
            heard = await hearing
            stats = listener.stats()
    assert np.isfinite(heard).all()
    assert np.abs(heard).max() <= 1.0
    assert stats.played > 50
    if network.loss:
        assert wire.lost > 0
        assert stats.concealed + stats.recovered > 0
    if redundancy:
        assert stats.recovered > 0


async def test_frames_lost_are_foretold_by_a_model_that_can() -> None:
    audio, codec = speech(4.0), predicting_codec()
    network = Network(delay=0.02, loss=0.1, burst=3, ordered=True)
    async with (
        running(adapt=False) as relay,
        LossyWire(relay, network) as wire,
        open_peer(f"ws://127.0.0.1:{wire.port}/", model=codec, role="receive") as listener,
    ):
        hearing = asyncio.create_task(gather(listener, 6 * 24_000))
        async with open_peer(url(relay), model=codec, role="send", redundancy_frames=1) as speaker:
            await speaker.send(audio)
        heard = await hearing
        stats = listener.stats()
    assert np.isfinite(heard).all()
    assert stats.played > 50
    assert stats.concealed > 0
    assert stats.recovered > 0


@pytest.mark.parametrize(
    ("codec", "codebooks", "repeated"), [(small_codec, 4, 1), (predicting_codec, 4, 2), (predicting_codec, 1, 1)]
)
async def test_packets_repeat_the_codebooks_that_the_next_frames_depend_on(codec, codebooks, repeated) -> None:
    offer = Offer(codec().fingerprint, 24_000, 320, 4, 64)
    async with (
        running(adapt=False) as relay,
        raw(relay, greet=hello(Role.RECEIVE, offer=offer, codebooks=4), read=True) as listener,
        open_peer(url(relay), model=codec(), role="send", codebooks=codebooks, redundancy_frames=3) as speaker,
    ):
        await speaker.send(speech(0.2))
        await until(lambda: len(listener.heard(Packet)) > 5)
        assert [*listener.heard(Packet)[5].redundancy[:2]] == [3, repeated]


async def test_a_pause_is_silence_and_not_loss() -> None:
    async with overhearing() as (relay, listener):
        async with open_peer(url(relay), role="send") as speaker:
            await speaker.send(speech(0.2))
            await until(lambda: listener.heard(Mute))
            await asyncio.sleep(0.4)
            await speaker.send(speech(0.2))
            muted = speaker.peer.counts.muted_frames
        await until(lambda: listener.heard(End))
        frames = [packet.first_frame for packet in listener.heard(Packet)]
        assert frames == [*range(15), *range(15 + muted, 30 + muted)]
        assert listener.heard(Mute)[0].first_frame == 15
        assert muted >= 40  # of 0.6 s, or more on a busy machine
        assert listener.heard(End)[0] == End(1, (30 + muted) * HOP, 30 + muted)


async def test_two_speakers_are_mixed_and_an_echo_comes_back() -> None:
    async with running(echo=True, adapt=False) as relay, open_peer(url(relay)) as one, open_peer(url(relay)) as two:
        await asyncio.gather(one.send(speech(0.5)), two.send(speech(0.5)))
        for peer in (one, two):
            await until(lambda peer=peer: peer.stats().speaking == 2)


async def test_a_peer_takes_up_a_new_session_when_the_server_comes_back() -> None:
    notices = []
    audio = speech(0.3)
    first = RelayServer(Settings(port=0, adapt=False))
    await first.start()
    async with (
        open_peer(url(first), role="send") as speaker,
        open_peer(url(first), role="receive", exact=True) as listener,
    ):
        listener.peer.notice = notices.append
        await speaker.send(audio)
        await first.stop()
        await until(lambda: speaker.peer.channel is None and listener.peer.channel is None)
        await speaker.send(audio)  # into the gap
        second = RelayServer(Settings(port=first.port, adapt=False))
        await second.start()
        try:
            for peer in (speaker, listener):
                await until(lambda peer=peer: peer.stats().connected)
                assert peer.stats().sessions == 2
                assert peer.stats().gap_seconds > 0
            assert 0 < speaker.stats().frames_lost <= 23
            await speaker.send(audio)
            await until(lambda: second.counts.forwarded >= 20)
            assert len(await gather(listener, (22 + 10) * HOP)) >= (22 + 10) * HOP  # of both sessions
            assert (listener.stats().ended, listener.stats().left, listener.stats().broken) == (0, 0, 1)
            assert [notices[0], notices[1][:19]] == ["the server ends; trying again", "a new session after"]
        finally:
            await second.stop()


async def test_a_peer_gives_up_when_nobody_comes_back() -> None:
    async def hear_to_the_end(relay: RelayServer) -> None:
        async with open_peer(url(relay), role="receive", retry_seconds=0.2) as listener:
            await asyncio.gather(gather(listener), relay.stop())

    async with running() as relay:
        with pytest.raises(UnavailableError, match="the server ends, and no new session for 0"):
            await hear_to_the_end(relay)


async def test_a_server_that_is_killed_is_noticed() -> None:
    async with running() as relay, open_peer(url(relay), role="receive") as listener:
        (channel,) = relay._channels
        channel.socket.transport.abort()
        await until(lambda: listener.stats().sessions == 2)
        assert listener.stats().connected


async def test_a_room_of_another_model_is_refused_by_name() -> None:
    async with running() as relay, raw(relay, greet=hello()):
        with pytest.raises(ModelMismatchError, match="session rejected: no common model"):
            async with open_peer(url(relay)):
                pass


async def test_who_is_cancelled_while_it_waits_for_the_answer_has_left_the_server() -> None:
    asked, cancelled, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer_late(socket: ServerConnection) -> None:
        session = Session(Side.SERVER, now=0.0)
        said = session.receive(await socket.recv(), 0.0)
        accept = session.send(answer(said, said.offers))
        asked.set()
        await cancelled.wait()
        with contextlib.suppress(ConnectionClosed):
            await socket.send(accept)
        await socket.wait_closed()
        gone.set()

    async with serve(answer_late, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        connection = streamdac.connect(f"ws://127.0.0.1:{port}/", model=small_codec())
        opening = asyncio.ensure_future(connection.__aenter__())
        await asked.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        cancelled.set()
        await until(gone.is_set)
        assert connection.peer.channel is None
        assert connection.peer.counts.sessions == 0


async def test_a_token_lets_in_and_a_wrong_one_does_not() -> None:
    async with running(token="sesame") as relay:
        async with open_peer(url(relay), token="sesame") as peer:
            assert peer.stats().connected
        with pytest.raises(DeniedError, match="HTTP 401: wrong token or none"):
            async with open_peer(url(relay), token="sesamE"):
                pass


async def test_tls_is_checked_against_the_certificates_trusted(certificate) -> None:
    cert, key = certificate
    audio = speech(0.2)
    async with running(tls_cert=cert, tls_key=key, adapt=False) as relay:
        secure = url(relay).replace("ws:", "wss:")
        async with open_peer(secure, tls_ca=cert, role="receive", exact=True) as listener:
            async with open_peer(secure, tls_ca=cert, role="send") as speaker:
                await speaker.send(audio)
            assert np.array_equal(await gather(listener, len(audio)), local(audio))
        with pytest.raises(DeniedError, match="its certificate is not trusted"):
            async with open_peer(secure):
                pass
        with pytest.raises(UnavailableError):
            async with open_peer(url(relay)):
                pass


async def test_a_server_that_breaks_the_protocol_is_left_with_its_fault_named() -> None:
    async def hear_garbage(relay: RelayServer) -> None:
        async with open_peer(url(relay), role="receive") as listener:
            (channel,) = relay._channels
            await channel.socket.send(b"\x93\x03\x00\x00")
            await gather(listener)

    async with running() as relay:
        with pytest.raises(RemoteProtocolError, match="End: got 2 fields, need 3"):
            await hear_garbage(relay)


@pytest.mark.parametrize(
    ("pcm", "text"),
    [
        (np.zeros((10, 2), np.float32), r"shape \(10, 2\), need floats \[T\] or \[T, 1\]"),
        (np.zeros(10, np.int16), "int16"),
        (np.full(10, np.nan, np.float32), "not finite"),
        (np.float32(1), r"shape \(\)"),
    ],
)
async def test_what_is_no_audio_is_refused_with_its_shape(pcm, text) -> None:
    async with running() as relay, open_peer(url(relay)) as peer:
        with pytest.raises(UsageError, match=text):
            await peer.send(pcm)


async def test_each_role_does_only_its_own() -> None:
    async with running() as relay:
        async with open_peer(url(relay), role="receive") as peer:
            with pytest.raises(UsageError, match="only receives"):
                await peer.send(np.zeros(10, np.float32))
        async with open_peer(url(relay), role="send") as peer:
            with pytest.raises(UsageError, match="only sends"):
                await gather(peer)
    with pytest.raises(UsageError, match="role is 'sing'"):
        streamdac.connect("ws://h", role="sing")
    with pytest.raises(UsageError, match="need ws:// or wss://"):
        streamdac.connect("gopher://h")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("delay", -0.1), ("delay", 1.1), ("delay", float("nan")),
        ("channels", 0), ("channels", 33), ("channels", 1.5),
        ("codebooks", 0), ("codebooks", 65),
        ("frames_per_packet", 0), ("frames_per_packet", 65),
        ("redundancy_frames", -1), ("redundancy_frames", 65),
        ("retry_seconds", -1.0), ("retry_seconds", float("nan")),
    ],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_by_its_name(option, value) -> None:
    with pytest.raises(UsageError, match=f"{option} is "):
        streamdac.connect("ws://h", **{option: value})


async def test_more_codebooks_than_the_model_has_are_refused() -> None:
    with pytest.raises(UsageError, match="codebooks is 5, need a whole number from 1 to 4"):
        async with open_peer("ws://127.0.0.1:1", codebooks=5):
            pass
