"""What the server sees of single sites is uniform, and the test that says so finds what is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats

from sealtune.secure_sum import member as member_module
from sealtune.secure_sum.ring import FixedPoint, Vector, add_mask
from sealtune.secure_sum.secret_keys import own_mask_key
from tests.secure_sum.room import NAMES, Room, make_terms

LENGTH = 20_000
CHANCE = 1e-9  # a test that fails by chance once in a billion
CERTAIN = 1e-100


def uniformity(vector: Vector) -> float:
    """The p-value of Pearson's chi-square over the 256 values of a vector's bytes."""
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    return float(stats.chisquare(counts).pvalue)


@pytest.fixture(scope="module")
def updates() -> Mapping[str, Vector]:
    """As of a round of training: small numbers around zero."""
    generator = np.random.default_rng(1)
    fixed = FixedPoint(512 * 5e-3, 500)
    return {site: fixed.encode(generator.normal(0, 1e-3, LENGTH), 100) for site in NAMES}


def test_each_masked_vector_is_uniform(updates: Mapping[str, Vector]) -> None:
    room = Room(make_terms(), updates)
    room.run(until="vector")
    assert min(uniformity(seen) for seen in room.masked.values()) > CHANCE
    for site in NAMES:  # and tells nothing of the one below it
        assert uniformity(room.masked[site] ^ updates[site]) > CHANCE


def test_so_it_is_after_the_own_masks_are_known(updates: Mapping[str, Vector]) -> None:
    """At the end the server knows every survivor's own mask; those shared by pairs still hide."""
    room = Room(make_terms(), updates)
    room.run()
    for site, seen in room.masked.items():
        seed = room.server._secret(site, room.server._is_own_mask)
        bare = seen.copy()
        add_mask(bare, own_mask_key(room.terms, site, seed), -1)
        assert uniformity(bare) > CHANCE
        assert uniformity(bare + room.masked[NAMES[site == NAMES[0]]]) > CHANCE  # and sums of two


def test_sums_of_some_sites_are_uniform_and_of_all_are_not(updates: Mapping[str, Vector]) -> None:
    room = Room(make_terms(), updates)
    room.run(until="vector")
    some = sum((room.masked[site] for site in NAMES[:4]), np.zeros(LENGTH, np.uint64))
    assert uniformity(some) > CHANCE
    room = Room(make_terms(), updates)
    assert uniformity(room.sum()) < CERTAIN


@pytest.mark.parametrize("off", ["add_mask", "add_pair_mask", "both"])
def test_without_masks_the_same_test_finds_the_updates(
    updates: Mapping[str, Vector], monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    for name in ("add_mask", "add_pair_mask"):
        if off in (name, "both"):
            monkeypatch.setattr(member_module, name, lambda *_: None)
    room = Room(make_terms(), updates)
    room.run(until="vector")
    seen = [uniformity(vector) for vector in room.masked.values()]
    if off == "both":
        assert max(seen) < CERTAIN
    else:  # one of the two masks hides alone
        assert min(seen) > CHANCE
