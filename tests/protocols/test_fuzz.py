"""The fuzzer finds nothing in its first 10,000 inputs, reaches both outcomes of every target, and would find a bug."""

from streamdac.protocols import wire

from . import fuzz


def test_ten_thousand_inputs_give_no_stray_exception() -> None:
    outcomes, stray = fuzz.run(10_000, 0)
    assert stray == []
    assert sum(outcomes.values()) == 10_000
    for target in {target.__name__ for target in fuzz.TARGETS} - {"random_messages", "receivers"}:
        assert outcomes[f"{target} accepted"] > 10
        assert outcomes[f"{target} refused"] > 10


def test_a_bug_would_be_found_and_can_be_repeated_by_its_seed(monkeypatch) -> None:
    def broken(data: bytes) -> list[object]:
        if len(data) > 30:
            raise IndexError(len(data))
        return real(data)

    real = wire._array
    monkeypatch.setattr(wire, "_array", broken)
    _, stray = fuzz.run(100, 0)
    assert stray
    assert all("IndexError" in text for text in stray)
    seed = int(stray[0].split(",")[0].removeprefix("seed "))
    assert len(fuzz.run(1, seed)[1]) == 1


def test_the_command_counts_what_it_met(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "--count", "50", "--seed", "7"])
    assert fuzz.main() == 0
    assert "50 inputs from seed 7: 0 stray exceptions" in capsys.readouterr().out
    monkeypatch.setattr(fuzz, "TARGETS", [lambda rand: [].pop()])
    assert fuzz.main() == 1
