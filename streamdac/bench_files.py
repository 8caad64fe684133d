"""How fast whole files go: offline encode and decode beside the plain torch network, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bench import ENGINES, OPERATIONS, executor_of, part_flops
from .codec import Codec, describe_executor
from .executor import Executor
from .nn.network import DAC
from .plan import Plan
from .timing import Step, Times, in_turn, rounded, sgemm_step

FLOPS_EACH = 2e10  # of one run: a second or less, and long enough that its ends do not count
SECONDS_OF_AUDIO = (1.0, 10.0)


@dataclass(frozen=True)
class FileRow:
    """One line of `streamdac bench --files`."""

    model: str
    executor: str
    """`plain` is the network itself, as torch runs it offline."""
    op: str
    """file-encode or file-decode, quantiser included."""
    threads: int
    audio_seconds: float
    p50_ms: float
    x_realtime: float
    gflops: float
    """Convolutions only, by the median."""
    sgemm_gflops: float
    sgemm_share: float
    plain_p50_ms: float
    speedup: float
    """Over the plain network on as many threads."""
    detail: str

    def to_dict(self) -> dict[str, str | int | float]:
        """For JSON, figures rounded to what they are worth."""
        return rounded(self)


def bench_files(
    codec: Codec,
    network: DAC,
    seconds: float = 10.0,
    *,
    threads: Sequence[int] = (1,),
    engines: Sequence[str] = ENGINES,
) -> Iterator[FileRow]:
    """Every executor there is, one whole signal at a time, in turn with the plain network and sgemm."""
    for op in OPERATIONS:
        frames = frames_of(codec.plan, op)
        for n in threads:
            executors = {name: made for name in engines if (made := executor_of(codec.plan, name, n)) is not None}
            steps = {"plain": Step(_plain(network, codec.plan, op, frames), n), "sgemm": sgemm_step(n)}
            steps |= {name: Step(_offline(codec.plan, made, op, frames), n) for name, made in executors.items()}
            times = in_turn(steps, seconds / len(OPERATIONS) / len(threads), warm_up=1, least=3)
            yield _row(codec, op, "plain", n, frames, times, "the network, module by module")
            for name, made in executors.items():
                yield _row(codec, op, name, n, frames, times, describe_executor(made))


def frames_of(plan: Plan, op: str) -> int:
    """Frames of the signal to measure on."""
    least, most = (round(seconds * plan.config.frame_rate) for seconds in SECONDS_OF_AUDIO)
    return min(max(round(FLOPS_EACH / part_flops(plan, op)), least), most)


def _row(codec: Codec, op: str, name: str, threads: int, frames: int, times: Times, detail: str) -> FileRow:
    own, plain, sgemm = times[name], times["plain"], times["sgemm"].rate() / 1e9
    audio = frames * codec.hop_length / codec.sample_rate
    gflops = frames * part_flops(codec.plan, op) / own.median() / 1e9
    return FileRow(
        model=codec.name,
        executor=name,
        op=f"file-{op}",
        threads=threads,
        audio_seconds=audio,
        p50_ms=1000 * own.median(),
        x_realtime=audio / own.median(),
        gflops=gflops,
        sgemm_gflops=sgemm,
        sgemm_share=gflops / sgemm,
        plain_p50_ms=1000 * plain.median(),
        speedup=own.faster_than(plain),
        detail=detail,
    )


def _plain(network: DAC, plan: Plan, op: str, frames: int) -> Callable[[], object]:
    """The offline forward of the network itself, as its users run it."""
    audio, codes = _audio(plan, frames)[None, None], _codes(plan, frames)[None]

    @torch.inference_mode()
    def encode() -> object:
        return network.encode(audio)

    @torch.inference_mode()
    def decode() -> object:
        return network.decode(network.quantizer.from_codes(codes)[0])

    return encode if op == "encode" else decode


def _offline(plan: Plan, executor: Executor, op: str, frames: int) -> Callable[[], object]:
    """One push and one flush, as `Codec.encode` and `Codec.decode` do it."""
    if op == "encode":
        audio = _audio(plan, frames)[None, :, None]
        return lambda: executor.encode(executor.fresh_encoder(1), audio, plan.config.n_codebooks, last=True)
    codes = _codes(plan, frames).t()[None]
    return lambda: executor.decode(executor.fresh_decoder(1), codes, last=True)


def _audio(plan: Plan, frames: int) -> Tensor:
    return 0.1 * torch.randn(frames * plan.config.hop_length)


def _codes(plan: Plan, frames: int) -> Tensor:
    return torch.randint(plan.config.codebook_size, (plan.config.n_codebooks, frames))
