"""Rooms of a real server on a real socket: who hears what, and how it is forwarded."""

from __future__ import annotations

import dataclasses

import pytest

from streamdac.frontends import ws_limits
from streamdac.protocols.messages import (
    Accept,
    Adapt,
    Bye,
    End,
    Layout,
    Left,
    Mute,
    Offer,
    Packet,
    Reason,
    Reject,
    Role,
    Stats,
)
from streamdac.protocols.packets import make_packet, packet_codes, thin
from streamdac.protocols.wire import encode

from .parts import LAYOUT, OFFER, hello, packets, raw, running, until

SENT = packets(20)
MINUTES = 40_000  # frames: a jump that is allowed, two of them are not


def at(sequence: int, frame: int) -> Packet:
    return dataclasses.replace(SENT[0], sequence=sequence, first_frame=frame)


async def test_what_one_sends_the_others_in_the_room_hear_and_nobody_else() -> None:
    async with (
        running() as relay,
        raw(relay, "a", greet=hello()) as speaker,
        raw(relay, "a", greet=hello(), read=True) as one,
        raw(relay, "a", greet=hello(), read=True) as two,
        raw(relay, "b", greet=hello(), read=True) as elsewhere,
    ):
        for packet in SENT:
            await speaker.say(packet)
        await speaker.say(End(0, 20 * 320, 20))
        for listener in (one, two):
            await until(lambda listener=listener: listener.heard(End))
            assert [dataclasses.replace(packet, stream=0) for packet in listener.heard(Packet)] == SENT
        assert elsewhere.heard(Packet) == speaker.heard(Packet) == []


async def test_two_speakers_are_told_apart_by_their_streams() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello()) as one,
        raw(relay, greet=hello()) as two,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as listener,
    ):
        for packet in SENT:
            await one.say(packet)
            await two.say(packet)
        await until(lambda: len(listener.heard(Packet)) == 40)
        streams = {packet.stream for packet in listener.heard(Packet)}
        assert len(streams) == 2
        for stream in streams:
            assert [p.first_frame for p in listener.heard(Packet) if p.stream == stream] == list(range(20))


async def test_a_member_that_goes_without_an_end_is_reported_as_left() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE), read=True) as listener:
        async with raw(relay, greet=hello(Role.SEND)) as speaker:
            await speaker.say(SENT[0])
            await until(lambda: listener.heard(Packet))
            speaker.socket.transport.abort()
        await until(lambda: listener.heard(Left))
        assert listener.heard(Left) == [Left(listener.heard(Packet)[0].stream)]


async def test_a_member_that_ends_its_stream_and_goes_is_not_reported_again() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE), read=True) as listener:
        async with raw(relay, greet=hello(Role.SEND)) as speaker:
            for message in (SENT[0], Mute(0, 1), End(0, 640, 2), Bye(Reason.NORMAL, "")):
                await speaker.say(message)
            assert await speaker.hear_a(Bye)
            assert await speaker.closed() == (1000, "")
        async with raw(relay, greet=hello(Role.SEND)) as speaker:  # the number is free again
            await speaker.say(SENT[0])
            await until(lambda: len(listener.heard(Packet)) == 2)
        first, second = listener.heard(Packet)
        assert first.stream == second.stream
        assert listener.heard(Mute) == [Mute(first.stream, 1)]
        assert listener.heard(Left) == []


async def test_a_member_that_only_muted_its_stream_leaves_nothing_behind_for_the_next_one() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE), read=True) as listener:
        async with raw(relay, greet=hello(Role.SEND)) as bad:
            await bad.say(Mute(0, 1 << 47))
            await until(lambda: listener.heard(Mute))
        await until(lambda: len(relay.rooms["lobby"].members) == 1)
        async with raw(relay, greet=hello(Role.SEND)) as innocent:
            await innocent.say(SENT[0])
            await until(lambda: listener.heard(Packet))
        (mute,), (packet,) = listener.heard(Mute), listener.heard(Packet)
        assert mute.stream == packet.stream
        assert listener.heard(Left)[0] == Left(mute.stream)


@pytest.fixture
def timeless(monkeypatch) -> None:
    """A relay that lets streams jump as far as the protocol does."""
    monkeypatch.setattr(ws_limits, "SPEED", 1e12)


