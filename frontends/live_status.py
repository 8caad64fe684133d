"""What `live` says while it runs and at its end: the state of a loop in numbers, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bridge import Bridge
    from .device_stream import DeviceStream
    from .live_loop import LiveLoop


@dataclass
class Totals:
    """Trouble so far; of streams that are closed. Counts, and seconds."""

    underruns: int = 0
    underrun_seconds: float = 0.0
    overruns: int = 0
    dropped_seconds: float = 0.0
    corrections: int = 0
    xruns: int = 0
    """Reported by the devices themselves."""
    reconnects: int = 0

    def add(self, bridge: Bridge, stream: DeviceStream) -> None:
        """Take over the counts of a stream that ends."""
        capture, playback = stream.capture.counts, stream.playback.counts
        self.underruns += playback.underruns
        self.underrun_seconds += playback.filled / stream.output_rate
        self.overruns += capture.overruns + playback.overruns
        self.dropped_seconds += capture.dropped / stream.input_rate + playback.dropped / stream.output_rate
        self.corrections += bridge.corrections
        self.xruns += stream.capture.xruns + stream.playback.xruns


@dataclass(frozen=True)
class Split:
    """Where each millisecond goes, from the air before the microphone to that before the loudspeaker. Means, ms."""

    device_in: float
    hop: float
    lookahead: float
    conversion: float
    """Between the devices' rates and the model's."""
    wait: float
    """For the worker to wake up."""
    encode: float
    decode: float
    ring: float
    """In the playback ring: the margin that is left."""
    device_out: float

    @property
    def total(self) -> float:
        """The whole way."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class Status:
    """One moment. Times in ms, levels in dB of full scale."""

    seconds: float
    model: str
    executor: str
    input: str
    output: str
    input_rate: int
    output_rate: int
    input_db: float
    output_db: float
    codebooks: int
    kbps: float
    wire_kbps: float
    muted: bool
    original: bool
    frames: int
    lost_frames: int
    latency: Split
    added_p50_ms: float
    """From ring to ring, by what the software adds."""
    added_p99_ms: float
    compute_p99_ms: float
    compute_max_ms: float
    underruns: int
    underrun_ms: float
    overruns: int
    dropped_ms: float
    corrections: int
    xruns: int
    reconnects: int
    drift_ppm: float
    loop_error_ms: float
    target_ms: float
    total_ms: float

    @classmethod
    def of(cls, loop: LiveLoop, seconds: float) -> Status:
        """Of a running or stopped loop."""
        chain, bridge, opened = loop.chain, loop.bridge, loop.stream.opened
        totals = Totals(**asdict(loop.totals))
        if not loop.stopped:
            totals.add(bridge, loop.stream)
        split = _split(loop)
        return cls(
            seconds=seconds,
            model=loop.codec.name,
            executor=loop.codec.executor.name,
            input=opened.input or "",
            output=opened.output or "",
            input_rate=opened.input_rate,
            output_rate=opened.output_rate,
            input_db=chain.input.db,
            output_db=chain.output.db,
            codebooks=loop.settings.codebooks,
            kbps=chain.kbps,
            wire_kbps=chain.wire_kbps,
            muted=loop.settings.muted,
            original=loop.settings.original,
            frames=chain.frames,
            lost_frames=chain.lost,
            latency=split,
            added_p50_ms=bridge.delays.added.percentile(50),
            added_p99_ms=bridge.delays.added.percentile(99),
            compute_p99_ms=bridge.delays.compute.percentile(99),
            compute_max_ms=bridge.delays.compute.worst,
            underruns=totals.underruns,
            underrun_ms=1000 * totals.underrun_seconds,
            overruns=totals.overruns,
            dropped_ms=1000 * totals.dropped_seconds,
            corrections=totals.corrections,
            xruns=totals.xruns,
            reconnects=totals.reconnects,
            drift_ppm=bridge.drift_ppm,
            loop_error_ms=bridge.error_ms,
            target_ms=bridge.target_ms,
            total_ms=split.total,
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON: figures rounded to what they are worth."""

        def rounded(value: object) -> object:
            if isinstance(value, dict):
                return {key: rounded(inner) for key, inner in value.items()}
            return round(value, 3) if isinstance(value, float) else value

        return {key: rounded(value) for key, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """The report at the end, for people."""
        split = self.latency
        return [
            f"model        {self.model} ({self.executor})",
            f"devices      {self.input!r} at {self.input_rate} Hz to {self.output!r} at {self.output_rate} Hz",
            f"audio        {self.seconds:.1f} s, {self.frames} hops, {self.lost_frames} lost",
            f"bitrate      {self.kbps:.2f} kbps with {self.codebooks} codebooks, {self.wire_kbps:.2f} kbps in packets",
            f"latency      {self.total_ms:.1f} ms = {latency_line(split)}",
            f"added        p50 {self.added_p50_ms:.1f}, p99 {self.added_p99_ms:.1f} ms by the software; compute p99 "
            f"{self.compute_p99_ms:.1f}, max {self.compute_max_ms:.1f} ms a hop",
            f"trouble      {trouble_line(self)}",
        ]


def latency_line(split: Split) -> str:
    """The parts that are not nothing."""
    names = {"device_in": "device in", "lookahead": "look-ahead", "device_out": "device out"}
    parts = [f"{names.get(name, name)} {ms:.1f}" for name, ms in asdict(split).items() if abs(ms) >= 0.05]
    return " + ".join(parts)


def trouble_line(status: Status) -> str:
    """Counts of what went wrong, and the drift."""
    line = f"{status.underruns} underruns ({status.underrun_ms:.0f} ms), {status.overruns} overruns"
    line += f" ({status.dropped_ms:.0f} ms), {status.corrections} corrections, {status.xruns} device xruns"
    line += f", {status.reconnects} reconnects"
    if status.drift_ppm:
        line += f"; drift {status.drift_ppm:+.0f} ppm, {status.loop_error_ms:+.2f} ms from the target"
    return line


def _split(loop: LiveLoop) -> Split:
    """Means so far, and the median of the whole. The ring has what is left of the whole, so the parts add up."""
    chain, bridge, opened, codec = loop.chain, loop.bridge, loop.stream.opened, loop.codec
    hop = 1000 * codec.hop_length / codec.sample_rate
    lookahead = 1000 * codec.lookahead / codec.sample_rate
    conversion = 1000 * bridge.conversion
    wait, compute = bridge.delays.wait.mean, bridge.delays.compute.mean
    encode, decode = chain.encode_ms.mean, chain.decode_ms.mean
    # Conversion and bookkeeping take a little of the compute: shared out in proportion.
    scale = compute / (encode + decode) if encode + decode else 0.0
    added = bridge.delays.added.percentile(50)
    return Split(
        device_in=opened.input_latency_ms,
        hop=hop,
        lookahead=lookahead,
        conversion=conversion,
        wait=wait,
        encode=encode * scale,
        decode=decode * scale,
        ring=added - hop - lookahead - conversion - wait - compute if added else 0.0,
        device_out=opened.output_latency_ms,
    )
