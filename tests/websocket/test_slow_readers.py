"""Who does not read loses its oldest packets, counted, and nobody else notices."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

import streamdac
from streamdac.frontends import ws_channel
from streamdac.frontends.ws_outbox import MAX_CONTROLS, MAX_MUTES, Outbox, TooSlow
from streamdac.protocols.messages import Adapt, Bye, Left, Mute, Packet, Pong, Reason, Role

from .parts import HOP, hello, packets, raw, running, small_codec, speech, until, url


async def test_a_reader_that_stops_loses_old_packets_and_its_neighbour_none(monkeypatch) -> None:
    monkeypatch.setattr(ws_channel, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(ws_channel, "HOLD_SECONDS", 0.3)
    sent = packets(300)
    async with (
        running(adapt=False) as relay,
        raw(relay, greet=hello(Role.SEND), read=True) as speaker,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as neighbour,
        raw(relay, greet=hello(Role.RECEIVE)) as stopped,
    ):
        for packet in sent:
            await speaker.say(packet)
            await asyncio.sleep(HOP)
        await until(lambda: len(neighbour.heard(Packet)) == 300)
        assert [packet.first_frame for packet in neighbour.heard(Packet)] == list(range(300))
        (member,) = [one for one in relay.rooms["lobby"].members.values() if one.channel.outbox.counts.dropped]
        outbox = member.channel.outbox
        assert len(outbox) * HOP <= 0.8
        assert relay.stats().dropped == outbox.counts.dropped
        written = outbox.counts.packets
        assert written * HOP < 2.5  # of 4 s: the kernel could have taken it all
        assert written + outbox.counts.dropped + len(outbox) == 300
        # It comes back: what waits is sent, and the next packets are new ones.
        reading = asyncio.create_task(stopped.keep_hearing())
        await until(lambda: not outbox)
        await speaker.say(dataclasses.replace(sent[0], sequence=300, first_frame=300))
        await until(lambda: stopped.heard(Packet) and stopped.heard(Packet)[-1].first_frame == 300)
        reading.cancel()


@pytest.mark.parametrize("coarse", [1, 4])
async def test_a_slow_link_gets_fewer_codebooks_and_the_others_all(monkeypatch, coarse) -> None:
    monkeypatch.setattr(ws_channel, "PROBE_SECONDS", 0.2)
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.SEND), read=True) as speaker,
        raw(relay, greet=hello(Role.RECEIVE), read=True) as neighbour,
        raw(relay, greet=dataclasses.replace(hello(Role.RECEIVE), redundancy_codebooks=coarse)) as slow,
    ):
        members = list(relay.rooms["lobby"].members.values())
        (member,) = [one for one in members if one.channel.socket.remote_address == slow.socket.local_address]
        (other,) = [one for one in members if one.channel.socket.remote_address == neighbour.socket.local_address]
        reading = asyncio.create_task(slow.keep_hearing())
        await until(lambda: member.channel.best_round_trip is not None)
        reading.cancel()  # from now on it reads nothing
        for packet in packets(200):
            await speaker.say(packet)
            await asyncio.sleep(HOP)
            if member.codebooks < 8:
                break
        assert member.codebooks < 8
        assert other.codebooks == 8
        await until(lambda: member.codebooks < 5)
        assert member.codebooks == max(3, coarse)  # 8, 5, 3, but for those that later frames depend on
        reading = asyncio.create_task(slow.keep_hearing())
        await until(lambda: member.codebooks > 5)
        reading.cancel()


def mute(frame: int) -> Mute:
    return Mute(0, frame)


def test_an_outbox_gives_what_is_young_enough_in_order() -> None:
    outbox, sent = Outbox(max_age=0.5), packets(10)
    for i, packet in enumerate(sent):
        outbox.put(packet, i * 0.1)
    outbox.put(mute(10), 0.95)
    assert outbox.age(0.95) == pytest.approx(0.95)
    assert [outbox.take(0.95) for _ in range(6)] == [*sent[5:], mute(10)]
    assert outbox.take(0.95) is None
    assert outbox.counts.dropped == 5
    assert outbox.counts.packets == 5
    assert outbox.age(9.0) == 0.0


def test_messages_that_may_not_be_lost_stay_whatever_their_age() -> None:
    outbox, sent = Outbox(max_age=0.5), packets(3)
    for message in (sent[0], mute(1), sent[1], Adapt(1, 1, 0, 1), sent[2]):
        outbox.put(message, 0.0)
    assert [outbox.take(10.0) for _ in range(3)] == [mute(1), Adapt(1, 1, 0, 1), None]
    assert outbox.counts.dropped == 3


def test_a_peer_that_takes_nothing_at_all_is_given_up() -> None:
    outbox = Outbox()
    for _ in range(MAX_CONTROLS):
        outbox.put(Left(0), 0.0)
    with pytest.raises(TooSlow, match="256 messages wait"):
        outbox.put(Left(0), 0.0)
    outbox.take(0.0)
    outbox.put(Left(0), 0.0)


def test_a_mute_too_many_of_a_stream_is_left_out_until_one_is_taken() -> None:
    outbox = Outbox()
    for frame in range(MAX_MUTES + 3):
        outbox.put(mute(frame), 0.0)
    assert outbox.take(0.0) == mute(0)
    outbox.put(mute(100), 0.0)
    assert [outbox.take(0.0) for _ in range(MAX_MUTES + 1)] == [mute(1), mute(2), mute(3), mute(100), None]


def test_mutes_of_all_the_streams_there_can_be_are_not_too_much() -> None:
    outbox = Outbox()
    for frame in range(100):
        for stream in range(128):
            outbox.put(Mute(stream, frame), 0.0)
    assert len(outbox) == 128 * MAX_MUTES


async def test_a_receiver_that_takes_nothing_is_told_that_it_may_come_again() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE)) as listener:
        (channel,) = relay._channels
        for _ in range(MAX_CONTROLS + 1):
            channel.post(Left(0))
        assert await listener.hear_a(Bye) == Bye(Reason.TIMEOUT, "256 messages wait, at most 256 may")
        assert (await listener.closed())[0] == 1008


async def test_a_peer_whose_server_takes_nothing_begins_a_new_session() -> None:
    async with running() as relay, streamdac.connect(url(relay), model=small_codec(), role="receive") as peer:
        for _ in range(MAX_CONTROLS + 1):
            peer.peer.channel.post(Adapt(1, 1, 0, 1))
        await until(lambda: peer.stats().sessions == 2)


async def test_what_waits_when_a_session_is_lost_is_counted(monkeypatch) -> None:
    options = {"model": small_codec(), "role": "send", "adapt": False, "frames_per_packet": 2}
    async with running(adapt=False) as relay, streamdac.connect(url(relay), **options) as speaker:
        monkeypatch.setattr(ws_channel.Channel, "_held", lambda channel, now: True)
        await speaker.send(speech(0.2))
        speaker.peer.channel.socket.transport.abort()
        await until(lambda: speaker.peer.channel is None)
        stats = speaker.stats()
        assert (stats.frames_sent, stats.frames_lost, stats.packets_dropped) == (15, 0, 8)
        monkeypatch.undo()
        await until(lambda: speaker.stats().connected)


async def test_a_session_that_is_given_up_takes_no_more() -> None:
    async with running() as relay, streamdac.connect(url(relay), model=small_codec(), role="send") as speaker:
        channel = speaker.peer.channel
        assert channel.open
        for _ in range(MAX_CONTROLS + 1):
            channel.post(Adapt(1, 1, 0, 1))
        assert not channel.open
        speaker.peer.push(np.zeros((4, 1, 3), np.int64))
        assert speaker.stats().frames_lost == 3


async def test_answers_that_nobody_takes_do_not_pile_up() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE)) as listener:
        (channel,) = relay._channels
        for token in range(1000):
            channel._urgent.extend([channel.session.send(Pong(token))])
        assert len(channel._urgent) == ws_channel.MAX_URGENT
        assert (await listener.hear_a(Pong)).token == 1000 - ws_channel.MAX_URGENT