@pytest.mark.usefixtures("timeless")
@pytest.mark.parametrize(
    "then", [at(1, 3 * MINUTES), Mute(0, 3 * MINUTES), End(0, 0, 3 * MINUTES)], ids=lambda m: type(m).__name__
)
async def test_nobody_is_told_of_a_jump_over_duplicates_that_were_not_forwarded(then) -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as listener,
        raw(relay, greet=hello(Role.SEND)) as bad,
        raw(relay, greet=hello(Role.SEND)) as innocent,
    ):
        for message in (at(0, 0), at(0, MINUTES), at(0, 2 * MINUTES), then, Bye(Reason.NORMAL, "")):
            await bad.say(message)
        assert await bad.hear_a(Bye)
        await until(lambda: len(relay.rooms["lobby"].members) == 2)
        (member,) = [one for one in relay.rooms["lobby"].members.values() if one.role is Role.RECEIVE]
        await innocent.say(SENT[0])
        await until(lambda: len(listener.heard(Packet)) == 2)
        assert [(packet.stream, packet.first_frame) for packet in listener.heard(Packet)] == [(1, 0), (2, 0)]
        assert [m for _, m in listener.got if isinstance(m, Mute | End | Left)] == [Left(1)]
        assert member.channel.outbox.counts.dropped == isinstance(then, Packet)


@pytest.mark.usefixtures("timeless")
async def test_mutes_and_the_end_are_forwarded_however_long_the_packets_between_them_went_on() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as listener,
        raw(relay, greet=hello(Role.SEND)) as speaker,
    ):
        said = [Mute(0, 0), at(0, MINUTES), Mute(0, 2 * MINUTES), at(1, 3 * MINUTES), End(0, 0, 4 * MINUTES)]
        for message in said:
            await speaker.say(message)
        await until(lambda: listener.heard(End))
        streamed = [message for _, message in listener.got if isinstance(message, Packet | Mute | End)]
        assert [dataclasses.replace(message, stream=0) for message in streamed] == said


async def test_who_jumps_ahead_of_the_time_goes_and_is_not_followed() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as listener,
        raw(relay, greet=hello(Role.SEND)) as bad,
    ):
        await bad.say(at(0, 0))
        await bad.say(at(1, MINUTES))
        bye = await bad.hear_a(Bye)
        assert (bye.reason, bye.text) == (Reason.OTHER, "40000 frames at once, more than 112 a second")
        await until(lambda: listener.heard(Left))
        assert [packet.first_frame for packet in listener.heard(Packet)] == [0]


async def test_who_floods_a_room_with_mutes_goes_and_the_others_stay() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as listener,
        raw(relay, greet=hello(Role.SEND)) as bad,
        raw(relay, greet=hello(Role.SEND)) as innocent,
    ):
        for frame in range(400):
            await bad.socket.send(encode(Mute(0, frame)))
        bye = await bad.hear_a(Bye)
        assert (bye.reason, bye.text) == (Reason.OTHER, "more than 8 Mutes a second")
        await until(lambda: listener.heard(Left))
        await innocent.say(SENT[0])
        await until(lambda: listener.heard(Packet))
        assert 0 < len(listener.heard(Mute)) < 100


async def test_codes_that_the_codebook_does_not_have_reach_nobody() -> None:
    offer = Offer(b"1" * 32, 24_000, 320, 8, 1000)
    codes = packet_codes(LAYOUT, SENT[0]) % 1000
    good = make_packet(Layout(8, 1000, 1), codes, sequence=0, first_frame=0)
    codes[7] = 1023
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE, offer=offer), read=True) as listener,
        raw(relay, greet=hello(Role.SEND, offer=offer)) as bad,
        raw(relay, greet=hello(Role.SEND, offer=offer)) as innocent,
    ):
        await bad.socket.send(encode(make_packet(LAYOUT, codes, sequence=0, first_frame=0)))
        bye = await bad.hear_a(Bye)
        assert (bye.reason, bye.text) == (Reason.VIOLATION, "got code 1023, need 0 to 999")
        await innocent.say(good)
        await until(lambda: listener.heard(Packet))
        assert [packet.payload for packet in listener.heard(Packet)] == [good.payload]


async def test_echo_gives_everybody_its_own_packets_too() -> None:
    async with running(echo=True) as relay, raw(relay, greet=hello(), read=True) as speaker:
        for packet in SENT:
            await speaker.say(packet)
        await until(lambda: len(speaker.heard(Packet)) == 20)


async def test_a_sender_is_told_what_has_come_of_it() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.SEND)) as speaker:
        for packet in SENT[:10] + SENT[12:]:
            await speaker.say(packet)
        stats = await speaker.hear_a(Stats)
        assert (stats.received, stats.lost, stats.burst, stats.highest) == (18, 2, 2, 19)


