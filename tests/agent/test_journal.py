"""The journal: what was accepted is there after a restart; what is damaged is skipped, never guessed."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.goalstate.histories import HISTORIES, Action, network_id, play
from tests.goalstate.test_delta import of, whole

from alcor.agent import journal as journal_module
from alcor.agent.journal import MAGIC, Journal, JournalError
from alcor.agent.state import Desired, ScopeKey, Touched
from alcor.goalstate.objects import AS_OF_NOTHING, HOST_SCOPE, ScopeUpdate
from alcor.goalstate.snapshot import host_snapshot
from alcor.wire.codec import BundleHead, decode_bundle, decode_scopes, encode_bundle, encode_part


def bundles_of(history: list[list[Action]]) -> list[bytes]:
    """A host's bundles: snapshots at first, then deltas."""
    commits = play(history)
    first = commits[0].after
    groups: list[list[ScopeUpdate]] = [
        [host_snapshot(first.revision, first.of_host("a")), *(whole(first, network_id(index)) for index in range(2))]
    ]
    for commit in commits[1:]:
        change = of(commit)
        groups.append([*(update for host, update in change.hosts.items() if host == "a"), *change.vpcs.values()])
    return [
        encode_bundle(
            BundleHead(partition=1, epoch=3, sequence=number, host="a", synced=number == 2),
            [encode_part(update) for update in group],
        )
        for number, group in enumerate(groups, start=1)
    ]


def accept(desired: Desired, bundle: bytes) -> None:
    head, scopes = decode_bundle(bundle)
    desired.take(head.partition, head.epoch, decode_scopes(scopes), synced=head.synced, touched=Touched())


def state(desired: Desired) -> dict[ScopeKey, tuple[object, ...]]:
    """Everything that matters in it."""
    return {
        key: (one.revision, one.floor, one.digest, one.complete, tuple(one.objects()), tuple(one.tombstones()))
        for key, one in desired.scopes.items()
    }


def load(path: Path) -> Desired:
    journal = Journal(path)
    desired = journal.load()
    journal.close()
    return desired


