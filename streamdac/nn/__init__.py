"""The network as torch modules: the same parameters and names for official and causal models."""

from .network import DAC, Decoder, Encoder

__all__ = ["DAC", "Decoder", "Encoder"]
