"""The codec people use: offline and streaming, numpy or torch, any device."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch

from . import native
from .allocation import Allocation
from .archive import Archive
from .arrays import Array, audio_tensor, codes_tensor, give_back
from .compress import NORMALIZE_DB, compress, compress_file
from .config import ModelConfig
from .decompress import decompress
from .engine import CodecEngine
from .errors import UnavailableError, UsageError
from .executor import Executor, deepest
from .levels import Rows
from .models import OFFICIAL, find_model
from .nn.network import DAC
from .plan import Plan, build_plan
from .stream_rows import Depths, check_depths
from .streaming import StreamDecoder, StreamEncoder
from .torch_executor import TorchExecutor
from .weights import load_weights

ENGINES = ("auto", "torch", "native")
MAX_THREADS = 256
_MOST_SAID = 200  # characters of a reason that is torch's


class Codec:
    """A model ready to encode and decode.

    Args:
        network: the parameters; folded into a plan here and not kept.
        device: any torch device.
        engine: `native` (C++, CPU), `torch`, or `auto`: native on a CPU where it is built.
        threads: how many the native executor may use for one push; torch has its own number (`torch.set_num_threads`).
        name: for display and for the header of streams.
    """

    def __init__(
        self,
        network: DAC,
        *,
        device: str | torch.device = "cpu",
        engine: str = "auto",
        threads: int = 1,
        name: str = "model",
    ) -> None:
        self.name = name
        self.plan: Plan = build_plan(network)
        make = partial(make_executor, device=device, engine=engine, threads=threads)
        self.executor: Executor = make(self.plan)
        self.archive_engine = CodecEngine(self.plan, self.executor, make)

    @property
    def config(self) -> ModelConfig:
        """The model's geometry."""
        return self.plan.config

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def n_codebooks(self) -> int:
        """Codebooks in all."""
        return self.config.n_codebooks

    @property
    def codebook_size(self) -> int:
        """Entries per codebook."""
        return self.config.codebook_size

    @property
    def causal(self) -> bool:
        """Whether the model needs no sample after a hop to encode it."""
        return self.config.causal

    @property
    def lookahead(self) -> int:
        """Samples that a round trip waits for beyond one hop; 0 for a causal model."""
        return self.plan.lookahead

    @property
    def foretells(self) -> bool:
        """Whether a decoder does best to be told that a frame was `LOST` (`streamdac.config`), as a predictor fills it in."""
        return self.config.predictor_dim > 0

    @property
    def coarse_codebooks(self) -> int:
        """Codebooks of a frame that are worth sending twice: those that the next frames are predicted from, else one."""
        return min(self.config.predictor_codebooks, self.n_codebooks) if self.foretells else 1

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that say what the codes mean."""
        return self.plan.fingerprint

    def encode(self, audio: Array, n_codebooks: Depths = None, *, vbr: bool = False) -> Array:
        """Audio `[T]` or `[B, 1, T]` float32 in [-1, 1] -> codes int64 `[B, K, F]`, F = ceil(T / hop).

        With `vbr` hops get as many codebooks where they are loud and fewer below, as in `encoder`; the others are -1.

        Raises:
            UsageError: wrong shape or dtype, samples that are not finite, or `n_codebooks` out of range.
        """
        x, as_numpy = audio_tensor(audio, None, self.executor.device)
        batch, samples, _ = x.shape
        depths = check_depths(n_codebooks, self.n_codebooks, batch)
        if not samples or not batch:
            return give_back(torch.zeros(batch, deepest(depths), 0, dtype=torch.int64, device=x.device), as_numpy)
        padded = torch.nn.functional.pad(x, (0, 0, 0, -samples % self.hop_length))
        most = deepest(depths)
        if vbr:
            allocation = Allocation(batch, self.hop_length, self.sample_rate)
            loud = depths if isinstance(depths, int) else depths.numpy()
            depths = torch.from_numpy(allocation.needed(padded[..., 0].cpu().numpy(), loud))
        codes = self.executor.encode(self.executor.fresh_encoder(batch), padded, depths, last=True, most=most)
        return give_back(codes.transpose(1, 2), as_numpy)

    def decode(self, codes: Array) -> Array:
        """Codes `[K, F]` or `[B, K, F]`, -1 where unused -> audio float32 `[B, 1, T]`, as many codebooks as they have.

        T = F * hop (8 samples fewer for the official 24 and 16 kHz models).

        Raises:
            UsageError: wrong shape or dtype, or a code out of range.
        """
        x, as_numpy = codes_tensor(codes, None, self.n_codebooks, self.codebook_size, self.executor.device)
        if not x.shape[0] or not x.shape[1]:
            return give_back(torch.zeros(x.shape[0], 1, 0, dtype=torch.float32, device=x.device), as_numpy)
        audio = self.executor.decode(self.executor.fresh_decoder(x.shape[0]), x, last=True)
        return give_back(audio.transpose(1, 2), as_numpy)

    def encoder(
        self, *, batch: int = 1, n_codebooks: Depths = None, vbr: bool = False, together: bool = False
    ) -> StreamEncoder:
        """A streaming encoder with its own state for `batch` rows; see `StreamEncoder`."""
        return StreamEncoder(self.plan, self.executor, batch=batch, n_codebooks=n_codebooks, vbr=vbr, together=together)

    def decoder(self, *, batch: int = 1) -> StreamDecoder:
        """A streaming decoder with its own state for `batch` rows."""
        return StreamDecoder(self.plan, self.executor, batch=batch)

    def compress(
        self,
        audio: Array | str | os.PathLike[str],
        sample_rate: int | None = None,
        *,
        win_duration: float | None = None,
        n_codebooks: int | None = None,
        normalize_db: float | None = NORMALIZE_DB,
    ) -> Archive:
        """An audio file, or audio `[T]`, `[C, T]` or `[B, C, T]` at `sample_rate` Hz (the model's where None), as an archive.

        For the options see `streamdac.compress.compress`; a file is read in constant memory.

        Raises:
            NoInputError: no such file.
            BadDataError: not an audio file, or samples that are not finite.
            UsageError: wrong shape, type or rate, a rate beside a file, or an option out of range.
        """
        engine = self.archive_engine
        if not isinstance(audio, str | os.PathLike):
            rate = self.sample_rate if sample_rate is None else sample_rate
            return compress(
                engine, audio, rate, win_duration=win_duration, n_codebooks=n_codebooks, normalize_db=normalize_db
            )
        if sample_rate is not None:
            raise UsageError(f"sample_rate is {sample_rate}, but a file says its own")
        return compress_file(
            engine, audio, win_duration=win_duration, n_codebooks=n_codebooks, normalize_db=normalize_db
        )

    def decompress(
        self, archive: Archive | str | os.PathLike[str], *, official_stereo: bool = False, seamless: bool = False
    ) -> Rows:
        """The audio in an archive or its file: float32 `[B, C, T]` at `archive.sample_rate`.

        For the options see `streamdac.decompress.decompress`.

        Raises:
            NoInputError: no such file.
            BadDataError: not an archive.
            ModelMismatchError: another model made it.
        """
        if not isinstance(archive, Archive):
            archive = Archive.load(archive)
        return decompress(self.archive_engine, archive, official_stereo=official_stereo, seamless=seamless)


def make_executor(
    plan: Plan, *, device: str | torch.device = "cpu", engine: str = "auto", threads: int = 1
) -> Executor:
    """The executor that `engine` names, on `device`; `threads` are for the native one.

    Raises:
        UsageError: no such engine, or threads out of range.
        UnavailableError: no such device, or `native` was asked for and is not to be had.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine is {engine!r}, need one of {', '.join(ENGINES)}")
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads!r}, need 1 to {MAX_THREADS}")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UnavailableError(f"device {str(device)!r}: {_first_sentence(str(error))}") from error
    missing = why_not_native(target)
    if engine == "torch" or (engine == "auto" and missing):
        return TorchExecutor(plan, target)
    if missing:
        raise UnavailableError(f"engine 'native': {missing}")
    from .native_executor import NativeExecutor

    return NativeExecutor(plan, threads)


