"""Pictures of audio, by matplotlib (extra: plot)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamdac.errors import UnavailableError
from streamdac.files import written_whole

Signal = npt.NDArray[np.float32]  # [T]


def require_matplotlib() -> None:
    """Raises UnavailableError where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UnavailableError("pictures need matplotlib: pip install 'streamdac[plot]'") from error


def spectrograms(
    path: Path, original: Signal, decoded: Signal, sample_rate: int, *, title: str, force: bool = False
) -> None:
    """Original above decoded, as a PNG.

    Raises:
        UnavailableError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(" ".join(title.split()))
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for panel, signal, name in zip(panels, (original, decoded), ("original", "through the codec"), strict=True):
        image = panel.imshow(
            _decibels(signal),
            origin="lower",
            aspect="auto",
            extent=(0, len(signal) / sample_rate, 0, sample_rate / 2000),
            vmin=-100,
            vmax=-20,
            cmap="magma",
        )
        panel.set_title(name, loc="left", fontsize=10)
        panel.set_ylabel("kHz")
    panels[1].set_xlabel("s")
    figure.colorbar(image, ax=panels, label="dB")
    with written_whole(path, force=force) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _decibels(signal: Signal, window: int = 512, step: int = 128) -> npt.NDArray[np.float64]:
    """Magnitudes `[bins, frames]` in dB under a Hann window."""
    padded = np.pad(signal.astype(np.float64), (window // 2, window))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
    shape = np.hanning(window + 1)[:-1]
    return np.asarray(20 * np.log10(np.abs(np.fft.rfft(frames * shape, axis=1)) / shape.sum() + 1e-6).T)
