"""models through the command line: all of them, one of them."""

from __future__ import annotations

from nextvec.models import registry


def test_every_architecture_is_listed_with_its_presets(cli) -> None:
    done = cli("models")
    assert done.code == 0
    rows = cli("models", "--json", "-").json
    assert {row["name"] for row in rows} == set(registry.names())
    assert {(row["name"], row["preset"]) for row in rows} == {
        (name, preset) for name in registry.names() for preset in registry.presets(name)
    }
    assert len(done.out.splitlines()) == len(rows) + 2
    for row in rows:
        assert f"{row['parameters']:,}" in done.out
        assert row["complexity"]


def test_one_architecture_is_described(cli) -> None:
    done = cli("models", "retnet")
    assert done.code == 0
    table, _, details = done.out.partition("\n\n")
    assert {line.split()[0] for line in table.splitlines()[2:]} == {"retnet"}
    words = " ".join(details.split())
    row = next(r for r in cli("models", "retnet", "--json", "-").json)
    for part in (row["summary"], row["paper"], row["parity"]):
        assert " ".join(part.split()) in words
    assert {r["name"] for r in cli("models", "retnet", "--json", "-").json} == {"retnet"}


def test_the_state_of_a_session_is_measured_when_asked(cli) -> None:
    for name, grows in (("lstm", False), ("transformer", True)):
        done = cli("models", name, "--state")
        assert "state bytes" in done.out
        measured = [
            row["state_bytes"]
            for row in cli("models", name, "--state", "--json", "-").json
            if row["preset"] == "small"
        ]
        assert [(m["1"] < m["1024"]) for m in measured] == [grows]
        assert f"{measured[0]['1']:,} > {measured[0]['1024']:,}" in done.out
