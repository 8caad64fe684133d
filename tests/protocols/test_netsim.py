"""The simulated network is as bad as it says, and the same for the same seed."""

import dataclasses
import itertools

import numpy as np
import pytest

from streamdac.errors import UsageError
from streamdac.protocols.netsim import Link, Network

STEP = 0.01  # s between packets


def run(network, count=20_000, *, size=50, seed=1) -> tuple[Link[int], list[tuple[float, int]]]:
    """Packets 0 to count - 1, one every 10 ms, and what arrives of them."""
    link: Link[int] = Link(network, seed=seed)
    for number in range(count):
        link.send(number, size, number * STEP)
    return link, link.receive(float("inf"))


def test_a_good_network_only_delays() -> None:
    link, arrived = run(Network(delay=0.03), 100)
    assert [number for _, number in arrived] == list(range(100))
    assert [time for time, _ in arrived] == pytest.approx([n * STEP + 0.03 for n in range(100)])
    assert link.pending == 0
    assert (link.counts.sent, link.counts.sent_bytes, link.counts.lost) == (100, 5000, 0)


def test_only_what_has_arrived_is_received() -> None:
    link: Link[int] = Link(Network(delay=0.03))
    link.send(1, 10, 0.0)
    link.send(2, 10, 0.02)
    assert link.receive(0.029) == []
    assert link.receive(0.04) == [(0.03, 1)]
    assert link.pending == 1


@pytest.mark.parametrize(("loss", "burst"), [(0.1, 1.0), (0.1, 1.2), (0.05, 4.0), (0.3, 8.0), (0.7, 1.0)])
def test_loss_has_its_share_and_its_bursts(loss, burst) -> None:
    _, arrived = run(Network(loss=loss, burst=burst), 60_000)
    came = {number for _, number in arrived}
    runs = [len(list(group)) for lost, group in itertools.groupby(n not in came for n in range(60_000)) if lost]
    assert 1 - len(came) / 60_000 == pytest.approx(loss, rel=0.12)
    assert np.mean(runs) == pytest.approx(max(burst, 1 / (1 - loss)), rel=0.12)


def test_jitter_is_exponential_and_reorders() -> None:
    _, arrived = run(Network(delay=0.03, jitter=0.02))
    extra = [time - number * STEP - 0.03 for time, number in arrived]
    assert min(extra) >= 0
    assert np.mean(extra) == pytest.approx(0.02, rel=0.05)
    assert np.std(extra) == pytest.approx(0.02, rel=0.05)
    assert [number for _, number in arrived] != list(range(20_000))


def test_an_ordered_link_holds_up_what_follows() -> None:
    _, arrived = run(Network(jitter=0.02, ordered=True))
    assert [number for _, number in arrived] == list(range(20_000))


def test_reordering_and_duplication_have_their_shares() -> None:
    link, arrived = run(Network(delay=0.0, reorder=0.1, reorder_delay=0.5, duplicate=0.05))
    assert len(arrived) == 20_000 + link.counts.duplicated
    assert link.counts.duplicated == pytest.approx(1000, rel=0.15)
    held = sum(time > number * STEP + 0.4 for time, number in arrived)
    assert held == pytest.approx(2100, rel=0.15)


def test_bandwidth_queues_and_a_full_queue_loses() -> None:
    # 50 bytes every 10 ms are 40 kbit/s, twice what passes.
    link, arrived = run(Network(delay=0.0, bandwidth=20_000, queue=0.2), 2000)
    assert link.counts.overflowed == pytest.approx(1000, rel=0.05)
    assert len(arrived) == 2000 - link.counts.overflowed
    assert max(time - number * STEP for time, number in arrived) == pytest.approx(0.22, abs=0.02)
    gaps = np.diff([time for time, _ in arrived])
    assert gaps == pytest.approx(np.full(len(gaps), 0.02))


def test_stalls_let_nothing_pass() -> None:
    network = Network(delay=0.0, stall_every=5.0, stall=0.3)
    _, arrived = run(network)
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(sorted(arrived))]
    stalls = [gap for gap in gaps if gap > 0.1]
    assert len(stalls) == pytest.approx(200 / 5.3, rel=0.4)
    assert max(gaps) == pytest.approx(0.3, abs=2 * STEP)


def test_drift_is_the_senders_clock_running_faster() -> None:
    _, arrived = run(Network(delay=0.03, drift=0.01), 1000)
    assert arrived[-1][0] == pytest.approx(999 * STEP / 1.01 + 0.03)


def test_the_seed_decides_everything() -> None:
    network = Network(jitter=0.02, loss=0.1, burst=3, reorder=0.1, duplicate=0.1, stall_every=3)
    assert run(network, 2000)[1] == run(network, 2000)[1]
    assert run(network, 2000)[1] != run(network, 2000, seed=2)[1]


WRONG = [
    ({"loss": 1.0}, r"loss, reorder, duplicate of \(1.0, 0.0, 0.0\)"),
    ({"reorder": -0.1}, "need 0 to less than 1"),
    ({"duplicate": float("nan")}, "need 0 to less than 1"),
    ({"delay": -0.1}, "got times of"),
    ({"jitter": float("inf")}, "got times of"),
    ({"burst": 0.5}, "got bursts of 0.5 packets"),
    ({"drift": 0.2}, "got a drift of 0.2"),
    ({"drift": float("nan")}, "got a drift of nan"),
    ({"bandwidth": 0.0}, "got a bandwidth of 0.0 bit/s"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG, ids=[next(iter(wrong)) for wrong, _ in WRONG])
def test_what_no_network_is_like_is_a_mistake(wrong, reason) -> None:
    with pytest.raises(UsageError, match=reason):
        dataclasses.replace(Network(), **wrong)
