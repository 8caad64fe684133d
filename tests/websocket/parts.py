"""A server on a free port, raw clients that speak the protocol by hand, and a lossy wire between the two."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from streamdac.codec import Codec
from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.frontends.ws_access import Settings
from streamdac.frontends.ws_server import RelayServer
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.protocols import wire
from streamdac.protocols.messages import SUBPROTOCOL, Accept, Hello, Layout, Message, Offer, Packet, Role
from streamdac.protocols.negotiate import answer
from streamdac.protocols.netsim import Link, Network
from streamdac.protocols.packets import make_packet
from streamdac.protocols.session import Session, Side

SPEECH = Path(__file__).parent.parent / "data" / "speech.flac"
OFFER = Offer(b"m" * 32, 24_000, 320, 8, 1024)
LAYOUT = Layout(8, 1024, 1)
HOP = 320 / 24_000  # s
PATIENCE = 20.0  # s, for what has to happen: only so that a failure ends


@cache
def small_network() -> DAC:
    """24 kHz, hops of 320 samples as the embedded model, next to no channels, every parameter random."""
    made = DAC(
        ModelConfig(
            encoder_dim=2,
            encoder_rates=(8, 5, 4, 2),
            latent_dim=8,
            decoder_dim=16,
            decoder_rates=(2, 4, 5, 8),
            n_codebooks=4,
            codebook_size=64,
            codebook_dim=4,
            padding=CAUSAL,
        )
    )
    randomize(made, 0)
    return made.eval()


@cache
def small_codec() -> Codec:
    return Codec(small_network(), engine="torch", name="small")


@cache
def predicting_codec() -> Codec:
    """The small one, with a predictor of what two codebooks say."""
    made = DAC(replace(small_network().config, predictor_dim=8, predictor_codebooks=2))
    randomize(made, 0)
    return Codec(made.eval(), engine="torch", name="predicting")


@cache
def looking_ahead_codec() -> Codec:
    """The small one, padded on both sides."""
    made = DAC(replace(small_network().config, padding=CENTRED))
    randomize(made, 0)
    return Codec(made.eval(), engine="torch", name="looking-ahead")


@cache
def long_hops() -> Codec:
    """Hops of 1280 samples: less work for tests of long times."""
    made = DAC(
        ModelConfig(
            encoder_dim=2, encoder_rates=(8, 5, 8, 4), latent_dim=8, decoder_dim=16, decoder_rates=(4, 8, 5, 8),
            n_codebooks=4, codebook_size=64, codebook_dim=4, padding=CAUSAL,
        )
    )  # fmt: skip
    randomize(made, 0)
    return Codec(made.eval(), engine="torch", name="long-hops")


def speech(seconds: float) -> np.ndarray:
    """Speech `[T]` at 24 kHz."""
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == 24_000
    return audio[: round(seconds * rate)]


@contextlib.asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[RelayServer]:
    relay = RelayServer(Settings(**{"port": 0, **settings}))
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


def url(relay: RelayServer, room: str = "") -> str:
    return f"ws://127.0.0.1:{relay.port}/{room}"


def packets(count: int, *, codebooks: int = 8, seed: int = 0) -> list[Packet]:
    """Packets of one frame of random codes."""
    codes = np.random.default_rng(seed).integers(0, 1024, (count, codebooks, 1, 1))
    return [make_packet(LAYOUT, code, sequence=i, first_frame=i) for i, code in enumerate(codes)]


def hello(role: Role = Role.BOTH, *, offer: Offer = OFFER, codebooks: int = 8, channels: int = 1) -> Hello:
    return Hello(1, role, (offer,), channels, codebooks, 1, 0, 1)


class Raw:
    """A client without a codec: the session by hand, every message it got with its time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.session = Session(Side.CLIENT, now=time.monotonic())
        self.got: list[tuple[float, Message]] = []
        self.reading: asyncio.Task[None] | None = None

    async def say(self, message: Message) -> None:
        await self.socket.send(self.session.send(message))

    async def hear(self) -> Message:
        while True:
            message = self.session.receive(await self.socket.recv(), time.monotonic())
            for reply in self.session.take_outgoing():
                await self.socket.send(reply)
            if message is not None:
                self.got.append((time.monotonic(), message))
                return message

    async def hear_a(self, kind: type[Message]) -> Any:
        async def heard() -> Message:
            while not isinstance(message := await self.hear(), kind):
                pass
            return message

        return await asyncio.wait_for(heard(), PATIENCE)

    async def keep_hearing(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.hear()

    def heard(self, kind: type[Message]) -> list[Any]:
        return [message for _, message in self.got if isinstance(message, kind)]

    async def closed(self) -> tuple[int, str]:
        """The close code and reason with which the server ends it."""

        async def read() -> None:
            while True:
                await self.socket.recv()

        with contextlib.suppress(ConnectionClosed):
            await asyncio.wait_for(read(), PATIENCE)
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def raw(
    relay: RelayServer, room: str = "", *, greet: Hello | None = None, read: bool = False, **options: Any
) -> AsyncIterator[Raw]:
    """A raw client in a room; `greet` says Hello and waits for the Accept, `read` keeps hearing."""
    async with connect(
        url(relay, room), subprotocols=[SUBPROTOCOL], compression=None, proxy=None, close_timeout=1, **options
    ) as socket:
        client = Raw(socket)
        if greet is not None:
            await client.say(greet)
            assert isinstance(await client.hear(), Accept)
        if read:
            client.reading = asyncio.create_task(client.keep_hearing())
        try:
            yield client
        finally:
            if client.reading is not None:
                client.reading.cancel()
                await asyncio.gather(client.reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def accepting(then: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that accepts what a client offers, then does what it is told."""

    async def run(socket: ServerConnection) -> None:
        session = Session(Side.SERVER, now=0.0)
        said = session.receive(await socket.recv(), 0.0)
        assert isinstance(said, Hello)
        await socket.send(session.send(answer(said, said.offers)))
        with contextlib.suppress(ConnectionClosed):
            await then(socket)

    async with serve(run, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as server:  # type: ignore[list-item]
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that has to happen; the time is only there so that a failure ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.01)


class LossyWire:
    """Stands between clients and a server: packets of both directions go through a simulated network."""

    def __init__(self, relay: RelayServer, network: Network) -> None:
        self.relay, self.network = relay, network
        self.lost = 0
        self.port = 0
        self._seed = 0

    async def carry(self, client: ServerConnection) -> None:
        assert client.request is not None
        async with connect(
            f"ws://127.0.0.1:{self.relay.port}{client.request.path}",
            subprotocols=[SUBPROTOCOL],
            compression=None,
            proxy=None,
        ) as there:
            ways = [self._way(client, there), self._way(there, client)]
            _, rest = await asyncio.wait(
                [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
            )
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    async def _way(self, source: Any, target: Any) -> None:
        self._seed += 1
        link: Link[bytes] = Link(self.network, seed=self._seed)
        delivering = asyncio.ensure_future(self._deliver(link, target))
        try:
            async for data in source:
                if isinstance(wire.decode(data), Packet):
                    before = link.counts.lost
                    link.send(data, len(data), time.monotonic())
                    self.lost += link.counts.lost - before
                else:
                    while link.pending:  # nothing overtakes
                        await asyncio.sleep(0.002)
                    await target.send(data)
            while link.pending:
                await asyncio.sleep(0.002)
        except ConnectionClosed:
            pass
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _deliver(self, link: Link[bytes], target: Any) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(0.002)
                for _, data in link.receive(time.monotonic()):
                    await target.send(data)

    async def __aenter__(self) -> LossyWire:
        self._server = await serve(self.carry, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None)
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()
