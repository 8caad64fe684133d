"""Rooms of a real server on a real socket: who hears what, and how it is forwarded."""

from __future__ import annotations

import dataclasses

import pytest

from streamdac.protocols.messages import Accept, Adapt, Bye, End, Left, Mute, Offer, Packet, Reason, Reject, Role, Stats
from streamdac.protocols.packets import packet_codes, thin

from .parts import LAYOUT, OFFER, hello, packets, raw, running, until

SENT = packets(20)


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