async def test_packets_are_cut_to_the_codebooks_a_receiver_asks_for_and_not_decoded() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.SEND)) as speaker,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as all_of_it,
        raw(relay, greet=hello(Role.RECEIVE, codebooks=5), read=True) as five,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as asks,
    ):
        await asks.say(Adapt(2, 1, 0, 1))
        await until(
            lambda: sorted(member.codebooks for member in relay.rooms["lobby"].members.values()) == [2, 5, 8, 8]
        )
        for packet in SENT:
            await speaker.say(packet)
        for listener, codebooks in ((all_of_it, 8), (five, 5), (asks, 2)):
            await until(lambda listener=listener: len(listener.heard(Packet)) == 20)
            got = [dataclasses.replace(packet, stream=0) for packet in listener.heard(Packet)]
            assert got == [thin(LAYOUT, packet, codebooks) for packet in SENT]
            assert (packet_codes(LAYOUT, got[3]) == packet_codes(LAYOUT, SENT[3])[:codebooks]).all()


async def test_a_sender_is_asked_for_no_more_codebooks_than_somebody_takes() -> None:
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.SEND)) as speaker,
        raw(relay, greet=hello(Role.RECEIVE, codebooks=3), read=True),
    ):
        assert (await speaker.hear_a(Adapt)).codebooks == 3
        async with raw(relay, greet=hello(Role.RECEIVE), read=True):
            assert (await speaker.hear_a(Adapt)).codebooks == 8


@pytest.mark.parametrize(
    ("greeting", "reason", "text"),
    [
        (
            hello(offer=Offer(b"o" * 32, 44_100, 512, 9, 1024)),
            Reason.MODEL,
            "no common model: offered 6f6f6f6f6f6f, have 6d6d",
        ),
        (hello(channels=2), Reason.FORMAT, "got 2 channels, room lobby has 1"),
    ],
)
async def test_who_does_not_fit_into_a_room_is_told_why(greeting, reason, text) -> None:
    async with running() as relay, raw(relay, greet=hello(), read=True), raw(relay) as other:
        await other.say(greeting)
        reply = await other.hear_a(Reject)
        assert reply.reason == reason
        assert text in reply.text
        assert await other.closed() == (1008, "rejected")


async def test_a_model_of_too_many_frames_a_second_is_refused() -> None:
    async with running() as relay, raw(relay) as fast:
        await fast.say(hello(offer=Offer(b"f" * 32, 768_000, 1, 1, 2)))
        reply = await fast.hear_a(Reject)
        assert reply == Reject(Reason.FORMAT, "got 768000 frames a second, need at most 1000")


async def test_of_two_models_the_one_that_can_be_followed_is_taken() -> None:
    greeting = dataclasses.replace(hello(), offers=(Offer(b"f" * 32, 768_000, 1, 1, 2), OFFER))
    async with running() as relay, raw(relay, greet=greeting):
        assert relay.rooms["lobby"].offer == OFFER


async def test_a_room_whose_last_member_went_takes_another_model() -> None:
    other = Offer(b"o" * 32, 44_100, 512, 9, 1024)
    async with running() as relay:
        async with raw(relay, greet=hello()):
            assert relay.rooms["lobby"].offer == OFFER
        await until(lambda: not relay.rooms)
        async with raw(relay, greet=hello(offer=other, channels=2)):
            assert relay.rooms["lobby"].offer == other


async def test_a_room_that_is_empty_but_for_one_at_the_door_takes_another_model_too() -> None:
    other = Offer(b"o" * 32, 44_100, 512, 9, 1024)
    async with running() as relay, raw(relay) as at_the_door:
        async with raw(relay, greet=hello()):
            assert relay.rooms["lobby"].offer == OFFER
        await until(lambda: not relay.rooms["lobby"].members)
        await at_the_door.say(hello(offer=other))
        assert (await at_the_door.hear_a(Accept)).fingerprint == other.fingerprint


async def test_redundancy_that_a_receiver_does_not_know_is_left_out() -> None:
    codes = packets(2)
    packet = dataclasses.replace(codes[1], redundancy=bytes([1, 8]) + codes[0].payload)
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.SEND)) as speaker,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as full,
        raw(relay, greet=hello(Role.RECEIVE, codebooks=4), read=True) as four,
    ):
        await speaker.say(packet)
        await until(lambda: full.heard(Packet) and four.heard(Packet))
        assert full.heard(Packet)[0].redundancy == packet.redundancy
        assert four.heard(Packet)[0].redundancy == b""
