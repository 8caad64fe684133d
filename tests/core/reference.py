"""DAC written down once more, as slowly and plainly as can be: nn.Conv1d after nn.Conv1d in float64, from a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamdac.config import ModelConfig

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Reference:
    """One model; parameters by their official names."""

    config: ModelConfig
    parameters: Parameters

    def get(self, name: str) -> Tensor:
        return self.parameters[name].double()

    def weight(self, name: str) -> Tensor:
        """Direction times length (weight norm, Salimans and Kingma 2016)."""
        v, g = self.get(f"{name}.weight_v"), self.get(f"{name}.weight_g")
        return torch.stack([g[i] * v[i] / v[i].flatten().norm() for i in range(len(v))])

    def conv(self, x: Tensor, name: str, *, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = self.weight(name)
        c_out, c_in, kernel = weight.shape
        layer = nn.Conv1d(c_in, c_out, kernel, stride, dilation=dilation).double()
        layer.weight.data, layer.bias.data = weight, self.get(f"{name}.bias")
        span = (kernel - 1) * dilation
        if self.config.causal:
            pads = (span + 1 - stride, 0)
        elif stride > 1:
            pads = ((stride + 1) // 2, (stride + 1) // 2)
        else:
            pads = (span // 2, span // 2)
        return layer(F.pad(x, pads))

    def transpose(self, x: Tensor, name: str, stride: int) -> Tensor:
        weight = self.weight(name)
        c_in, c_out, kernel = weight.shape
        trim = 0 if self.config.causal else (stride + 1) // 2
        layer = nn.ConvTranspose1d(c_in, c_out, kernel, stride, padding=trim).double()
        layer.weight.data, layer.bias.data = weight, self.get(f"{name}.bias")
        y: Tensor = layer(x)
        return y[..., :-stride] if self.config.causal else y

    def snake(self, x: Tensor, name: str) -> Tensor:
        alpha = self.get(f"{name}.alpha")
        return x + torch.sin(alpha * x) ** 2 / alpha

    def unit(self, x: Tensor, name: str, dilation: int) -> Tensor:
        y = self.conv(self.snake(x, f"{name}.block.0"), f"{name}.block.1", dilation=dilation)
        return x + self.conv(self.snake(y, f"{name}.block.2"), f"{name}.block.3")

    def encode(self, audio: Tensor) -> Tensor:
        """`[B, 1, T]` to latents `[B, D, F]`."""
        x = self.conv(audio.double(), "encoder.block.0")
        for stage, stride in enumerate(self.config.encoder_rates, start=1):
            for place, dilation in enumerate((1, 3, 9)):
                x = self.unit(x, f"encoder.block.{stage}.block.{place}", dilation)
            x = self.snake(x, f"encoder.block.{stage}.block.3")
            x = self.conv(x, f"encoder.block.{stage}.block.4", stride=stride)
        last = len(self.config.encoder_rates) + 1
        return self.conv(self.snake(x, f"encoder.block.{last}"), f"encoder.block.{last + 1}")

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents to codes `[B, K, F]`, how clear each choice was (`[B, K, F]`, in cosine), and the quantised latents."""
        if not self.config.predictor_dim:
            codes, margins, totals = self.search(z)
            return codes, margins, totals[-1]
        one, two = torch.zeros_like(z[..., :1]), torch.zeros_like(z[..., :1])  # the last frame and the one before it
        found = []
        for frame in z.split(1, dim=2):
            expected = self.expected(one, two)
            codes, margins, totals = self.search(frame - expected)
            one, two = expected + totals[self.config.predictor_codebooks - 1], one
            found.append((codes, margins, expected + totals[-1]))
        codes, margins, quantised = (torch.cat(parts, dim=2) for parts in zip(*found, strict=True))
        return codes, margins, quantised

    def expected(self, one: Tensor, two: Tensor) -> Tensor:
        """The latent `[B, D, 1]` after these."""

        def linear(x: Tensor, name: str) -> Tensor:
            return x @ self.get(f"quantizer.predictor.{name}.weight").t()

        def bias(name: str) -> Tensor:
            return self.get(f"quantizer.predictor.{name}.bias")

        told = torch.cat([one, two], dim=1)[..., 0]
        hidden = (linear(told, "first") + bias("first")).clamp(min=0)
        hidden = (linear(hidden, "second") + bias("second")).clamp(min=0)
        return (linear(told, "linear") + linear(hidden, "last") + bias("last"))[..., None]

    def search(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As `quantize`, with the sums after each codebook, and nothing predicted."""
        codes, margins, totals = [], [], [torch.zeros_like(z)]
        for k in range(self.config.n_codebooks):
            name = f"quantizer.quantizers.{k}"
            rows = self.get(f"{name}.codebook.weight")
            cosines = torch.einsum(
                "bdf,sd->bfs", F.normalize(self.conv(z, f"{name}.in_proj"), dim=1), F.normalize(rows, dim=1)
            )
            best = cosines.topk(2, dim=-1)
            codes.append(best.indices[..., 0])
            margins.append(best.values[..., 0] - best.values[..., 1])
            out = self.conv(rows[codes[-1]].transpose(1, 2), f"{name}.out_proj")
            totals.append(totals[-1] + out)
            z = z - out
        return torch.stack(codes, dim=1), torch.stack(margins, dim=1), totals[1:]

    def decode(self, z: Tensor) -> Tensor:
        """Quantised latents `[B, D, F]` to `[B, 1, T]`."""
        x = self.conv(z, "decoder.model.0")
        for stage, stride in enumerate(self.config.decoder_rates, start=1):
            x = self.snake(x, f"decoder.model.{stage}.block.0")
            x = self.transpose(x, f"decoder.model.{stage}.block.1", stride)
            for place, dilation in enumerate((1, 3, 9), start=2):
                x = self.unit(x, f"decoder.model.{stage}.block.{place}", dilation)
        last = len(self.config.decoder_rates) + 1
        audio = torch.tanh(self.conv(self.snake(x, f"decoder.model.{last}"), f"decoder.model.{last + 1}"))
        return torch.stack([self.comb(row[0]) for row in audio])[:, None] if self.config.long_term else audio

    def comb(self, x: Tensor) -> Tensor:
        """The long-term filter `[T]` to `[T]`, lag by lag."""
        rate, block = self.config.sample_rate, self.config.hop_length // 2
        shortest, longest, compared = round(rate / 500), round(rate / 60), round(rate / 50)
        own, past = (10 * self.get(f"decoder.long_term.{name}") for name in ("own", "past"))
        half = int(0.0007 * rate / 2 + 0.25)
        hann = torch.tensor([math.cos(math.pi * n / (2 * half + 2)) ** 2 for n in range(-half, half + 1)])
        before = 2 * (longest + compared)
        smooth = F.conv1d(F.pad(x, (before + 2 * half, 0))[None, None], (hann / hann.sum()).to(x)[None, None])[0, 0]

        def kernel(end: int) -> Tensor:
            """Taps by lag for the pitch of what ends at sample `end`."""
            present = smooth[before + end - compared : before + end]
            fits = torch.zeros(longest + 1).to(x)
            for lag in range(shortest, longest + 1):
                then = smooth[before + end - compared - lag : before + end - lag]
                fits[lag] = (present @ then) / math.sqrt((present @ present) * (then @ then) + 1e-8)
            weights = torch.zeros_like(fits)
            weights[shortest:] = torch.softmax(40 * fits[shortest:], dim=0)
            taps = torch.zeros(longest + 8).to(x)
            fit = float(weights @ fits)
            for share, near, far in zip(hats(fit), own, past, strict=True):
                taps[:15] += share * near
                for lag in range(shortest, longest + 1):
                    taps[lag - 7 : lag + 8] += share * weights[lag] * far
            return taps

        y = x.clone()
        for start in range(0, len(x), block):
            old, new = kernel(start), kernel(start + block)
            for n in range(start, start + block):
                taps = new * ((n - start) / block) + old * (1 - (n - start) / block)
                y[n] += sum(taps[lag] * x[n - lag] for lag in range(min(n, longest + 7) + 1))
        return y


def hats(fit: float) -> list[float]:
    """How much each of three filters counts where the past fits that well."""
    rising = [(fit - low) / (high - low) for low, high in ((0.4, 0.55), (0.55, 0.75), (0.75, 0.9))]
    falling = [(high - fit) / (high - low) for low, high in ((0.55, 0.75), (0.75, 0.9))]
    return [min(max(min(up, down), 0.0), 1.0) for up, down in zip(rising, [*falling, 1.0], strict=True)]
