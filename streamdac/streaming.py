"""Streaming encoder and decoder: any chunk in, what is complete out, state for a batch of rows."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, audio_tensor, codes_tensor, give_back, plain_codes, plain_samples
from .errors import BadDataError, ChunkSizeError, ModelMismatchError, UsageError
from .executor import Executor, State, StreamState
from .native_executor import NativeExecutor
from .plan import Part, Plan

Depths = int | Sequence[int] | None


class _Stream:
    """What encoder and decoder share: rows, reset, saving and restoring."""

    kind: str
    counted: str
    """What has been pushed into the state: samples or frames; the key of that number in a saved state."""

    def __init__(self, plan: Plan, executor: Executor, batch: int) -> None:
        if type(batch) is not int or batch < 1:
            raise UsageError(f"batch is {batch!r}, need 1 or more")
        self.plan = plan
        self.batch = batch
        self._executor = executor
        self._state = self._fresh()
        self._as_numpy = False
        self._ended = False

    def _fresh(self, batch: int | None = None) -> StreamState:
        raise NotImplementedError

    def _part(self) -> Part:
        raise NotImplementedError

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Back to the start of a stream: all rows, or (causal models) some.

        Raises:
            UsageError: no such row, or rows of a centred model reset apart.
        """
        chosen = list(range(self.batch)) if rows is None else [int(row) for row in rows]
        if bad := [row for row in chosen if not 0 <= row < self.batch]:
            raise UsageError(f"row {bad[0]} of {self.batch}")
        if len(set(chosen)) == self.batch:
            self._state = self._fresh()
            self._restart()
        elif chosen:
            if not self.plan.config.causal:
                raise UsageError(f"{len(set(chosen))} of {self.batch} rows: a centred model resets all rows together")
            index = torch.tensor(sorted(set(chosen)), device=self._executor.device)
            self._state.put_rows(index, self._fresh(len(index)))

    def _restart(self) -> None:
        """Forget what is beside the state."""

    def _active_index(self, active: Tensor) -> Tensor | None:
        """Indices of the rows that take part; None for all of them."""
        if bool(active.all()):
            return None
        if not self.plan.config.causal:
            raise UsageError(
                f"{int((~active).sum())} of {self.batch} rows idle: a centred model steps all rows together"
            )
        return active.nonzero()[:, 0].to(self._executor.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere: tensors, integers, strings, in lists."""
        state = self._executor.export_state(self._state)
        return {
            "kind": self.kind,
            "batch": self.batch,
            "fingerprint": self.plan.fingerprint.hex(),
            "buffers": state.buffers,
            "drops": state.drops,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` left off; from another process or executor.

        Raises:
            ModelMismatchError: saved by another model.
            BadDataError: not such a state.
        """
        try:
            if saved["fingerprint"] != self.plan.fingerprint.hex():
                raise ModelMismatchError(
                    f"state of model {saved['fingerprint'][:16]}, this is {self.plan.fingerprint.hex()[:16]}"
                )
            if saved["kind"] != self.kind or saved["batch"] != self.batch:
                raise BadDataError(
                    f"state of a {saved['kind']} of {saved['batch']} rows, this is a {self.kind} of {self.batch}"
                )
            state = State(list(saved["buffers"]), [int(drop) for drop in saved["drops"]])
            pushed = int(saved[self.counted])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadDataError(f"not a stream's state: {error}") from error
        if pushed < 0:
            raise BadDataError(f"state after {pushed} {self.counted}")
        state.check(self._part(), self.batch, pushed)
        self._state = self._executor.import_state(state, decoder=self.kind == "decoder")


class StreamEncoder(_Stream):
    """PCM in, codes out, hop by hop.

    A batch of one takes chunks of any length; more rows take whole hops, together.

    Args:
        batch: rows.
        n_codebooks: for all rows or one per row; the model's own number where None. May change at any hop.
    """

    kind = "encoder"
    counted = "samples"

    def __init__(self, plan: Plan, executor: Executor, *, batch: int = 1, n_codebooks: Depths = None) -> None:
        super().__init__(plan, executor, batch)
        self._pending: list[Tensor] = []
        self._held = 0
        self._samples = 0
        self.n_codebooks = n_codebooks

    def _fresh(self, batch: int | None = None) -> StreamState:
        return self._executor.fresh_encoder(self.batch if batch is None else batch)

    def _part(self) -> Part:
        return self.plan.encoder

    def _restart(self) -> None:
        self._pending, self._held, self._samples = [], 0, 0

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
        return give_back(self._push_rows(x, _active_mask(active, self.batch)).transpose(1, 2), self._as_numpy)

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
        codes = executor.encode_array(self._state, samples, self._depths, last=False).transpose(0, 2, 1)
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
        return self._executor.encode(self._state, x[:, :release], self._depths, last=False)

    def _push_rows(self, x: Tensor, active: Tensor) -> Tensor:
        if self._held:
            raise ChunkSizeError(f"{self._held} samples of an unfinished hop are held; rows can only idle between hops")
        index = self._active_index(active)
        if index is None:
            self._samples += x.shape[1]
            return self._executor.encode(self._state, x, self._depths, last=False)
        frames = x.shape[1] // self.plan.config.hop_length
        codes = torch.full((self.batch, frames, self._deepest()), -1, dtype=torch.int64, device=self._executor.device)
        if len(index):
            depths = self._depths if isinstance(self._depths, int) else self._depths[index.cpu()]
            state = self._state.rows(index)
            new = self._executor.encode(state, x.index_select(0, index), depths, last=False)
            self._state.put_rows(index, state)
            codes[index, :, : new.shape[2]] = new
        return codes

    def flush(self) -> Array:
        """End the stream: the last frames `[B, K, F]`. A tail shorter than a hop is zero-padded to one. Then as new."""
        hop = self.plan.config.hop_length
        total = self._samples + self._held
        if total == 0 or (self.plan.config.causal and not self._held):
            codes = torch.zeros(self.batch, 0, self._deepest(), dtype=torch.int64)
        else:
            padding = torch.zeros(self.batch, -total % hop, 1, device=self._executor.device)
            x = torch.cat([*self._pending, padding], dim=1)
            codes = self._executor.encode(self._state, x, self._depths, last=True)
        self.reset()
        return give_back(codes.transpose(1, 2), self._as_numpy)

    def _deepest(self) -> int:
        return self._depths if isinstance(self._depths, int) else int(self._depths.max())

    def state_dict(self) -> dict[str, Any]:
        """See `_Stream.state_dict`; with the samples held back of an unfinished hop."""
        pending = torch.cat([torch.zeros(self.batch, 0, 1), *(part.cpu() for part in self._pending)], dim=1)
        return {**super().state_dict(), "pending": pending, "samples": self._samples, "n_codebooks": self.n_codebooks}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `_Stream.load_state_dict`."""
        try:
            pending, depths = saved["pending"], saved["n_codebooks"]
            good = pending.dim() == 3 and (pending.shape[0], pending.shape[2]) == (self.batch, 1)
            if not good or not pending.is_floating_point():
                raise BadDataError(f"samples held back are {list(pending.shape)}, need floats [{self.batch}, T, 1]")
            depths = check_depths(depths, self.plan.config.n_codebooks, self.batch)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadDataError(f"not an encoder's state: {error}") from error
        super().load_state_dict(saved)
        self._samples, self._depths = int(saved["samples"]), depths
        self._pending = [pending.to(self._executor.device, torch.float32, copy=True)]
        self._held = int(pending.shape[1])


class StreamDecoder(_Stream):
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

        A row whose codes are all -1 is idle: it keeps its state and gives silence.

        Raises:
            UsageError: wrong shape or dtype, codes out of range, or a row idle in some of the frames only.
        """
        if (samples := self._push_plain(codes)) is not None:
            return samples
        config = self.plan.config
        x, self._as_numpy = codes_tensor(
            codes, self.batch, config.n_codebooks, config.codebook_size, self._executor.device
        )
        used = x[:, :, 0] >= 0
        active = used.any(dim=1) if x.shape[1] else torch.ones(self.batch, dtype=torch.bool)
        if not bool((used == active[:, None].to(used.device)).all()):
            raise UsageError("a row is idle in some frames of a push and not in others")
        index = self._active_index(active)
        if index is None:
            self._frames += x.shape[1]
            audio = self._executor.decode(self._state, x, last=False)
        else:
            audio = torch.zeros(self.batch, x.shape[1] * config.hop_length, 1, device=self._executor.device)
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
        audio = torch.zeros(self.batch, 0, 1)
        if self._frames and not self.plan.config.causal:
            none = torch.zeros(self.batch, 0, 1, dtype=torch.int64, device=self._executor.device)
            audio = self._executor.decode(self._state, none, last=True)
        self.reset()
        return give_back(audio.transpose(1, 2), self._as_numpy)

    def state_dict(self) -> dict[str, Any]:
        """See `_Stream.state_dict`."""
        return {**super().state_dict(), "frames": self._frames}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `_Stream.load_state_dict`."""
        super().load_state_dict(saved)
        self._frames = int(saved["frames"])


def check_depths(value: Depths, most: int, batch: int) -> int | Tensor:
    """`n_codebooks` as one number or a tensor `[B]`.

    Raises:
        UsageError: out of range, or not one per row.
    """
    if value is None:
        return most
    one = _integer(value)
    numbers = [_integer(n) for n in value] if one is None and isinstance(value, Iterable) else [one]
    if any(n is None or not 1 <= n <= most for n in numbers):
        raise UsageError(f"n_codebooks is {value!r}, the model has 1 to {most}")
    if one is not None:
        return one
    if len(numbers) != batch:
        raise UsageError(f"n_codebooks for {len(numbers)} rows, there are {batch}")
    return torch.tensor(numbers)


def _integer(value: object) -> int | None:
    """`value` where it is an integer of any type, numpy's too; None otherwise."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _active_mask(active: Array | None, batch: int) -> Tensor:
    if active is None:
        return torch.ones(batch, dtype=torch.bool)
    mask = torch.as_tensor(active)
    if mask.dtype != torch.bool or mask.shape != (batch,):
        raise UsageError(f"active is {mask.dtype} {tuple(mask.shape)}, need bool [{batch}]")
    return mask
