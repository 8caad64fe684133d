"""Many peers against a server in a process of its own: python -m tests.websocket.load --peers 50 --seconds 60.

Every peer replays recorded packets, one frame each, in real time; every packet that arrives is accounted for.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

import msgpack
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from streamdac.protocols.messages import SUBPROTOCOL, Bye, End, Packet, Reason, Role
from streamdac.protocols.session import Session, Side

from .parts import HOP, hello, packets

RECORDED = packets(1024, codebooks=8)
SETTLE_SECONDS = 5.0  # after which memory has to stay where it is


@dataclasses.dataclass
class Result:
    """Packets, and the memory of the server's process in MB."""

    peers: int
    rooms: int
    seconds: float
    sent: int = 0
    expected: int = 0  # to arrive, if none is dropped
    arrived: int = 0
    missing: int = 0  # holes in the streams that arrived
    dropped: int = 0  # as the server counts
    forwarded: int = 0
    closed: int = 0  # sessions that ended before their time
    worst_ms: float = 0.0  # the latest that a talker was with a packet: this machine's load, not the server's
    memory_mb: list[float] = dataclasses.field(default_factory=list)  # every second
    server_cpu: float = 0.0  # of one core


class Replayer:
    """One peer: talks or only listens, counts what it hears."""

    def __init__(self, *, talks: bool) -> None:
        self.talks = talks
        self.sent = self.arrived = self.missing = 0
        self.closed = False
        self.worst = 0.0
        self.ended = 0
        self._newest: dict[int, int] = {}

    async def run(self, url: str, begin: asyncio.Event, seconds: float, leave: asyncio.Event) -> None:
        async with connect(url, subprotocols=[SUBPROTOCOL], compression=None, proxy=None) as self.socket:
            self.session = Session(Side.CLIENT, now=time.monotonic())
            await self.socket.send(self.session.send(hello(Role.BOTH)))
            hearing = asyncio.create_task(self._hear())
            await begin.wait()
            if self.talks:
                await self._talk(seconds)
            await leave.wait()
            await self.socket.send(self.session.send(Bye(Reason.NORMAL, "")))
            await hearing

    async def _talk(self, seconds: float) -> None:
        start = time.monotonic()
        while (due := start + self.sent * HOP) < start + seconds and not self.closed:
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            self.worst = max(self.worst, now - due)
            packet = RECORDED[self.sent % len(RECORDED)]
            packet = dataclasses.replace(packet, sequence=self.sent % 65536, first_frame=self.sent)
            await self.socket.send(self.session.send(packet))
            self.sent += 1
        await self.socket.send(self.session.send(End(0, self.sent * 320, self.sent)))

    async def _hear(self) -> None:
        try:
            while True:
                data = await self.socket.recv()
                array = msgpack.unpackb(data)
                if array[0] == Packet.KIND:  # without the session's checks, which would cost more than the server
                    _, stream, _, first_frame, *_ = array
                    self.arrived += 1
                    self.missing += first_frame - self._newest.get(stream, 0)
                    self._newest[stream] = first_frame + 1
                    continue
                message = self.session.receive(data, time.monotonic())
                for answer in self.session.take_outgoing():
                    await self.socket.send(answer)
                if isinstance(message, End):
                    self.missing += message.frames - self._newest.get(message.stream, 0)
                    self.ended += 1
                elif isinstance(message, Bye):
                    return
        except ConnectionClosed:
            self.closed = True


async def measure(peers: int, per_room: int, talkers: int, seconds: float) -> Result:
    """Rooms of `per_room` members of whom `talkers` talk all the time."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streamdac", "serve", "--port", "0", "--json", "--no-adapt",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stderr is not None
    url = (await server.stderr.readline()).decode().split()[-1]
    rooms = -(-peers // per_room)
    result = Result(peers, rooms, seconds)
    replayers = [Replayer(talks=i % per_room < talkers) for i in range(peers)]
    begin, leave = asyncio.Event(), asyncio.Event()
    running = [
        asyncio.create_task(replayer.run(f"{url}/room{i // per_room}", begin, seconds, leave))
        for i, replayer in enumerate(replayers)
    ]
    watching = asyncio.create_task(watch(server.pid, result))
    await asyncio.sleep(1.0)
    cpu, started = cpu_seconds(server.pid), time.monotonic()
    begin.set()
    expected_ends = sum(min(talkers, per_room) - replayer.talks for replayer in replayers)
    while sum(replayer.ended for replayer in replayers) < expected_ends and time.monotonic() < started + seconds + 15:
        await asyncio.sleep(0.1)
    result.server_cpu = round((cpu_seconds(server.pid) - cpu) / (time.monotonic() - started), 2)
    leave.set()
    await asyncio.wait_for(asyncio.gather(*running), 20)
    watching.cancel()
    server.send_signal(signal.SIGINT)
    out, _ = await server.communicate()
    last = json.loads(out.decode().splitlines()[-1])
    result.dropped, result.forwarded = last["dropped"], last["forwarded"]
    for replayer in replayers:
        result.sent += replayer.sent
        result.arrived += replayer.arrived
        result.missing += replayer.missing
        result.closed += replayer.closed
        result.worst_ms = max(result.worst_ms, round(1000 * replayer.worst, 1))
        result.expected += replayer.sent * (per_room - 1)
    return result


async def watch(pid: int, result: Result) -> None:
    """Note the server's memory every second."""
    while True:
        await asyncio.sleep(1.0)
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        result.memory_mb.append(round(kilobytes / 1024, 2))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    import os

    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=50)
    parser.add_argument("--per-room", type=int, default=5)
    parser.add_argument("--talkers", type=int, default=2, help="of each room")
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    result = asyncio.run(measure(options.peers, options.per_room, options.talkers, options.seconds))
    print(json.dumps(dataclasses.asdict(result)))


if __name__ == "__main__":
    main()