def _first_sentence(text: str) -> str:
    """torch says much."""
    line = (text.strip().splitlines() or ["not there"])[0]
    return line.split(". ")[0][:_MOST_SAID]


def why_not_native(device: str | torch.device = "cpu") -> str | None:
    """Why the native executor cannot run on `device`; None where it can."""
    if torch.device(device).type != "cpu":
        return f"it runs on the CPU, the device is {str(device)!r}"
    return native.why_not()


def describe_executor(executor: Executor) -> str:
    """Which executor this is and why, for people to read."""
    if executor.name == "native":
        return f"native ({getattr(executor, 'isa', 'unknown')})"
    missing = why_not_native(executor.device)
    return f"{executor.name} on {executor.device}" + (f": {missing}" if missing else "")


def load(
    model: str | Path | None = None, *, device: str | torch.device = "cpu", engine: str = "auto", threads: int = 1
) -> Codec:
    """The embedded causal model; or a weights file, or an official model once downloaded.

    Args:
        model: None for the embedded one, a path to `.safetensors` or `.pth`, or a name such as `dac-44khz`.

    Raises:
        NoInputError: no such file.
        UnavailableError: an official model that is not downloaded yet, or a device that is not there.
        BadDataError: not a weights file.
    """
    path = find_model(model)
    if str(device).partition(":")[0] == "meta":
        raise UnavailableError(f"device {str(device)!r}: it holds shapes only, and no numbers")
    weights = load_weights(path)
    name = str(model) if str(model) in OFFICIAL else weights.metadata.get("name") or path.stem
    return Codec(weights.network(), device=device, engine=engine, threads=threads, name=name)


def load_network(model: str | Path | None = None) -> DAC:
    """The offline network that `model` names (see `load`), with the official `encode`, `decode` and `quantizer`.

    Raises:
        NoInputError: no such file.
        UnavailableError: an official model that is not downloaded yet.
        BadDataError: not a weights file.
    """
    return load_weights(find_model(model)).network()
