"""What a peer shows of itself: one object a second for programs, one line for people."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .ws_capture import SILENT_DB, Capture
from .ws_peer import Peer
from .ws_playback import Playback

if TYPE_CHECKING:
    from .ws_server import ServerStats


@dataclass
class PeerStats:
    """Counts since the start; bitrates since the last look. The delay of a voice is the sum of the six parts."""

    seconds: float = 0.0
    connected: bool = False
    sessions: int = 0
    gap_seconds: float = 0.0
    input_db: float = SILENT_DB
    output_db: float = SILENT_DB
    speaking: int = 0  # streams heard
    codebooks: int = 0
    sent_kbps: float = 0.0
    received_kbps: float = 0.0
    frames_sent: int = 0
    frames_lost: int = 0  # of ours, encoded without a session
    packets_dropped: int = 0  # of ours, too old, or left over from a session that was lost
    played: int = 0  # frames
    recovered: int = 0
    concealed: int = 0
    skipped: int = 0
    lost_packets: int = 0  # of the others
    late_packets: int = 0
    refused_streams: int = 0  # that were not heard, because too many spoke at once
    not_heard: int = 0  # of these now
    ended: int = 0  # streams heard to their end
    left: int = 0  # streams of which the sender went before their end, where every frame matters
    broken: int = 0  # streams that a lost session of ours cut off, where every frame matters
    drift_ppm: float = 0.0
    round_trip_ms: float = 0.0
    capture_ms: float = 0.0  # what the source says that it is late, the hop, and what the model looks ahead beyond it
    encode_ms: float = 0.0
    network_ms: float = 0.0  # half of a round trip
    buffer_ms: float = 0.0
    decode_ms: float = 0.0
    playback_ms: float = 0.0  # what the sink says that it holds


class PeerWatch:
    """Looks at a peer from time to time."""

    def __init__(self, peer: Peer, capture: Capture | None, playback: Playback | None) -> None:
        self.peer, self.capture, self.playback = peer, capture, playback
        self._started = time.monotonic()
        self._last = (self._started, 0, 0)

    def look(self) -> PeerStats:
        """The state now."""
        now, peer, codec = time.monotonic(), self.peer, self.peer.codec
        counts, channel = peer.counts, peer.channel
        stats = PeerStats(
            seconds=round(now - self._started, 3),
            connected=channel is not None and channel.open,
            sessions=counts.sessions,
            gap_seconds=round(counts.gap_seconds, 3),
            codebooks=peer.codebooks,
            frames_sent=counts.frames,
            frames_lost=counts.lost_frames,
            packets_dropped=counts.dropped + (channel.outbox.counts.dropped if channel else 0),
        )
        trip = channel.session.round_trip if channel else None
        if trip is not None:
            stats.round_trip_ms, stats.network_ms = round(1000 * trip, 2), round(500 * trip, 2)
        if self.capture is not None:
            stats.input_db = round(self.capture.level, 1)
            device = float(getattr(self.capture.source, "latency", 0.0))
            samples = codec.hop_length + codec.plan.encoder_lookahead
            stats.capture_ms = round(1000 * (device + samples / codec.sample_rate), 2)
            stats.encode_ms = round(self.capture.encode_ms, 2)
        if self.playback is not None:
            self._hear(stats, self.playback, now)
        self._bitrates(stats, now)
        return stats

    def _hear(self, stats: PeerStats, playback: Playback, now: float) -> None:
        totals = playback.totals()
        stats.output_db = round(playback.level, 1)
        stats.played, stats.recovered, stats.concealed = totals.played, totals.recovered, totals.concealed
        stats.skipped, stats.lost_packets, stats.late_packets = totals.dropped, totals.lost_packets, totals.late_packets
        stats.refused_streams, stats.not_heard = totals.refused_streams, playback.not_heard
        stats.ended, stats.left, stats.broken = playback.ended, playback.left, playback.broken
        stats.buffer_ms = round(1000 * playback.delay(now), 1)
        stats.decode_ms = round(playback.decode_ms, 2)
        stats.playback_ms = round(1000 * float(getattr(playback.sink, "latency", 0.0)), 2)
        stats.speaking, drift = playback.speaking()
        stats.drift_ppm = round(1e6 * drift, 1)

    def _bitrates(self, stats: PeerStats, now: float) -> None:
        counts, channel = self.peer.counts, self.peer.channel
        sent = counts.sent_bytes + (channel.counts.sent_bytes if channel else 0)
        received = counts.received_bytes + (channel.counts.received_bytes if channel else 0)
        then, sent_then, received_then = self._last
        self._last = now, sent, received
        seconds = max(now - then, 1e-3)
        stats.sent_kbps = round(max(0, sent - sent_then) * 8 / seconds / 1000, 2)
        stats.received_kbps = round(max(0, received - received_then) * 8 / seconds / 1000, 2)


def as_object(stats: PeerStats | ServerStats) -> dict[str, Any]:
    """For `--json`."""
    return asdict(stats)


def peer_line(stats: PeerStats) -> str:
    """For a terminal."""
    delay = stats.capture_ms, stats.encode_ms, stats.network_ms, stats.buffer_ms, stats.decode_ms, stats.playback_ms
    parts = " + ".join(f"{part:.0f}" for part in delay)
    state = f"{stats.speaking} speaking" if stats.connected else "no session"
    if stats.not_heard:
        state += f" ({stats.not_heard} not heard)"
    return (
        f"{state}  in {stats.input_db:.0f} out {stats.output_db:.0f} dB  {stats.sent_kbps:.1f}/{stats.received_kbps:.1f} kbps "
        f"x{stats.codebooks}  lost {stats.lost_packets} late {stats.late_packets} concealed {stats.concealed}  "
        f"delay {parts} = {sum(delay):.0f} ms"
    )


def server_line(stats: ServerStats) -> str:
    """For a terminal."""
    return (
        f"{stats.sessions} sessions in {len(stats.rooms)} rooms  {stats.received_kbps:.1f} kbps in, {stats.sent_kbps:.1f} out  "
        f"{stats.forwarded} packets forwarded, {stats.dropped} dropped, {stats.thinned} thinned  "
        f"slowest {stats.slowest_ms:.0f} ms"
    )
