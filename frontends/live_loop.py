"""Microphone to loudspeaker through the codec: the worker thread, the watchdog, and coming back after trouble."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from streamdac.errors import StreamdacError, UnavailableError, UsageError

from .bridge import Bridge, Geometry, Process
from .chain import Chain, Settings
from .device_config import Plan
from .device_names import full_name
from .device_stream import DeviceStream
from .live_status import Status, Totals

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.protocols.netsim import Network

_LEAST_MARGIN, _MOST_MARGIN = 0.005, 0.05  # s
_TWO_CLOCKS = 0.01  # s more where the ends' callbacks are not in step
_RETRY_SECONDS = 1.0
_SWITCH_SECONDS = 0.0005  # Python's own 5 ms would be a third of a hop


@dataclass(frozen=True)
class Options:
    """What a run is to be like."""

    source: str = ""
    """The microphone: number, part of a name, or empty for the default."""
    target: str = ""
    channels: int = 1
    margin: float | None = None
    """Seconds kept for compute and a busy machine; measured at the start where None."""
    latency: str | float = "low"
    block: int = 0
    reconnect: bool = True
    network: Network | None = None
    ramp: bool = True


class LiveLoop:
    """Start, look at `status()` now and then, stop.

    Args:
        record: takes a `.sdac` stream of the codes.
        notify: takes a line about what happened to a device.
        wrap: puts something around the chain.
    """

    def __init__(
        self,
        codec: Codec,
        options: Options,
        settings: Settings,
        *,
        record: BinaryIO | None = None,
        notify: Callable[[str], None] = lambda line: None,
        wrap: Callable[[Process], Process] = lambda chain: chain,
    ) -> None:
        self.codec, self.options, self.settings = codec, options, settings
        self.totals = Totals()
        self.stopped = False
        """No device is open: the totals have all counts."""
        self._record, self._notify, self._wrap = record, notify, wrap
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._worker = threading.Thread(target=self._work, name="codec", daemon=True)
        self._switch = sys.getswitchinterval()

    def start(self) -> None:
        """Open the devices and begin.

        Raises:
            UnavailableError: a device, or PortAudio itself, is not there.
            UsageError: a name fits more than one.
        """
        self.chain = Chain(
            self.codec, self.options.channels, self.settings, network=self.options.network, record=self._record,
            ramp=self.options.ramp,
        )  # fmt: skip
        self._process = self._wrap(self.chain)
        self.margin = self.options.margin or warm_up(self.codec, self.options.channels)
        self.stream = self._open()
        self.bridge = self._bridge()
        # A collection of all that torch has made takes longer than a hop.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._started = time.perf_counter()
        self._worker.start()

    def stop(self) -> None:
        """Stop and let go of the devices."""
        self._stop.set()
        self._worker.join()
        sys.setswitchinterval(self._switch)
        gc.unfreeze()
        if not self.stopped:
            self.totals.add(self.bridge, self.stream)
        self.stopped = True
        self.stream.close()
        if self._record is not None:
            self.chain.finish()

    def check(self) -> None:
        """Raise what ended the worker.

        Raises:
            UnavailableError: a device is gone and nobody is to wait for it.
        """
        if self._failure is not None:
            raise self._failure

    def status(self) -> Status:
        """Where it stands now."""
        return Status.of(self, time.perf_counter() - self._started)

    def _open(self) -> DeviceStream:
        options = self.options
        return DeviceStream(
            Plan(options.source, options.target, self.codec.sample_rate, options.channels, "", options.latency,
                 options.block)
        )  # fmt: skip

    def _bridge(self) -> Bridge:
        opened, codec = self.stream.opened, self.codec
        geometry = Geometry(
            opened.input_rate, opened.output_rate, codec.sample_rate, codec.hop_length, codec.lookahead,
            self.options.channels, opened.one_clock,
        )  # fmt: skip
        margin = self.margin if opened.one_clock or self.options.margin else self.margin + _TWO_CLOCKS
        return Bridge(geometry, self.stream.capture, self.stream.playback, self._process, margin=margin)

    def _work(self) -> None:
        """The worker: hops as they come; at trouble, wait for the device."""
        _prefer()
        self.bridge.begin()
        try:
            while not self._stop.is_set():
                self.stream.wait(0.1)
                while not self._stop.is_set() and self.bridge.step():
                    pass
                # Asked at every ring: while one end lives, the other may hang.
                if reason := self.stream.trouble():
                    self._lost(reason)
        except BaseException as error:
            self._failure = error

    def _lost(self, reason: str) -> None:
        """The device is gone: for good, or until it comes back under its name."""
        self.totals.add(self.bridge, self.stream)
        self.stopped = True
        self.stream.close()
        if not self.options.reconnect:
            raise UnavailableError(f"the sound device is gone: {reason}")
        self._notify(f"the sound device is gone: {reason}; waiting for it to come back (Ctrl-C ends)")
        opened = self.stream.opened
        # By name: numbers change when something is plugged in. The default stays whatever is the default.
        options = self.options
        if options.source.isdecimal():
            options = replace(options, source=full_name(opened.input, opened.api))
        if options.target.isdecimal():
            options = replace(options, target=full_name(opened.output, opened.output_api))
        self.options = options
        said = ""
        while not self._stop.wait(_RETRY_SECONDS):
            try:
                stream = self._open()
                # The totals have the old stream's counts.
                self.stream = stream
                self.bridge = self._bridge()
                self.bridge.begin()
                self.stopped = False
                self.totals.reconnects += 1
                self._notify(f"back on {stream.opened.input!r} and {stream.opened.output!r}")
                return
            except UsageError as error:  # time alone does not mend it
                if str(error) != said:
                    said = str(error)
                    self._notify(said)
            except StreamdacError:
                pass


def warm_up(codec: Codec, channels: int) -> float:
    """Seconds of margin to begin with: half again what a hop takes on this machine, at least 5 ms.

    The first calls of a process are slow, so they are made here.
    """
    import numpy as np

    from streamdac.timing import percentile

    times: list[float] = []

    def work() -> None:
        _prefer()
        chain = Chain(codec, channels, Settings(codec.n_codebooks))
        for _ in range(40):
            start = time.perf_counter()
            chain.push(np.zeros((codec.hop_length, channels), np.float32))
            times.append(time.perf_counter() - start)

    # As the worker will: in a thread that is preferred where the system allows it.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return min(max(1.5 * percentile(times[10:], 50), _LEAST_MARGIN), _MOST_MARGIN)


def _prefer() -> None:
    """Real-time scheduling for this thread where the system allows it: it works a third of the time at most."""
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
