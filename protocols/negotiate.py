"""The server's answer to a Hello: the first model that both sides have, within the server's own limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from .messages import MAX_CHANNELS, MAX_CODEBOOKS, MAX_FRAMES, VERSION, Accept, Hello, Offer, Reason, Reject, Role


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes part in."""

    roles: frozenset[Role] = frozenset(Role)
    channels: int = MAX_CHANNELS
    codebooks: int = MAX_CODEBOOKS
    frames_per_packet: int = MAX_FRAMES
    redundancy_frames: int = MAX_FRAMES
    redundancy_codebooks: int = MAX_CODEBOOKS


def answer(hello: Hello, models: Sequence[Offer], *, limits: Limits | None = None) -> Accept | Reject:
    """Accept the client's best model that we have, as `models` describes it, with at most what both sides want."""
    limits = limits or Limits()
    if hello.role not in limits.roles:
        return Reject(Reason.FORMAT, f"role {Role(hello.role).name} is not served here")
    if hello.channels > limits.channels:
        return Reject(Reason.FORMAT, f"got {hello.channels} channels, need at most {limits.channels}")
    ours = {model.fingerprint: model for model in models}
    offer = next((offer for offer in hello.offers if ours.get(offer.fingerprint) == offer), None)
    if offer is None:
        offered = " ".join(offer.fingerprint.hex()[:12] for offer in hello.offers)
        have = " ".join(model.fingerprint.hex()[:12] for model in list(models)[:4])
        return Reject(Reason.MODEL, f"no common model: offered {offered[:96]}, have {have or 'none'}"[:200])
    return Accept(
        VERSION,
        offer.fingerprint,
        hello.channels,
        min(hello.codebooks, offer.n_codebooks, limits.codebooks),
        min(hello.frames_per_packet, limits.frames_per_packet),
        min(hello.redundancy_frames, limits.redundancy_frames),
        min(hello.redundancy_codebooks, limits.redundancy_codebooks),
    )
