"""Pictures of an evaluation: quality against bitrate, and spectrograms of original, coded and their difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamdac.errors import UnavailableError
from streamdac.files import written_whole

if TYPE_CHECKING:
    from .evaluation import Example, Report

PICTURES = ("rate-quality.png", "spectrograms.png")
_WINDOW, _STEP = 512, 128
_DIFFERENCE_DB = 20.0
_LESS = ("mel", "stft")


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError("pictures need matplotlib: pip install 'streamdac[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def decibels(signal: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Spectrogram of `[T]` in dB re full scale: `[bins, frames]`."""
    padded = np.pad(signal.astype(np.float64), _WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_STEP]
    shape = np.hanning(_WINDOW + 1)[:-1]
    return np.asarray(20 * np.log10(np.abs(np.fft.rfft(frames * shape, axis=1)) / shape.sum() + 1e-5).T)


def write_pictures(folder: Path, report: Report, example: Example) -> None:
    """`PICTURES` in the folder.

    Raises:
        UnavailableError: matplotlib is missing.
    """
    for name, figure in zip(PICTURES, (_rate_quality(report), _spectrograms(example)), strict=True):
        with written_whole(folder / name, force=True) as temporary:
            figure.savefig(temporary, dpi=110)


def _rate_quality(report: Report) -> Any:
    from .evaluate import HEADINGS

    columns = min(4, len(report.metrics))
    rows = -(-len(report.metrics) // columns)
    figure = _figure(4 * columns, 3.2 * rows)
    ours = [r for r in report.rows if r.entropy_bits is not None]
    lines = {"streamdac": [r for r in ours if not r.vbr], "streamdac --vbr": [r for r in ours if r.vbr]}
    lines["Opus"] = [r for r in report.rows if r.entropy_bits is None]
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, name in zip(panels, report.metrics, strict=False):
        for label, points in lines.items():
            if points:
                panel.plot([p.kbps for p in points], [p.means[name] for p in points], marker="o", label=label)
        panel.set_title(HEADINGS[name] + (", less is better" if name in _LESS else ""), loc="left", fontsize=10)
        panel.set_xlabel("kbps")
        panel.grid(alpha=0.3)
    for panel in panels[len(report.metrics) :]:
        panel.remove()
    panels[0].legend()
    return figure


def _spectrograms(example: Example) -> Any:
    original = decibels(example.original)
    figure = _figure(13, 2.4 * (len(example.coded) + 1))
    panels = figure.subplots(len(example.coded) + 1, 2, squeeze=False, sharex=True, sharey=True)
    extent = (0, len(example.original) / example.sample_rate, 0, example.sample_rate / 2000)
    same = {"origin": "lower", "aspect": "auto", "extent": extent}
    panels[0, 1].remove()
    image = panels[0, 0].imshow(original, vmin=-100, vmax=-20, cmap="magma", **same)
    panels[0, 0].set_title("original", loc="left", fontsize=10)
    difference = image
    for (left, right), (label, signal) in zip(panels[1:], example.coded.items(), strict=True):
        coded = decibels(signal)
        left.imshow(coded, vmin=-100, vmax=-20, cmap="magma", **same)
        left.set_title(label, loc="left", fontsize=10)
        span = {"vmin": -_DIFFERENCE_DB, "vmax": _DIFFERENCE_DB, "cmap": "RdBu_r"}
        difference = right.imshow(np.maximum(coded, -80) - np.maximum(original, -80), **span, **same)
        right.set_title(f"{label}: coded less original", loc="left", fontsize=10)
    for panel in panels[:, 0]:
        panel.set_ylabel("kHz")
    panels[-1, 0].set_xlabel("s")
    panels[-1, 1].set_xlabel("s")
    figure.colorbar(image, ax=panels[:, 0].tolist(), label="dB")
    figure.colorbar(difference, ax=panels[1:, 1].tolist(), label="dB, louder is red")
    return figure
