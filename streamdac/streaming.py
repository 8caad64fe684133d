"""Streaming encoder and decoder: any chunk in, what is complete out, state for a batch of rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .allocation import Allocation, Samples
from .arrays import Array, audio_tensor, codes_tensor, give_back, plain_codes, plain_samples
from .config import LOST
from .errors import BadDataError, ChunkSizeError, UsageError
from .executor import Executor, StreamState, deepest
from .native_executor import NativeExecutor
from .ops import Part
from .plan import Plan
from .stream_rows import Depths, Stream, active_mask, check_depths

_Codes = TypeVar("_Codes", Tensor, npt.NDArray[np.int64])


class StreamEncoder(Stream):
    """PCM in, codes out, hop by hop.

    A batch of one takes chunks of any length; more rows take whole hops, together.

    Args:
        batch: rows.
        n_codebooks: for all rows or one per row; the model's own number where None. May change at any hop.
        vbr: use that many where it is loud and fewer below (`streamdac.allocation`); the codes left out are -1.
        together: with `vbr`, all rows get what the one that needs most does, as channels that share a packet must.
    """

    kind = "encoder"
    counted = "samples"

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        *,
        batch: int = 1,
        n_codebooks: Depths = None,
        vbr: bool = False,
        together: bool = False,
    ) -> None:
        super().__init__(plan, executor, batch)
        self._together = together
        self._allocation = self._fresh_allocation() if vbr else None
        self._pending: list[Tensor] = []
        self._held = 0
        self._samples = 0
        self.n_codebooks = n_codebooks

    def _fresh(self, batch: int | None = None) -> StreamState:
        return self._executor.fresh_encoder(self.batch if batch is None else batch)

    def _part(self) -> Part:
        return self.plan.encoder

    def _fresh_allocation(self) -> Allocation:
        config = self.plan.config
        return Allocation(self.batch, config.hop_length, config.sample_rate, together=self._together)

    def _restart(self) -> None:
        self._pending, self._held, self._samples = [], 0, 0
        if self._allocation is not None:
            self._allocation.reset()

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """See `Stream.reset`."""
        chosen = None if rows is None else [int(row) for row in rows]
        super().reset(chosen)
        if self._allocation is not None and chosen:
            self._allocation.reset(np.array(chosen))

    @property
    def vbr(self) -> bool:
        """Whether quieter hops get fewer codebooks."""
        return self._allocation is not None

    @property
    def n_codebooks(self) -> int | list[int]:
        """Codebooks in use: one number, or one per row."""
        return self._depths if isinstance(self._depths, int) else [int(depth) for depth in self._depths]

    @n_codebooks.setter
    def n_codebooks(self, value: Depths) -> None:
        self._depths = check_depths(value, self.plan.config.n_codebooks, self.batch)

    def push(self, audio: Array, active: Array | None = None) -> Array:
        """Audio `[T]` or `[B, 1, T]` float32 -> the codes now complete, int64 `[B, K, F]`; F may be 0.

        `active` `[B]` of bool: rows left out keep their state and give codes -1.

        Raises:
            UsageError: wrong shape, dtype or rows, or samples that are not finite.
            ChunkSizeError: more than one row and not whole hops.
        """
        if active is None and (codes := self._push_plain(audio)) is not None:
            return codes
        x, self._as_numpy = audio_tensor(audio, self.batch, self._executor.device)
        if self.batch == 1 and active is None:
            return give_back(self._push_one(x).transpose(1, 2), self._as_numpy)
        hop = self.plan.config.hop_length
        if x.shape[1] % hop:
            raise ChunkSizeError(
                f"got {x.shape[1]} samples, need a multiple of {hop} where batch is {self.batch} or rows may idle"
            )
        return give_back(self._push_rows(x, active_mask(active, self.batch)).transpose(1, 2), self._as_numpy)

    def _push_plain(self, audio: Array) -> Array | None:
        """The short way for whole hops with nothing held back; None where they must go the long way."""
        executor = self._executor
        if not isinstance(executor, NativeExecutor) or self._pending or self.plan.encoder_lookahead:
            return None
        samples = plain_samples(audio, self.batch)
        if samples is None or samples.shape[1] % self.plan.config.hop_length:
            return None
        self._as_numpy = type(audio) is np.ndarray
        self._samples += samples.shape[1]
        depths = self._due(samples)
        codes = executor.encode_array(self._state, samples, depths, last=False, most=self._deepest())
        codes = self._given(codes).transpose(0, 2, 1)
        return codes if self._as_numpy else torch.from_numpy(codes)

    def _push_one(self, x: Tensor) -> Tensor:
        """Hold samples until they complete a frame, so that tiny chunks cost nothing."""
        self._pending.append(x)
        self._held += x.shape[1]
        total = self._samples + self._held
        hop, lookahead = self.plan.config.hop_length, self.plan.encoder_lookahead
        release = (total - lookahead) // hop * hop + lookahead - self._samples
        if release <= 0 or total < hop + lookahead:
            self._pending[-1] = x.clone()  # the caller may use its array again
            return torch.zeros(1, 0, self._deepest(), dtype=torch.int64, device=self._executor.device)
        x = self._pending[0] if len(self._pending) == 1 else torch.cat(self._pending, dim=1)
        self._held -= release
        self._pending = [x[:, release:].clone()] if self._held else []
        self._samples += release
        return self._encode(x[:, :release])

    def _encode(
        self, x: Tensor, *, last: bool = False, state: StreamState | None = None, index: Tensor | None = None
    ) -> Tensor:
        """Samples `[R, T, 1]` of all rows, or of those at `index` whose state is `state` -> codes `[R, F, K]`."""
        depths = self._due(x[..., 0], index)
        state = self._state if state is None else state
        return self._given(self._executor.encode(state, x, depths, last=last, most=self._deepest()))

    def _due(self, samples: Samples | Tensor, index: Tensor | None = None) -> int | Tensor:
        """Codebooks in use for the frames that `samples` `[R, T]` complete, of all rows or those at `index`."""
        depths = self._depths
        if index is not None and not isinstance(depths, int):
            depths = depths[index.cpu()]
        if self._allocation is None:  # nothing leaves the device
            return depths
        heard = samples.cpu().numpy() if isinstance(samples, Tensor) else samples
        most = depths if isinstance(depths, int) else depths.numpy()
        rows = None if index is None else index.cpu().numpy()
        return torch.from_numpy(self._allocation.needed(heard, most, rows))

    def _given(self, codes: _Codes) -> _Codes:
        """Those `[R, F, K]` that the last of `_due` was for."""
        if self._allocation is not None:
            self._allocation.done(codes.shape[1])
        return codes

    def _push_rows(self, x: Tensor, active: Tensor) -> Tensor:
        if self._held:
            raise ChunkSizeError(f"{self._held} samples of an unfinished hop are held; rows can only idle between hops")
        index = self._active_index(active)
        if index is None:
            self._samples += x.shape[1]
            return self._encode(x)
        frames = x.shape[1] // self.plan.config.hop_length
        codes = torch.full((self.batch, frames, self._deepest()), -1, dtype=torch.int64, device=self._executor.device)
        if len(index):
            state = self._state.rows(index)
            new = self._encode(x.index_select(0, index), state=state, index=index)
            self._state.put_rows(index, state)
            codes[index, :, : new.shape[2]] = new
        return codes

    def flush(self) -> Array:
        """End the stream: the last frames `[B, K, F]`. A tail shorter than a hop is zero-padded to one. Then as new."""
        hop = self.plan.config.hop_length
        total = self._samples + self._held
        if total == 0 or (self.plan.config.causal and not self._held):
            codes = torch.zeros(self.batch, 0, self._deepest(), dtype=torch.int64, device=self._executor.device)
        else:
            padding = torch.zeros(self.batch, -total % hop, 1, dtype=torch.float32, device=self._executor.device)
            x = torch.cat([*self._pending, padding], dim=1)
            codes = self._encode(x, last=True)
        self.reset()
        return give_back(codes.transpose(1, 2), self._as_numpy)

    def _deepest(self) -> int:
        return deepest(self._depths)

    def state_dict(self) -> dict[str, Any]:
        """See `Stream.state_dict`; with the samples held back of an unfinished hop."""
        none = torch.zeros(self.batch, 0, 1, dtype=torch.float32, device="cpu")
        pending = torch.cat([none, *(part.cpu() for part in self._pending)], dim=1)
        state = {**super().state_dict(), "pending": pending, "samples": self._samples, "n_codebooks": self.n_codebooks}
        if self._allocation is not None:
            state["allocation"] = {name: torch.from_numpy(a) for name, a in self._allocation.state_dict().items()}
        return state

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Stream.load_state_dict`."""
        try:
            pending, depths = saved["pending"], saved["n_codebooks"]
            good = pending.dim() == 3 and (pending.shape[0], pending.shape[2]) == (self.batch, 1)
            if not good or not pending.is_floating_point():
                raise BadDataError(f"samples held back are {list(pending.shape)}, need floats [{self.batch}, T, 1]")
            depths = check_depths(depths, self.plan.config.n_codebooks, self.batch)
            allocation = self._fresh_allocation() if "allocation" in saved else None
            if allocation is not None:
                allocation.load_state_dict(saved["allocation"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadDataError(f"not an encoder's state: {error}") from error
        super().load_state_dict(saved)
        self._samples, self._depths, self._allocation = int(saved["samples"]), depths, allocation
        self._pending = [pending.to(self._executor.device, torch.float32, copy=True)] if pending.shape[1] else []
        self._held = int(pending.shape[1])


class StreamDecoder(Stream):
    """Codes in, PCM out, hop by hop."""

    kind = "decoder"
    counted = "frames"

    def __init__(self, plan: Plan, executor: Executor, *, batch: int = 1) -> None:
        super().__init__(plan, executor, batch)
        self._frames = 0

    def _fresh(self, batch: int | None = None) -> StreamState:
        return self._executor.fresh_decoder(self.batch if batch is None else batch)

    def _part(self) -> Part:
        return self.plan.decoder

    def _restart(self) -> None:
        self._frames = 0

    def push(self, codes: Array) -> Array:
        """Codes `[K, F]` or `[B, K, F]`, -1 where unused -> the audio now complete, float32 `[B, 1, T]`.

        A row whose codes are all -1 is idle: it keeps its state and gives silence. Frames that did not come may be
        `LOST` (`streamdac.config`) where the model foretells them (`Codec.foretells`).

        Raises:
            UsageError: wrong shape or dtype, codes out of range, or a row idle in some of the frames only.
        """
        if (samples := self._push_plain(codes)) is not None:
            return samples
        config, device = self.plan.config, self._executor.device
        x, self._as_numpy = codes_tensor(codes, self.batch, config.n_codebooks, config.codebook_size, device)
        used = (x[:, :, 0] >= 0) | (x[:, :, 0] == LOST)
        active = used.any(dim=1) if x.shape[1] else torch.ones(self.batch, dtype=torch.bool, device=device)
        if not bool((used == active[:, None].to(used.device)).all()):
            raise UsageError("a row is idle in some frames of a push and not in others")
        index = self._active_index(active)
        if index is None:
            self._frames += x.shape[1]
            audio = self._executor.decode(self._state, x, last=False)
        else:
            audio = torch.zeros(self.batch, x.shape[1] * config.hop_length, 1, dtype=torch.float32, device=device)
            if len(index):
                state = self._state.rows(index)
                audio[index] = self._executor.decode(state, x.index_select(0, index), last=False)
                self._state.put_rows(index, state)
        return give_back(audio.transpose(1, 2), self._as_numpy)

    def _push_plain(self, codes: Array) -> Array | None:
        """The short way for codes all in use; None where they must go the long way."""
        executor, config = self._executor, self.plan.config
        if not isinstance(executor, NativeExecutor):
            return None
        rows = plain_codes(codes, self.batch, config.n_codebooks, config.codebook_size)
        if rows is None:
            return None
        self._as_numpy = type(codes) is np.ndarray
        self._frames += rows.shape[1]
        audio = executor.decode_array(self._state, rows, last=False)[:, None]
        return audio if self._as_numpy else torch.from_numpy(audio)

    def flush(self) -> Array:
        """End the stream: the rest of the audio `[B, 1, T]`, none for a causal model. Then as new."""
        audio = torch.zeros(self.batch, 0, 1, dtype=torch.float32, device=self._executor.device)
        if self._frames and not self.plan.config.causal:
            none = torch.zeros(self.batch, 0, 1, dtype=torch.int64, device=self._executor.device)
            audio = self._executor.decode(self._state, none, last=True)
        self.reset()
        return give_back(audio.transpose(1, 2), self._as_numpy)

    def state_dict(self) -> dict[str, Any]:
        """See `Stream.state_dict`."""
        return {**super().state_dict(), "frames": self._frames}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Stream.load_state_dict`."""
        super().load_state_dict(saved)
        self._frames = int(saved["frames"])
