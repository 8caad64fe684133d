"""`streamdac info`: what a stream, a model or an audio file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamdac.errors import BadDataError, UsageError
from streamdac.files import unreadable

from .audio_files import SUFFIXES, open_file

if TYPE_CHECKING:
    from streamdac.weights import Weights

_STREAM = b"\x89SDAC\r\n\x1a\n"
_ARCHIVE = b"\x93NUMPY"


@click.command(short_help="What a file or a model is.")
@click.argument("target", required=False, metavar="[FILE|MODEL]")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def info(target: str | None, as_json: bool) -> int:
    """Say what FILE (a stream, an archive, weights, audio) or MODEL (a name) is; the embedded model if nothing is named."""
    found = describe(target)
    if as_json:
        click.echo(json.dumps(found))
    else:
        width = max(len(key) for key in found)
        for key, value in found.items():
            click.echo(f"{key.replace('_', ' '):<{width}}  {_shown(value)}")
    return BadDataError.exit_code if found.get("problems") else 0


def describe(target: str | None) -> dict[str, Any]:
    """Everything known about `target`, by name.

    Raises:
        NoInputError: no such file or model.
        BadDataError: a file that is none of these.
    """
    from streamdac.models import find_model

    if target is None or not Path(target).exists():
        return _model(find_model(target))
    path = Path(target)
    if path.is_dir():
        raise UsageError(f"{path} is a directory, need a file")
    if path.is_fifo():
        raise UsageError(f"{path} is a pipe, need a file")
    try:
        with path.open("rb") as file:
            start = file.read(len(_STREAM))
    except OSError as error:
        raise unreadable(path, error) from error
    suffix = path.suffix.lower()
    if start == _STREAM:
        return _stream(path)
    if start.startswith(_ARCHIVE) or suffix == ".dac":
        return _archive(path)
    if suffix in (".safetensors", ".pth", ".pt"):
        return _model(path)
    try:
        return _audio(path)
    except BadDataError as error:
        if suffix in SUFFIXES:
            raise
        begins = start.hex(" ") or "nothing"
        raise BadDataError(f"{path}: neither stream, archive, weights nor audio; it begins with {begins}") from error


def _audio(path: Path) -> dict[str, Any]:
    source = open_file(path)
    try:
        seconds = None if source.samples is None else round(source.samples / source.sample_rate, 3)
        return {"kind": "audio", "sample_rate": source.sample_rate, "channels": source.channels,
                "samples": source.samples, "seconds": seconds}  # fmt: skip
    finally:
        source.close()


def _archive(path: Path) -> dict[str, Any]:
    from streamdac.archive import Archive

    archive = Archive.load(path)
    size = path.stat().st_size
    return {
        "kind": "archive",
        "sample_rate": archive.sample_rate,
        "channels": archive.channels,
        "signals": archive.batch,
        "codebooks": archive.n_codebooks,
        "samples": archive.original_length,
        "frames": archive.frames,
        "seconds": round(archive.seconds, 3),
        "windowed": not archive.padding,
        "frames_per_window": archive.chunk_length,
        "loudness_db": [round(float(level), 2) for level in archive.input_db],
        "bytes": size,
        "kbps": round(8 * size / archive.seconds / 1000, 3) if archive.seconds else None,
        "dac_version": archive.dac_version,
    }


def _stream(path: Path) -> dict[str, Any]:
    """Read to the end; nothing is decoded."""
    from streamdac.protocols.stream import Codes, Damage, Ended, Gap, StreamReader

    reader, problems, depths = StreamReader(), [], set()
    ended: Ended | None = None
    size = 0
    with path.open("rb") as file:
        while True:
            data = file.read(1 << 16)
            size += len(data)
            reader.feed(data) if data else reader.feed_eof()
            while (event := reader.next_event()) is not None:
                match event:
                    case Codes(_, codes):
                        depths.add(codes.shape[0])
                    case Damage(offset, reason):
                        problems.append(f"byte {offset}: {reason}")
                    case Gap(first, frames, reason):
                        problems.append(f"{frames} frames lost from frame {first}: {reason}")
                    case Ended():
                        ended = event
                    case _:
                        pass
            if not data:
                break
    header = reader.header
    assert header is not None
    assert ended is not None
    seconds = ended.frames * header.hop_length / header.sample_rate
    if not ended.complete:
        problems.append("cut: the stream has no end")
    return {
        "kind": "stream",
        "model": header.model,
        "fingerprint": header.fingerprint.hex(),
        "sample_rate": header.sample_rate,
        "hop_length": header.hop_length,
        "channels": header.channels,
        "codebooks": sorted(depths),
        "codebook_size": header.codebook_size,
        "source_rate": header.source_rate,
        "source_samples": ended.samples,
        "frames": ended.frames,
        "seconds": round(seconds, 3),
        "bytes": size,
        "kbps": round(8 * size / seconds / 1000, 3) if seconds else None,
        "packets": reader.counts.packets,
        "problems": problems[:100],
    }


def _model(path: Path) -> dict[str, Any]:
    from streamdac.codec import describe_executor, make_executor
    from streamdac.nn.network import count_parameters
    from streamdac.plan import build_plan
    from streamdac.weights import load_weights

    weights = load_weights(path)
    network, config = weights.network(), weights.config
    plan = build_plan(network)
    return {
        "kind": "model",
        "name": weights.metadata.get("name", path.stem),
        "path": str(path),
        "fingerprint": plan.fingerprint.hex(),
        "padding": config.padding,
        "sample_rate": config.sample_rate,
        "hop_length": config.hop_length,
        "hop_ms": round(1000 * config.hop_length / config.sample_rate, 3),
        "codebooks": config.n_codebooks,
        "codebook_size": config.codebook_size,
        "kbps": round(config.bitrate() / 1000, 3),
        "kbps_per_codebook": round(config.bitrate(1) / 1000, 3),
        "encoder_lookahead_ms": round(1000 * plan.encoder_lookahead / config.sample_rate, 1),
        "round_trip_ms": round(1000 * (plan.lookahead + config.hop_length) / config.sample_rate, 1),
        "parameters": count_parameters(network),
        "executor": describe_executor(make_executor(plan)),
        **_card(weights),
    }


def _card(weights: Weights) -> dict[str, Any]:
    """What the file says of itself. Not `step` and `audio_seconds`: of weights that come of several runs they are the last's."""
    return {key: weights.metadata[key] for key in ("licence",) if key in weights.metadata}


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "unknown" if value is None else str(value)
