"""The session: its table, its rules, whose fault an error is, and time."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import LocalProtocolError, RemoteProtocolError
from streamdac.protocols import negotiate, session, wire
from streamdac.protocols.messages import (
    Accept,
    Adapt,
    Bye,
    End,
    Header,
    Hello,
    Layout,
    Left,
    Mute,
    Offer,
    Packet,
    Ping,
    Pong,
    Reason,
    Reject,
    Role,
    Stats,
)
from streamdac.protocols.packets import make_packet
from streamdac.protocols.session import NEXT, PeerTimeoutError, Session, Side, State
from streamdac.protocols.wire import UnsupportedError, encode

MODEL = Offer(b"m" * 32, 24_000, 320, 16, 1024)
OTHER = Offer(b"o" * 32, 44_100, 512, 9, 1024)
HELLO = Hello(1, Role.BOTH, (OTHER, MODEL), 1, 8, 1, 0, 1)
ACCEPT = Accept(1, MODEL.fingerprint, 1, 8, 1, 0, 1)
LAYOUT = Layout(8, 1024, 1)
BYE = Bye(Reason.NORMAL, "")
STATS = Stats(0, *[0] * 9)
ADAPT = Adapt(4, 1, 0, 1)


def packet(first=0, *, stream=0, codebooks=8, sequence=0, redundancy=b"", layout=LAYOUT) -> Packet:
    codes = np.zeros((codebooks, layout.channels, 1), dtype=np.int64)
    return make_packet(layout, codes, sequence=sequence, first_frame=first, redundancy=redundancy, stream=stream)


class Pair:
    """A client and a server, and a wire that delivers at once."""

    def __init__(self, role=Role.BOTH, *, opened=True) -> None:
        self.client, self.server = Session(Side.CLIENT, now=0.0), Session(Side.SERVER, now=0.0)
        if opened:
            self.say(self.client, dataclasses.replace(HELLO, role=role))
            self.say(self.server, ACCEPT)

    def peer(self, speaker) -> Session:
        return self.server if speaker is self.client else self.client

    def say(self, speaker, message, now=0.0) -> None:
        assert self.peer(speaker).receive(speaker.send(message), now) == message

    def force(self, listener, message, now=0.0) -> RemoteProtocolError:
        """What `listener` says to a message that its peer should not have sent."""
        with pytest.raises(RemoteProtocolError) as info:
            listener.receive(encode(message), now)
        return info.value


def test_a_session_from_hello_to_bye() -> None:
    pair = Pair()
    for speaker in (pair.client, pair.server):
        for message in (packet(0), packet(1), Mute(0, 2), STATS, ADAPT, End(0, 900, 3)):
            pair.say(speaker, message)
    assert pair.client.state is pair.server.state is State.OPEN
    assert pair.server.agreement.layout == LAYOUT
    pair.say(pair.client, BYE)
    assert pair.client.state is pair.server.state is State.CLIENT_DONE
    pair.say(pair.server, packet(3, stream=1))
    pair.say(pair.server, BYE)
    assert pair.client.state is pair.server.state is State.CLOSED


EXAMPLES = [
    HELLO,
    ACCEPT,
    Reject(1, ""),
    packet(),
    End(0, 0, 0),
    Mute(0, 0),
    ADAPT,
    STATS,
    Ping(1),
    Pong(1),
    BYE,
    Left(0),
]


def at(state) -> Pair:
    """A pair in a state; CLOSED by a rejection."""
    pair = Pair(opened=state not in (State.HELLO, State.ANSWER, State.CLOSED))
    if state in (State.ANSWER, State.CLOSED):
        pair.say(pair.client, HELLO)
    if state is State.CLOSED:
        pair.say(pair.server, Reject(Reason.BUSY, "full"))
    if state in (State.CLIENT_DONE, State.SERVER_DONE):
        pair.say(pair.client if state is State.CLIENT_DONE else pair.server, BYE)
    assert pair.client.state is pair.server.state is state
    return pair


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    "message", [*EXAMPLES, Header(1, bytes(32), "", 1, 1, 1, 2, 1, 1)], ids=lambda m: type(m).__name__
)
def test_the_table_says_who_may_say_what(state, side, message) -> None:
    pair = at(state)
    speaker = pair.client if side is Side.CLIENT else pair.server
    following = NEXT[state, side].get(type(message))
    second = isinstance(message, Hello | Accept) and state in (State.CLIENT_DONE, State.SERVER_DONE)
    if following is None or second:
        reason = (
            "a second" if following else f"{type(message).__name__} from the {side.name.lower()} while {state.name}"
        )
        with pytest.raises(LocalProtocolError, match=reason):
            speaker.send(message)
        assert reason in str(pair.force(pair.peer(speaker), message))
        assert pair.peer(speaker).state is speaker.state is state
    else:
        pair.say(speaker, message)
        assert pair.peer(speaker).state is speaker.state is following


def test_messages_that_cross_a_bye_are_taken() -> None:
    pair = Pair(opened=False)
    hello = pair.client.send(HELLO)
    bye = pair.server.send(Bye(Reason.LEAVING, "shutting down"))
    pair.server.receive(hello, 0.0)
    pair.client.receive(bye, 0.0)
    pair = at(State.ANSWER)
    bye, accept = pair.client.send(BYE), pair.server.send(ACCEPT)
    pair.client.receive(accept, 0.0)
    pair.server.receive(bye, 0.0)
    assert pair.client.state is pair.server.state is State.CLIENT_DONE
    pair = Pair()
    byes = pair.client.send(BYE), pair.server.send(BYE)
    pair.server.receive(byes[0], 0.0)
    pair.client.receive(byes[1], 0.0)
    assert pair.client.state is pair.server.state is State.CLOSED


def test_packets_need_an_accept_even_after_a_bye() -> None:
    pair = at(State.ANSWER)
    pair.client.send(BYE)
    assert "Packet before an Accept" in str(pair.force(pair.client, packet()))


WRONG_ACCEPTS = [
    (dataclasses.replace(ACCEPT, fingerprint=b"x" * 32), "which was not offered"),
    (dataclasses.replace(ACCEPT, channels=2), "an Accept of 2 channels, offered were 1"),
    (dataclasses.replace(ACCEPT, codebooks=17), "an Accept of 17 codebooks of a model that has 16"),
]


@pytest.mark.parametrize(("accept", "reason"), WRONG_ACCEPTS)
def test_an_accept_must_fit_the_hello(accept, reason) -> None:
    pair = at(State.ANSWER)
    with pytest.raises(LocalProtocolError, match=reason):
        pair.server.send(accept)
    assert reason in str(pair.force(pair.client, accept))


def test_a_model_is_offered_once() -> None:
    pair = Pair(opened=False)
    assert "offers one model twice" in str(pair.force(pair.server, dataclasses.replace(HELLO, offers=(MODEL, MODEL))))


FRAMES = 600 * 24_000 // 320
WRONG = [
    (packet(stream=1), "stream 1 from the client, need 0"),
    (Packet(0, 0, 0, 1, 9, bytes(12)), "got a packet of 9 codebooks, need at most 8"),
    (Packet(0, 0, 0, 1, 8, bytes(11)), "got 11 payload bytes, need 10"),
    (Packet(0, 0, 0, 1, 1, b"\xff\xff"), "the 6 spare bits"),
    (packet(redundancy=b"\x01"), "got a redundancy field of 1 bytes"),
    (packet(11 + FRAMES), f"frame {11 + FRAMES} after frame 10, need at most {FRAMES} apart"),
    (Mute(0, 11 + FRAMES), "need at most"),
    (End(0, 0, 9), "an End after 9 frames, but 10 came"),
    (End(0, 0, 11 + FRAMES), "but 10 came"),
    (End(0, 11 * 320 + 2, 10), "an End with 3522 samples in 10 frames, need at most 3521"),
]


@pytest.mark.parametrize(("message", "reason"), WRONG, ids=range(len(WRONG)))
def test_a_broken_rule_is_the_fault_of_who_spoke(message, reason) -> None:
    pair = Pair()
    pair.say(pair.client, packet(9))
    with pytest.raises(LocalProtocolError, match=reason):
        pair.client.send(message)
    assert reason in str(pair.force(pair.server, message))


def test_a_stream_begins_anywhere_and_may_jump_within_the_window() -> None:
    pair = Pair()
    pair.say(pair.client, packet(10**9))
    pair.say(pair.client, packet(10**9 + 1 + FRAMES))
    pair.say(pair.client, packet(10**9 + 2))


def test_a_stream_that_was_muted_from_its_first_frame_may_end_there() -> None:
    pair = Pair()
    pair.say(pair.client, Mute(0, 0))
    pair.say(pair.client, End(0, 0, 0))


def test_nothing_follows_the_end_of_a_clients_stream() -> None:
    pair = Pair()
    pair.say(pair.client, End(0, 0, 0))
    for message in (packet(), Mute(0, 0), End(0, 0, 0)):
        with pytest.raises(LocalProtocolError, match=f"{type(message).__name__} after the End of its stream"):
            pair.client.send(message)


def test_a_server_may_use_a_stream_number_again() -> None:
    pair = Pair()
    for end in (End(3, 0, 10**6 + 1), Left(3)):
        pair.say(pair.server, packet(10**6, stream=3))
        pair.say(pair.server, end)
    pair.say(pair.server, packet(0, stream=3))


def test_what_a_server_forwards_is_kept_within_what_the_client_can_follow() -> None:
    pair = Pair()
    steps = [
        (packet(9, stream=3), packet(9, stream=3)),
        (packet(11 + FRAMES, stream=3), None),
        (Mute(3, 11 + FRAMES), None),
        (Mute(3, 10 + FRAMES), Mute(3, 10 + FRAMES)),
        (packet(11 + FRAMES, stream=3), packet(11 + FRAMES, stream=3)),
        (End(3, 0, 9), Left(3)),
        (packet(0, stream=3), packet(0, stream=3)),
        (End(3, 0, 1), End(3, 0, 1)),
        (packet(10**9, stream=3), packet(10**9, stream=3)),
    ]
    for message, told in steps:
        assert pair.server.forward(message) == told
        if told is not None:
            assert pair.client.receive(encode(told), 0.0) == told
    assert pair.client.agreement.positions == pair.server.agreement.positions


def test_a_message_is_forwarded_as_it_came_whatever_codebooks_the_client_takes() -> None:
    large = packet(codebooks=16, layout=Layout(16, 1024, 1))
    assert Pair().server.forward(large) == large


def test_nothing_is_forwarded_where_a_server_may_not_say_it() -> None:
    waiting = at(State.ANSWER)
    waiting.say(waiting.client, BYE)
    for pair in (at(State.ANSWER), at(State.SERVER_DONE), at(State.CLOSED), waiting, Pair(Role.SEND)):
        assert pair.server.forward(packet()) is None
    pair = Pair()
    pair.force(pair.server, HELLO)
    assert pair.server.forward(End(0, 0, 0)) is None


ODD = Offer(b"1" * 32, 24_000, 320, 8, 1000)
PAST_THE_LAST = np.full((1, 1, 1), 1000)
BEYOND = make_packet(Layout(8, 1024, 1), PAST_THE_LAST, sequence=0, first_frame=1).payload


@pytest.mark.parametrize("redundant", [False, True])
def test_a_code_that_the_codebook_does_not_have_is_the_fault_of_who_sent_it(redundant) -> None:
    pair, layout = Pair(opened=False), Layout(8, 1000, 1)
    pair.say(pair.client, dataclasses.replace(HELLO, offers=(ODD,)))
    pair.say(pair.server, dataclasses.replace(ACCEPT, fingerprint=ODD.fingerprint))
    good = packet(1, codebooks=1, redundancy=b"\1\1" + bytes(2), layout=layout)
    pair.say(pair.client, good)
    bad = {"redundancy": b"\1\1" + BEYOND} if redundant else {"payload": BEYOND}
    message = dataclasses.replace(good, **bad)
    with pytest.raises(LocalProtocolError, match="got code 1000, need 0 to 999"):
        pair.client.send(message)
    assert "got code 1000, need 0 to 999" in str(pair.force(pair.server, message))


@pytest.mark.parametrize(
    ("role", "by_client", "by_server"),
    [(Role.SEND, [packet(), End(0, 0, 1)], [STATS, ADAPT]), (Role.RECEIVE, [STATS, ADAPT], [packet(), End(0, 0, 1)])],
)
def test_roles_say_who_sends_codes_and_who_reports(role, by_client, by_server) -> None:
    pair = Pair(role)
    reason = f"against the client's role {role.name}"
    for message in by_server:
        with pytest.raises(LocalProtocolError, match=reason):
            pair.client.send(message)
    for message in by_client:
        with pytest.raises(LocalProtocolError, match=reason):
            pair.server.send(message)
        pair.say(pair.client, message)
    for message in by_server:
        pair.say(pair.server, message)


def test_after_a_violation_nothing_is_received_and_only_a_farewell_sent() -> None:
    pair = Pair()
    error = pair.force(pair.server, HELLO)
    with pytest.raises(RemoteProtocolError) as again:
        pair.server.receive(encode(packet()), 1.0)
    assert again.value is error
    with pytest.raises(LocalProtocolError, match="after the peer broke the protocol"):
        pair.server.send(packet())
    pair.server.tick(1000.0)
    said = wire.decode(pair.server.farewell(error))
    assert said == Bye(Reason.VIOLATION, "Hello from the client while OPEN")
    assert pair.server.farewell(error) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnsupportedError("v"), Reason.VERSION),
        (PeerTimeoutError("t"), Reason.TIMEOUT),
        (RemoteProtocolError("r"), Reason.VIOLATION),
        (LocalProtocolError("l"), Reason.OTHER),
    ],
)
def test_a_farewell_says_why(error, reason) -> None:
    assert wire.decode(Pair(opened=False).server.farewell(error)) == Reject(reason, str(error))
    assert wire.decode(Pair(opened=False).client.farewell(error)) == Bye(reason, str(error))


def test_a_farewell_is_printable_and_short() -> None:
    text = wire.decode(Pair().server.farewell(RemoteProtocolError("\x1b[31m" + "ä" + "x" * 300))).text
    assert text == ("[31m" + "x" * 300)[:200]


def test_optional_messages_are_skipped_and_counted() -> None:
    pair = Pair()
    assert pair.server.receive(b"\x91\x7f", 0.0) is None
    assert pair.server.skipped == 1


def test_a_ping_is_answered_and_timed() -> None:
    pair = Pair()
    pair.client.ping(1.0)
    (ping,) = pair.client.take_outgoing()
    assert pair.server.receive(ping, 5.0) == Ping(1)
    (pong,) = pair.server.take_outgoing()
    assert pair.server.take_outgoing() == []
    pair.client.receive(encode(Pong(77)), 1.1)
    assert pair.client.round_trip is None
    pair.client.receive(pong, 1.25)
    assert pair.client.round_trip == pytest.approx(0.25)
    pair.client.receive(pong, 9.0)
    assert pair.client.round_trip == pytest.approx(0.25)


def test_a_ping_after_our_bye_is_not_answered() -> None:
    pair = Pair()
    pair.say(pair.server, BYE)
    pair.say(pair.client, Ping(1))
    assert pair.server.take_outgoing() == []


def test_answers_that_nobody_takes_do_not_pile_up() -> None:
    pair = Pair()
    for token in range(100):
        pair.say(pair.client, Ping(token))
    assert len(pair.server.take_outgoing()) == session.MAX_WAITING


def test_a_ping_is_due_every_ten_seconds() -> None:
    pair = Pair()
    times = []
    for second in range(29):
        pair.client.tick(float(second))
        times += [second] * len(pair.client.take_outgoing())
    assert times == [10, 20]


def test_a_silent_peer_is_given_up() -> None:
    pair = Pair()
    pair.client.tick(29.9)
    pair.client.receive(encode(Ping(1)), 29.9)
    pair.client.tick(59.8)
    with pytest.raises(PeerTimeoutError, match="nothing heard for 30 s"):
        pair.client.tick(59.9)
    with pytest.raises(PeerTimeoutError):
        pair.client.receive(encode(Ping(1)), 60.0)


def test_a_handshake_takes_at_most_five_seconds() -> None:
    pair = Pair(opened=False)
    pair.client.tick(5.0)
    with pytest.raises(PeerTimeoutError, match="no Hello within 5 s"):
        pair.server.tick(5.0)
    pair = at(State.ANSWER)
    pair.server.tick(5.0)
    with pytest.raises(PeerTimeoutError, match="no answer to the Hello within 5 s"):
        pair.client.tick(5.0)


def test_nothing_is_due_in_a_closed_session() -> None:
    at(State.CLOSED).client.tick(1000.0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EXAMPLES), st.booleans(), st.integers(0, 7), st.booleans()), max_size=20))
def test_two_sessions_always_agree_on_the_state(steps) -> None:
    pair = Pair(opened=False)
    for message, by_client, flip, damage in steps:
        speaker = pair.client if by_client else pair.server
        try:
            data = bytearray(speaker.send(message))
        except LocalProtocolError:
            continue
        if damage:
            data[-1] ^= 1 << flip
        try:
            pair.peer(speaker).receive(bytes(data), 0.0)
        except RemoteProtocolError:
            return
        if not damage:
            assert speaker.state is pair.peer(speaker).state


def test_the_servers_answer_is_the_clients_first_model_that_it_has() -> None:
    answer = negotiate.answer(HELLO, [MODEL])
    assert answer == ACCEPT
    assert negotiate.answer(HELLO, [MODEL, OTHER]).fingerprint == OTHER.fingerprint


def test_an_answer_stays_within_the_servers_limits() -> None:
    limits = negotiate.Limits(codebooks=4, frames_per_packet=2, redundancy_frames=1, redundancy_codebooks=1)
    hello = dataclasses.replace(HELLO, frames_per_packet=9, redundancy_frames=8, redundancy_codebooks=3)
    assert negotiate.answer(hello, [MODEL], limits=limits) == Accept(1, MODEL.fingerprint, 1, 4, 2, 1, 1)


@pytest.mark.parametrize(
    ("hello", "models", "reason", "text"),
    [
        (dataclasses.replace(HELLO, channels=3), [MODEL], Reason.FORMAT, "got 3 channels, need at most 2"),
        (dataclasses.replace(HELLO, role=1), [MODEL], Reason.FORMAT, "role SEND is not served here"),
        (HELLO, [], Reason.MODEL, "have none"),
        (HELLO, [dataclasses.replace(MODEL, hop_length=512)], Reason.MODEL, "no common model"),
    ],
)
def test_what_cannot_be_served_is_rejected(hello, models, reason, text) -> None:
    limits = negotiate.Limits(roles=frozenset({Role.BOTH}), channels=2)
    answer = negotiate.answer(hello, models, limits=limits)
    assert answer.reason == reason
    assert text in answer.text
    assert encode(answer)


def test_a_rejection_for_the_model_fits_into_its_field() -> None:
    hello = dataclasses.replace(HELLO, offers=tuple(Offer(bytes([i]) * 32, 1, 1, 1, 2) for i in range(8)))
    models = [Offer(bytes([99 + i]) * 32, 1, 1, 1, 2) for i in range(50)]
    assert encode(negotiate.answer(hello, models))