@settings(max_examples=50)
@given(HISTORIES, st.data())
def test_a_restart_finds_what_was_accepted(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Action]], data: st.DataObject
) -> None:
    """However often the file was written anew, and after it too."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    desired = journal.load()
    for bundle in bundles_of(history):
        journal.append(bundle)
        accept(desired, bundle)
        if data.draw(st.booleans()):
            journal.rewrite(desired)
    journal.close()
    again = load(path)
    assert state(again) == state(desired)
    assert again.epochs == desired.epochs == {1: 3}
    assert again.held(1) == desired.held(1)
    assert [again.owners(key) for key in again.vpcs()] == [desired.owners(key) for key in desired.vpcs()]


HISTORY: list[list[Action]] = [
    [("port", 0, 0, 0), ("port", 1, 0, 1)],
    [("port", 2, 0, 2)],
    [("port", 4, 1, 3)],
    [("delete", 0, 0, 0)],
]


def written(path: Path) -> list[int]:
    """Writes a journal of four bundles; returns where each record ends."""
    journal = Journal(path)
    journal.load()
    ends = []
    for bundle in bundles_of(HISTORY):
        journal.append(bundle)
        ends.append(path.stat().st_size)
    journal.close()
    return ends


def test_a_torn_tail_is_cut_off(tmp_path: Path) -> None:
    """Killed in the middle of an append: everything before is there, and appending goes on from there."""
    path = tmp_path / "journal"
    ends = written(path)
    whole_content = path.read_bytes()
    for size in range(ends[2], ends[3]):
        path.write_bytes(whole_content[:size])
        desired = load(path)
        assert len(desired.ports) == 3
        assert path.stat().st_size == ends[2]
    journal = Journal(path)
    desired = journal.load()
    journal.append(bundles_of(HISTORY)[3])
    journal.close()
    assert len(load(path).ports) == 2


def test_a_damaged_record_is_skipped_and_shows_in_the_digest(tmp_path: Path) -> None:
    """The records behind it count, the file is written anew, the damaged one is kept for inspection. How far what is
    held reaches nobody knows any more: not from here are changes to be told."""
    path = tmp_path / "journal"
    ends = written(path)
    good = load(path)
    content = bytearray(path.read_bytes())
    content[ends[0] + 20] ^= 0x55
    path.write_bytes(content)
    desired = load(path)
    assert len(desired.ports) == 1
    assert desired.held(1)[0].digest != good.held(1)[0].digest
    assert {AS_OF_NOTHING} == {held.revision for held in desired.held(1)}
    assert path.with_suffix(".damaged").read_bytes() == content
    assert state(load(path)) == state(desired)


def test_a_lost_frame_ends_the_reading(tmp_path: Path) -> None:
    """Behind a length that cannot be, nothing can be found; what came before counts."""
    path = tmp_path / "journal"
    ends = written(path)
    content = bytearray(path.read_bytes())
    content[ends[1] : ends[1] + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(load(path).ports) == 3


@settings(max_examples=200)
@given(st.data())
def test_any_damage_leaves_a_journal_that_works(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is in the file, loading ends, and what is accepted next survives the next restart."""
    path = tmp_path_factory.mktemp("journal") / "journal"
    written(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    journal = Journal(path)
    desired = journal.load()
    for bundle in bundles_of(HISTORY):
        journal.append(bundle)
        accept(desired, bundle)
    journal.close()
    assert state(load(path)) == state(desired)


def test_another_kind_of_file_is_not_believed(tmp_path: Path) -> None:
    """No magic, no journal: it is put aside, and the agent starts from nothing."""
    path = tmp_path / "journal"
    path.write_bytes(b"something else entirely")
    assert load(path).scopes == {}
    assert path.read_bytes()[: len(MAGIC)] == MAGIC
    assert path.with_suffix(".damaged").read_bytes() == b"something else entirely"


def test_a_growing_journal_asks_to_be_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows with what happened, a rewritten one with what there is."""
    monkeypatch.setattr(journal_module, "REWRITE_AT_BYTES", 2000)
    journal = Journal(tmp_path / "journal")
    desired = journal.load()
    bundle = bundles_of(HISTORY)[0]
    for _ in range(20):
        journal.append(bundle)
    accept(desired, bundle)
    before = journal.grown
    journal.rewrite(desired)
    assert (True, False) == (before, journal.grown)
    assert (tmp_path / "journal").stat().st_size < 2000
    journal.close()


def test_many_small_bundles_ask_for_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaying them is what a restarted agent waits for; so it also asks when it found many."""
    monkeypatch.setattr(journal_module, "REWRITE_AT_BUNDLES", 20)
    monkeypatch.setattr(journal_module, "REWRITE_SHARE", 1 << 20)
    journal = Journal(tmp_path / "journal")
    desired = journal.load()
    bundle = bundles_of(HISTORY)[0]
    accept(desired, bundle)
    journal.rewrite(desired)
    for _ in range(20):
        journal.append(bundle)
    before = journal.grown
    journal.append(bundle)
    assert (False, True) == (before, journal.grown)
    journal.close()
    again = Journal(tmp_path / "journal")
    assert state(again.load()) == state(desired)
    before = again.grown
    again.rewrite(desired)
    assert (True, False) == (before, again.grown)
    again.close()
    once_more = Journal(tmp_path / "journal")
    once_more.load()
    assert not once_more.grown
    once_more.close()


def test_a_size_is_of_what_was_rewritten_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts in between do not let it grow the more."""
    monkeypatch.setattr(journal_module, "REWRITE_AT_BYTES", 2000)
    desired = load(tmp_path / "journal")
    bundle = bundles_of(HISTORY)[0]
    accept(desired, bundle)
    for _ in range(10):
        journal = Journal(tmp_path / "journal")
        journal.load()
        if journal.grown:
            break
        for _ in range(3):
            journal.append(bundle)
        journal.close()
    else:
        pytest.fail("it never asked to be rewritten")
    journal.close()


def test_large_scopes_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One damaged byte costs one piece, not the scope."""
    monkeypatch.setattr(journal_module, "PIECE_OBJECTS", 1)
    journal = Journal(tmp_path / "journal")
    desired = journal.load()
    for bundle in bundles_of(HISTORY):
        accept(desired, bundle)
    journal.rewrite(desired)
    journal.close()
    assert state(load(tmp_path / "journal")) == state(desired)


def test_a_full_disk_refuses_and_leaves_the_journal_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that did not fit is undone, and the error says what to do."""
    path = tmp_path / "journal"
    written(path)
    journal = Journal(path)
    journal.load()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
    with pytest.raises(JournalError, match="Free space"):
        journal.append(bundles_of(HISTORY)[0])
    monkeypatch.undo()
    journal.append(bundles_of(HISTORY)[3])
    journal.close()
    assert len(load(path).ports) == 2
    assert ScopeKey(1, HOST_SCOPE) in load(path).scopes
