"""The chain of snapshots: walking it, and finding one by what a person calls it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from manifest_sync.canonical import compress
from manifest_sync.errors import Damaged, ManifestSyncError, UsageError
from manifest_sync.manifest import HISTORY_BLOCK, Pin, encode_manifest, snapshot_key
from manifest_sync.snapshots import Snapshots, list_snapshots
from manifest_sync.times import rfc3339
from tests.chains import START, Chain
from tests.conftest import Soak

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def sequence_of(chain: Chain | Snapshots, text: str, now: datetime = NOW) -> int:
    snapshots = chain.snapshots() if isinstance(chain, Chain) else chain
    return snapshots.find(text, now).sequence


def refusal(chain: Chain, text: str) -> ManifestSyncError:
    with pytest.raises(UsageError) as failed:
        chain.snapshots().find(text, NOW)
    assert failed.value.hint
    return failed.value


@pytest.fixture
def chain() -> Chain:
    """Sequences 0 to 9, an hour apart."""
    made = Chain()
    made.extend(9)
    return made


def stored(snapshots: Snapshots) -> list[tuple[int, str]]:
    """Sequence and id of what should be kept and is there."""
    return [(link.sequence, link.id) for link in snapshots.iter_links() if link.stored]


def test_the_walk_goes_down_to_the_first_snapshot(chain: Chain) -> None:
    snapshots = chain.snapshots()
    assert [m.sequence for m in snapshots.walk()] == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert stored(snapshots) == [(m.sequence, m.snapshot) for m in reversed(chain.manifests)]
    assert all(link.stored for link in snapshots.iter_links())


def test_the_walk_ends_at_the_oldest_that_is_kept(chain: Chain) -> None:
    chain.collect(oldest=6)
    assert [m.sequence for m in chain.snapshots().walk()] == [10, 9, 8, 7, 6]
    assert [link.sequence for link in chain.snapshots().iter_links()] == [10, 9, 8, 7, 6]
    # What a collection has only not deleted yet is not kept either.
    again = Chain()
    again.extend(3)
    lost = again.manifests[0]
    again.collect(oldest=2)
    again.store.put(snapshot_key(lost.sequence, lost.snapshot), b"still there")
    assert [sequence for sequence, _ in stored(again.snapshots())] == [4, 3, 2]


def test_a_pin_is_kept_below_the_oldest(chain: Chain) -> None:
    chain.pin(chain.manifests[2], "paper")
    chain.pin(chain.manifests[4], "submitted")
    before = list(chain.snapshots().iter_links())
    chain.collect(oldest=10)
    snapshots = chain.snapshots()
    pins = chain.head.manifest.pins
    assert [snapshots.load(pin.sequence, pin.snapshot).sequence for pin in pins] == [2, 4]
    assert [link.sequence for link in before] == list(range(11, -1, -1)), "each once while all are kept"
    assert [link.sequence for link in snapshots.iter_links()] == [12, 11, 10, 4, 2]
    for text, sequence in [
        ("paper", 2), ("2", 2), (chain.manifests[2].snapshot[:8], 2), ("submitted", 4), ("submitted~1", 2),
        ("2026-11-01 04:30", 4), ("2026-11-01 03:30", 2),
    ]:  # fmt: skip
        assert sequence_of(chain, text) == sequence
    refusal(chain, "Paper")
    chain.pin(chain.manifests[12], "")
    refusal(chain, "")
    refusal(chain, "3")


def test_a_pin_that_is_not_in_the_chain_is_found_too(chain: Chain) -> None:
    """After a recovery the chain may not lead to every pin."""
    stray = Chain()
    stray.extend(5)
    other = stray.publish(id_="ab" * 16)
    chain.adopt(other)
    chain.pin(other, "elsewhere")
    assert sequence_of(chain, "elsewhere") == 6
    assert chain.snapshots().find("abab", NOW).snapshot == other.snapshot
    assert [link.id for link in chain.snapshots().iter_links()].count(other.snapshot) == 1
    assert "the oldest is sequence 0" in refusal(chain, "2026-10-31").message
    refusal(chain, "0~1")
    # Its time lies nowhere in the chain's order, and a number means the chain's snapshot first.
    assert chain.snapshots().find("6", NOW).snapshot == chain.manifests[6].snapshot
    assert chain.snapshots().find("2026-11-01 06:30", NOW).snapshot == chain.manifests[6].snapshot


def test_names_of_the_head(chain: Chain) -> None:
    before = chain.store.requests.total()
    for text in ("head", "HEAD", " latest "):
        assert sequence_of(chain, text) == 9
    assert chain.store.requests.total() == before


@pytest.mark.parametrize(("text", "sequence"), [("0", 0), ("9", 9), ("07", 7), ("٣", 3), (" 5 ", 5)])
def test_sequence_numbers(chain: Chain, text: str, sequence: int) -> None:
    assert sequence_of(chain, text) == sequence


def test_steps_back(chain: Chain) -> None:
    for text, sequence in [("head~1", 8), ("head~0", 9), ("7~7", 0), ("2026-11-01 05:30~2", 3)]:
        assert sequence_of(chain, text) == sequence
    assert "8 before sequence 7" in refusal(chain, "7~8").message
    refusal(chain, "~1")
    refusal(chain, "head~")
    refusal(chain, "nothing~1")


def test_a_number_that_is_not_there_says_why(chain: Chain) -> None:
    assert "the newest is sequence 9" in refusal(chain, "10").message
    chain.collect(oldest=5)
    assert "collected; the oldest is sequence 5" in refusal(chain, "4").message
    assert "log" in refusal(chain, "4").hint
    assert "collected" not in refusal(chain, "neverland").message


def test_prefixes_of_ids() -> None:
    chain = Chain()
    chain.publish(id_="deadbeef" + "0" * 24)
    chain.publish(id_="deadbee0" + "1" * 24)
    chain.publish(id_="1234" + "5" * 28)
    assert sequence_of(chain, "deadbeef") == 1
    assert sequence_of(chain, "DEADBEE0") == 2
    assert sequence_of(chain, "deadbeef" + "0" * 24) == 1
    assert sequence_of(chain, "1234") == 3, "digits alone are a prefix where they are no sequence number"
    ambiguous = refusal(chain, "deadbee")
    assert "deadbeef0000 (sequence 1)" in ambiguous.message
    assert "deadbee01111 (sequence 2)" in ambiguous.message
    assert "names no snapshot" in refusal(chain, "dea").message
    assert "names no snapshot" in refusal(chain, "feedface").message


def test_a_sequence_number_comes_before_a_prefix() -> None:
    chain = Chain()
    chain.publish(id_="1003" + "5" * 28)
    chain.recover(gap=1001)
    assert sequence_of(chain, "1003") == 1003


def test_a_snapshot_that_lost_its_race_is_not_found(chain: Chain) -> None:
    """Its copy was stored before the swap that failed: it never was the state of the bucket."""
    stray = Chain()
    stray.extend(9)
    loser = stray.publish(id_="cafe" * 8)
    chain.extend(1)
    chain.adopt(loser)
    assert (10, loser.snapshot) in list_snapshots(chain.repository)
    refusal(chain, "cafecafe")
    assert chain.snapshots().find("10", NOW).snapshot == chain.manifests[10].snapshot
    assert loser.snapshot not in [id_ for _, id_ in stored(chain.snapshots())]


def test_two_pins_of_one_name_are_ambiguous(chain: Chain) -> None:
    chain.pin(chain.manifests[2], "twice")
    chain.pin(chain.manifests[3], "twice")
    assert "sequence 2" in refusal(chain, "twice").message


@pytest.mark.parametrize(
    ("text", "sequence"),
    [
        ("2026-11-01 00:00", 0),
        ("2026-11-01 00:59:59", 0),
        ("2026-11-01 01:00", 1),
        ("2026-11-01T05:30:00Z", 5),
        ("2026-11-01T05:30:00+02:00", 3),
        ("2026-11-01", 9),
        ("2027-01-01", 9),
        ("30 days ago", 0),
    ],
)
def test_times(chain: Chain, text: str, sequence: int) -> None:
    assert sequence_of(chain, text) == sequence


def test_a_time_before_everything_names_the_oldest(chain: Chain) -> None:
    error = refusal(chain, "2026-10-31")
    assert "the oldest is sequence 0 of 2026-11-01T00:00:00Z" in error.message
    chain.collect(oldest=7)
    assert "the oldest is sequence 7" in refusal(chain, "2026-11-01 02:00").message


def test_a_time_asks_few_snapshots() -> None:
    chain = Chain()
    chain.extend(200)
    before = chain.store.requests.copy()
    assert sequence_of(chain, "2026-11-04 12:30") == 84
    spent = chain.store.requests - before
    assert spent["LIST"] == 1
    assert spent["GET"] <= 3 * 8


@pytest.mark.parametrize("wrong", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("place", [1, 16, 31, 32, 33, 48, 60])
def test_one_wrong_clock_misleads_nobody(wrong: datetime, place: int) -> None:
    chain = Chain()
    for number in range(1, 65):
        chain.publish(time=wrong if number == place else START + timedelta(hours=number))
    for asked in (5, 20, 40, 55, 64):
        moment = START + timedelta(hours=asked, minutes=30)
        found = sequence_of(chain, moment.isoformat())
        assert found in {asked, asked - 1} if place == asked else found == asked


def test_a_clock_that_went_backwards_still_gives_a_snapshot_between_younger_and_older() -> None:
    chain = Chain()
    minutes = [0, 60, 120, 180, 90, 100, 110, 240, 300]
    for number, minute in enumerate(minutes[1:], 1):
        chain.publish(time=START + timedelta(minutes=minute))
        assert chain.head.manifest.sequence == number
    assert sequence_of(chain, "2026-11-01 00:30") == 0
    assert sequence_of(chain, "2026-11-01 04:30") == 7
    found = sequence_of(chain, "2026-11-01 01:45")
    assert minutes[found] <= 105
    assert minutes[found + 1] > 105


def test_a_manifest_without_a_time_is_passed_over(chain: Chain) -> None:
    chain.publish(revise=lambda made: replace(made, time="when it was done"))
    chain.extend(3)
    assert sequence_of(chain, "2026-11-01 11:30") == 11
    assert sequence_of(chain, "2026-11-01 08:30") == 8


class TestGaps:
    """A head that was restored takes a sequence above every snapshot that was found."""

    @pytest.fixture
    def gap(self) -> Chain:
        """0 1 2 3 · 14 15 16."""
        chain = Chain()
        chain.extend(3)
        chain.recover(gap=10)
        chain.extend(2)
        return chain

    def test_the_walk_and_the_chain_cross_it(self, gap: Chain) -> None:
        assert [m.sequence for m in gap.snapshots().walk()] == [16, 15, 14, 3, 2, 1, 0]
        assert [sequence for sequence, _ in stored(gap.snapshots())] == [16, 15, 14, 3, 2, 1, 0]

    def test_names_cross_it(self, gap: Chain) -> None:
        for text, sequence in [("3", 3), ("14", 14), ("head~3", 3), ("2026-11-01 03:30", 3)]:
            assert sequence_of(gap, text) == sequence
        assert "names no snapshot" in refusal(gap, "9").message

    def test_a_collection_on_either_side_of_it(self, gap: Chain) -> None:
        gap.collect(oldest=14)
        assert [link.sequence for link in gap.snapshots().iter_links()] == [17, 16, 15, 14]
        assert [m.sequence for m in gap.snapshots().walk()] == [17, 16, 15, 14]

    def test_a_collection_below_it(self, gap: Chain) -> None:
        gap.collect(oldest=2)
        assert [link.sequence for link in gap.snapshots().iter_links()] == [17, 16, 15, 14, 3, 2]
        assert [m.sequence for m in gap.snapshots().walk()] == [17, 16, 15, 14, 3, 2]


@pytest.fixture(scope="module")
def long() -> Chain:
    """Read by several tests and changed by none."""
    made = Chain()
    made.extend(2 * HISTORY_BLOCK + 88)
    assert made.head.manifest.history
    return made


class TestLongChains:
    """More snapshots than the head names: history blocks name the others."""

    def test_everything_is_found(self, long: Chain) -> None:
        top = 2 * HISTORY_BLOCK + 88
        assert [sequence for sequence, _ in stored(long.snapshots())] == list(range(top, -1, -1))
        for sequence in (0, 1, HISTORY_BLOCK - 1, HISTORY_BLOCK, HISTORY_BLOCK + 1, 2 * HISTORY_BLOCK, top):
            assert sequence_of(long, str(sequence)) == sequence
            manifest = long.manifests[sequence]
            assert sequence_of(long, manifest.snapshot) == sequence
            assert sequence_of(long, manifest.time) == sequence
        assert sequence_of(long, f"head~{top}") == 0
        refusal(long, f"head~{top + 1}")

    def test_blocks_are_read_only_when_they_are_due(self, long: Chain) -> None:
        before = long.store.requests.copy()
        links = long.snapshots().iter_links()
        assert len(list(itertools.islice(links, 80))) == 80
        assert long.store.requests - before == {"LIST": 1}
        before = long.store.requests.copy()
        assert sequence_of(long, "590") == 590
        assert long.store.requests - before == {"LIST": 1, "GET": 1}

    def test_a_lost_history_block_is_bridged(self) -> None:
        chain = Chain()
        chain.extend(2 * HISTORY_BLOCK + 88)
        blocks = sorted(item.key for item in chain.store.list("history/"))
        assert len(blocks) == 2
        whole = stored(chain.snapshots())
        for lost in blocks:
            chain.store.delete(lost)
            assert stored(chain.snapshots()) == whole
        chain.store.put(blocks[0], b"{}")
        assert stored(chain.snapshots()) == whole
        assert sequence_of(chain, "3") == 3

    def test_a_lost_block_without_its_stand_in_is_damage(self) -> None:
        chain = Chain()
        chain.extend(HISTORY_BLOCK + 44)
        chain.store.delete(next(item.key for item in chain.store.list("history/")))
        chain.lose(chain.manifests[HISTORY_BLOCK])
        assert len(list(itertools.islice(chain.snapshots().iter_links(), 44))) == 44
        with pytest.raises(Damaged, match="history/0-"):
            chain.snapshots().find("3", NOW)
        assert sequence_of(chain, str(HISTORY_BLOCK + 20)) == HISTORY_BLOCK + 20


class TestDamage:
    def test_a_missing_snapshot_is_named_and_the_others_are_found(self, chain: Chain) -> None:
        lost = chain.manifests[5]
        chain.lose(lost)
        links = {link.sequence: link for link in chain.snapshots().iter_links()}
        assert [link.sequence for link in links.values() if not link.stored] == [5]
        assert links[5].id == lost.snapshot
        # When it was published is not known, so it may be what 04:30 means as well.
        for text in ("5", lost.snapshot[:8], "head~4", "2026-11-01 05:30", "2026-11-01 04:30"):
            with pytest.raises(Damaged, match=f"{lost.snapshot[:12]} .sequence 5. is missing") as it:
                chain.snapshots().find(text, NOW)
            assert "verify" in it.value.hint
        for text, sequence in [("4", 4), ("head~5", 4), ("2026-11-01 03:30", 3), ("2026-11-01 06:30", 6)]:
            assert sequence_of(chain, text) == sequence

    def test_a_damaged_snapshot_is_told_as_such(self, chain: Chain) -> None:
        chain.damage(chain.manifests[5])
        with pytest.raises(Damaged, match="damaged"):
            chain.snapshots().find("5", NOW)
        assert sequence_of(chain, "2026-11-01 03:30") == 3
        assert sequence_of(chain, "2026-11-01 07:30") == 7

    def test_the_walk_stops_there(self, chain: Chain) -> None:
        chain.lose(chain.manifests[5])
        walk = chain.snapshots().walk()
        assert [m.sequence for m in itertools.islice(walk, 4)] == [9, 8, 7, 6]
        with pytest.raises(Damaged):
            next(walk)

    def test_a_missing_one_just_above_a_gap_of_sequences(self) -> None:
        chain = Chain()
        chain.extend(3)
        chain.recover(gap=10)
        chain.extend(2)
        chain.lose(chain.manifests[4])
        found = [(link.sequence, link.stored) for link in chain.snapshots().iter_links()]
        assert found == [(16, True), (15, True), (14, False), (3, True), (2, True), (1, True), (0, True)]

    def test_objects_with_odd_names_and_sequences_are_ignored(self, chain: Chain) -> None:
        lost = chain.manifests[5]
        chain.lose(lost)
        chain.store.put(f"snapshots/0000000099-{lost.snapshot}.json.zst", b"a sequence above its child's")
        chain.store.put("snapshots/5-ff.json.zst", b"")
        chain.store.put("snapshots/notes.txt", b"")
        assert [link.sequence for link in chain.snapshots().iter_links() if not link.stored] == [5]

    def test_ancestors_that_go_round_in_a_circle_end(self) -> None:
        """A hostile bucket: the stand-in for a lost block leads back to where it came from."""
        chain = Chain()
        chain.extend(HISTORY_BLOCK + 44)
        chain.store.delete(next(item.key for item in chain.store.list("history/")))
        stand_in = chain.manifests[HISTORY_BLOCK]
        around = replace(
            chain.head.manifest,
            snapshot=stand_in.snapshot,
            sequence=stand_in.sequence,
            ancestors=(chain.head.manifest.snapshot,),
            parent=chain.head.manifest.snapshot,
        )
        chain.store.put(snapshot_key(stand_in.sequence, stand_in.snapshot), compress(encode_manifest(around)))
        with pytest.raises(Damaged):
            list(chain.snapshots().iter_links())


@pytest.mark.soak
def test_any_chain_any_time(soak: Soak) -> None:
    """Against the plain answer: the newest snapshot that is not younger, by looking at all of them."""
    dice = soak.dice("times")
    for _ in range(soak.count(20, 300)):
        chain = Chain()
        moment = START
        for _ in range(dice.randint(0, 40)):
            moment += timedelta(minutes=dice.choice([0, 1, 1, 60, 3000]))
            chain.recover(dice.choice([0, 0, 0, 7]), time=moment)
        if dice.random() < 0.3:
            chain.pin(dice.choice(chain.manifests), "pin")
            chain.collect(dice.choice(chain.manifests).sequence)
        kept = [link.id for link in chain.snapshots().iter_links()]
        for _ in range(10):
            latest = (moment - START) // timedelta(minutes=1)
            asked = START + timedelta(minutes=dice.randint(-10, latest + 10))
            older = [m for m in chain.manifests if m.snapshot in kept and m.time <= rfc3339(asked)]
            if older:
                assert chain.snapshots().find(asked.isoformat(), NOW).snapshot == older[-1].snapshot
            else:
                refusal(chain, asked.isoformat())


def test_a_pinned_snapshot_that_is_lost_is_named(chain: Chain) -> None:
    chain.pin(chain.manifests[3], "a")
    assert chain.head.manifest.pins == (Pin(3, chain.manifests[3].snapshot, "a"),)
    chain.lose(chain.manifests[3])
    with pytest.raises(Damaged, match="sequence 3"):
        chain.snapshots().load(3, chain.manifests[3].snapshot)
