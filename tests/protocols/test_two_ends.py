"""Two ends of a session as a state machine: both sides say anything at any time, over a wire that delays and damages.

The machine keeps a model of its own: the state table of PROTOCOL.md, the messages on their way, and who broke it.
"""

from __future__ import annotations

import dataclasses
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamdac.errors import LocalProtocolError, RemoteProtocolError
from streamdac.protocols.messages import Accept, Bye, End, Hello, Left, Message, Mute, Offer, Packet, Reject
from streamdac.protocols.session import MAX_WAITING, PeerTimeoutError, Session, Side, State
from streamdac.protocols.wire import decode, encode

from .test_messages import any_message

MODEL = Offer(b"m" * 32, 24_000, 320, 4, 1024)
HELLO = Hello(1, 3, (MODEL,), 1, 4, 1, 0, 1)
ACCEPT = Accept(1, MODEL.fingerprint, 1, 4, 1, 0, 1)
PACKETS = st.builds(
    Packet,
    stream=st.sampled_from([0, 0, 0, 5]),
    sequence=st.integers(0, 65_535),
    first_frame=st.one_of(st.integers(0, 300), st.just(10**7)),
    frames=st.just(1),
    codebooks=st.integers(1, 5),
    payload=st.sampled_from([bytes(5), bytes(3), b"\xff" * 5]),
)
STREAM = st.one_of(
    PACKETS,
    st.builds(Mute, st.sampled_from([0, 5]), st.integers(0, 300)),
    st.builds(End, st.sampled_from([0, 5]), st.integers(0, 90_000), st.integers(0, 300)),
    st.builds(Left, st.sampled_from([0, 5])),
)
SAID = st.one_of(
    st.just(HELLO),
    st.just(ACCEPT),
    st.builds(dataclasses.replace, st.just(HELLO), role=st.integers(1, 3)),
    STREAM,
    STREAM,
    any_message,
)


class TwoEnds(RuleBasedStateMachine):
    """A client and a server, and what is on its way between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ends = {side: Session(side, now=0.0) for side in Side}
        self.way: dict[Side, deque[bytes]] = {side: deque() for side in Side}  # from each side
        self.sent: dict[Side, list[Message]] = {side: [] for side in Side}
        self.got: dict[Side, list[Message]] = {side: [] for side in Side}
        self.broken: set[Side] = set()  # who has seen a violation or a time-out
        self.damaged = False

    @rule(side=st.sampled_from(Side), message=SAID)
    def say(self, side, message) -> None:
        """A message of ours goes out, or is refused and changes nothing."""
        end = self.ends[side]
        before = end.state, dict(end.agreement.positions)
        try:
            data = end.send(message)
        except LocalProtocolError:
            assert before == (end.state, end.agreement.positions)
            return
        assert side not in self.broken or isinstance(message, Bye | Reject)
        assert decode(data) == message
        self.way[side].append(data)
        self.sent[side].append(message)

    @rule(side=st.sampled_from(Side), role=st.integers(1, 3))
    def open(self, side, role) -> None:
        """The message that leads on, so that sessions get somewhere."""
        self.say(side, dataclasses.replace(HELLO, role=role) if side is Side.CLIENT else ACCEPT)
        self.deliver(side)

    @rule(side=st.sampled_from(Side))
    def deliver(self, side) -> None:
        """The oldest message from one side arrives at the other."""
        if not self.way[side]:
            return
        self.receive(side.other, self.way[side].popleft())

    def receive(self, side, data) -> None:
        """Nobody is blamed who kept to the rules; what must not come is an error, the same one ever after."""
        end = self.ends[side]
        before, failure = end.state, None
        try:
            message = end.receive(data, self.now)
        except RemoteProtocolError as error:
            failure, message = error, None
        if failure is not None:
            # A closed session reads no more; nothing else that crosses on its way is a violation.
            assert self.damaged or side in self.broken or before is State.CLOSED
            assert end.state is before
            self.broken.add(side)
            with pytest.raises(RemoteProtocolError) as again:
                end.receive(encode(HELLO), self.now)
            assert again.value is failure
        elif message is not None:
            assert side not in self.broken
            self.got[side].append(message)

    @precondition(lambda self: any(self.way.values()))
    @rule(side=st.sampled_from(Side), byte=st.integers(0, 10_000), flip=st.integers(1, 255))
    def damage(self, side, byte, flip) -> None:
        """A byte of a message is changed on its way."""
        if self.way[side]:
            data = bytearray(self.way[side].pop())
            data[byte % len(data)] ^= flip
            self.way[side].append(bytes(data))
            self.damaged = True

    @rule(side=st.sampled_from(Side), data=st.binary(max_size=20))
    def garbage(self, side, data) -> None:
        """Bytes that the peer never sent arrive."""
        self.damaged = True
        self.receive(side, data)

    @rule(side=st.sampled_from(Side), seconds=st.sampled_from([0.01, 1.0, 4.9, 10.0, 31.0]))
    def tick(self, side, seconds) -> None:
        """Time passes; what is due goes out."""
        self.now += seconds
        try:
            self.ends[side].tick(self.now)
        except PeerTimeoutError:
            assert self.now >= 5
            self.broken.add(side)

    @rule(side=st.sampled_from(Side))
    def take(self, side) -> None:
        """Answers that are due go on their way."""
        waiting = self.ends[side].take_outgoing()
        assert len(waiting) <= MAX_WAITING
        assert self.ends[side].take_outgoing() == []
        self.way[side].extend(waiting)
        self.sent[side] += [decode(data) for data in waiting]

    @rule(side=st.sampled_from(Side))
    def farewell(self, side) -> None:
        """A goodbye may be said at any time, and once."""
        end = self.ends[side]
        data = end.farewell(RemoteProtocolError("x"))
        if data is not None:
            self.way[side].append(data)
            self.sent[side].append(decode(data))
        assert end.farewell(RemoteProtocolError("x")) is None

    @invariant()
    def what_arrives_was_sent_in_its_order(self) -> None:
        """Nothing is invented, reordered or given after a violation."""
        if not self.damaged:
            for side in Side:
                sent = self.sent[side.other]
                assert self.got[side] == sent[: len(self.got[side])]

    @invariant()
    def the_states_agree_once_nothing_is_on_its_way(self) -> None:
        """Both ends are in the same state when everything has arrived, unless one of them has given up."""
        if not self.damaged and not self.broken and not any(self.way.values()):
            waiting = any(end._outgoing for end in self.ends.values())
            client, server = (self.ends[side] for side in Side)
            assert waiting or client.state is server.state


TwoEnds.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTwoEnds = TwoEnds.TestCase
