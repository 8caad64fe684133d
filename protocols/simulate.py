"""One stream over a simulated network, from codes to what is played: for tests and for tables of loss against quality."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .bitpack import CodeArray
from .conceal import ConcealCounts
from .jitter import JitterCounts, Kind
from .messages import End, Layout, Packet, Stats
from .netsim import Link, Network
from .rate import RateControl
from .receiver import Playable, Receiver
from .sender import Sender
from .wire import decode, encode

_WEBSOCKET_BYTES = 6  # frame header and mask of a short message
_REPORT_SECONDS = 1.0
HEARD = (Kind.PLAYED, Kind.RECOVERED)


@dataclass(frozen=True, slots=True)
class Setup:
    """How the stream is sent and played."""

    frame_seconds: float = 320 / 24_000
    frames_per_packet: int = 1
    redundancy_frames: int = 0
    redundancy_codebooks: int = 1
    min_codebooks: int = 1  # however slow the network is
    adaptive: bool = False  # rate control by the receiver's reports
    correct_drift: bool = True
    silence: CodeArray | None = None  # codes [K, C] of silence
    foretells: bool = False  # the model fills in frames that are marked as lost
    min_delay: float = 0.02
    max_delay: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What was played, hop by hop from the first one that was not waited for, and how it came about."""

    played: list[Playable] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # of each pop, on the receiver's clock
    delays: list[float] = field(default_factory=list)  # s from the end of a frame's sound to its playback; frames only
    bitrate: float = 0.0  # bit/s on the wire
    codebooks: list[int] = field(default_factory=list)  # in use, at each report
    jitter: JitterCounts = field(default_factory=JitterCounts)
    conceal: ConcealCounts = field(default_factory=ConcealCounts)
    lost: int = 0  # packets, by the network


class _Run:
    """The state of one simulation; time is the receiver's."""

    def __init__(self, codes: CodeArray, layout: Layout, network: Network, setup: Setup, seed: int) -> None:
        self.codes, self.setup, self.drift = codes, setup, network.drift
        self.there: Link[bytes] = Link(network, seed=seed)
        self.back: Link[bytes] = Link(replace(network, bandwidth=None, drift=0.0), seed=seed + 1)
        self.sender = Sender(
            layout,
            frames_per_packet=setup.frames_per_packet,
            redundancy_frames=setup.redundancy_frames,
            redundancy_codebooks=setup.redundancy_codebooks,
        )
        self.receiver = Receiver(
            layout,
            frame_seconds=setup.frame_seconds,
            silence=setup.silence,
            foretells=setup.foretells,
            min_delay=setup.min_delay,
            max_delay=setup.max_delay,
        )
        self.rate = RateControl(
            max_codebooks=len(codes),
            min_codebooks=min(setup.min_codebooks, len(codes)),
            frames_per_packet=setup.frames_per_packet,
            redundancy_codebooks=setup.redundancy_codebooks,
            bits_per_codebook=layout.bits * layout.channels,
        )
        self.outcome = Outcome()
        self.taken = 0  # frames given to the sender
        self.report_due = _REPORT_SECONDS

    def until(self, now: float) -> None:
        """Everything that happens up to `now`: frames sent, packets and reports that arrive."""
        frames = self.codes.shape[-1]
        hop = self.setup.frame_seconds
        while self.taken < frames and (self.taken + 1) * hop <= now * (1 + self.drift):
            self.taken += 1
            messages = [*self.sender.push(self.codes[:, :, self.taken - 1 : self.taken])]
            last = self.taken == frames
            for message in [*messages, *(self.sender.end(0) if last else [])]:
                data = encode(message)
                self.there.send(data, len(data) + _WEBSOCKET_BYTES, self.taken * hop)
        for time, data in self.there.receive(now):
            received = decode(data)
            assert isinstance(received, Packet | End)
            self.receiver.push(received, time)
        if now >= self.report_due:
            self.report_due += _REPORT_SECONDS
            self.back.send(encode(self.receiver.stats(0, now)), 0, now)
        for time, data in self.back.receive(now):
            self.hear(data, time)

    def hear(self, data: bytes, now: float) -> None:
        """The sender gets a report."""
        stats = decode(data)
        assert isinstance(stats, Stats)
        if self.setup.adaptive:
            rate = self.rate.report(stats, now)
            agreed = self.setup.redundancy_frames, self.setup.redundancy_codebooks
            frames, coarse = max(agreed, (rate.redundancy_frames, rate.redundancy_codebooks))  # most frames first
            self.sender.adjust(
                codebooks=rate.codebooks,
                frames_per_packet=rate.frames_per_packet,
                redundancy_frames=frames,
                redundancy_codebooks=coarse,
            )
        self.outcome.codebooks.append(self.sender.codebooks)

    def play(self) -> Outcome:
        """Pop hop after hop until the end; if the End was lost, until nothing can come any more."""
        hop, outcome, now = self.setup.frame_seconds, self.outcome, 0.0
        frames = self.codes.shape[-1]
        while True:
            self.until(now)
            playable = self.receiver.pop(now)
            over = self.taken == frames and not self.there.pending and not self.receiver.jitter.buffered
            if playable.kind is Kind.ENDED or (over and playable.kind not in HEARD):
                break
            if playable.kind is not Kind.WAITING:
                outcome.played.append(playable)
                outcome.times.append(now)
            if playable.kind in HEARD and playable.frame is not None:
                outcome.delays.append(now - (playable.frame + 1) * hop / (1 + self.drift))
            speed = self.receiver.speed(now) if self.setup.correct_drift else 1.0
            now += hop / speed
        outcome.bitrate = self.there.counts.sent_bytes * 8 / (frames * hop)
        outcome.lost = self.there.counts.lost + self.there.counts.overflowed
        outcome.jitter = self.receiver.jitter.counts
        outcome.conceal = self.receiver.concealer.counts
        return outcome


def simulate(
    codes: CodeArray, layout: Layout, network: Network, *, setup: Setup | None = None, seed: int = 0
) -> Outcome:
    """Send codes `[K, C, F]` in real time over the network and play them."""
    return _Run(codes, layout, network, setup or Setup(), seed).play()


def source_frames(played: Sequence[Playable]) -> list[int | None]:
    """For each hop played, the frame of the source in whose place it stands; None for time that the source has not.

    What was concealed while stalled stands for frames that were passed over afterwards; the rest of it made the delay
    longer.
    """
    places: list[int | None] = []
    following = played[0].frame if played else None  # frame after the last one placed
    stalled = 0
    for playable in played:
        frame = playable.frame
        assert frame is not None
        assert following is not None
        places.append(None)
        if playable.kind is Kind.STALLED:
            stalled += 1
            continue
        for i in range(min(stalled, frame - following)):
            places[-1 - stalled + i] = following + i
        if frame >= following:
            places[-1] = frame
            following = frame + 1
        stalled = 0
    return places
