"""The server gets exactly the sum, whoever is lost at whatever stage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.errors import SecureAggregationError
from sealtune.secure_sum.terms import threshold
from tests.secure_sum.room import NAMES, STAGES, Room, make_terms, plain_sum, random_vectors


def test_the_result_is_the_plain_sum_in_the_ring() -> None:
    vectors = random_vectors(NAMES, 1000)
    assert np.array_equal(Room(make_terms(), vectors).sum(), plain_sum(vectors, NAMES))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("site", NAMES)
def test_one_of_five_is_lost_at_each_stage(stage: str, site: str) -> None:
    vectors = random_vectors(NAMES, 50)
    room = Room(make_terms(), vectors, {stage: {site}})
    before_it_gave_its_vector = stage in STAGES[:3]
    left = [name for name in NAMES if name != site or not before_it_gave_its_vector]
    assert np.array_equal(room.sum(), plain_sum(vectors, left))
    assert room.server.survivors == set(left)


@pytest.mark.parametrize("stage", STAGES)
def test_two_of_five_lost_is_too_many(stage: str) -> None:
    room = Room(make_terms(), random_vectors(NAMES, 50), {stage: {"north", "west"}})
    with pytest.raises(SecureAggregationError, match=r"needed are 4 sites|it takes 4"):
        room.sum()
    assert not room.given or stage == "given"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_loss_that_leaves_enough_gives_the_sum_of_the_rest(data: st.DataObject) -> None:
    count = data.draw(st.integers(3, 9))
    sites = [f"site-{number}" for number in range(count)]
    spare = count - threshold(count)
    gone = data.draw(st.lists(st.sampled_from(sites), unique=True, max_size=spare))
    stages = {site: data.draw(st.sampled_from(STAGES)) for site in gone}
    lost = {stage: [site for site in gone if stages[site] == stage] for stage in STAGES}
    vectors = random_vectors(sites, data.draw(st.integers(1, 20)), data.draw(st.integers(0, 9)))
    left = [site for site in sites if stages.get(site) not in STAGES[:3]]
    assert np.array_equal(Room(make_terms(sites), vectors, lost).sum(), plain_sum(vectors, left))


def test_on_a_sparse_graph_each_site_has_few_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealtune.secure_sum.roster.degree", lambda _sites: 6)
    sites = [f"site-{number:02}" for number in range(14)]
    vectors = random_vectors(sites, 20)
    room = Room(make_terms(sites), vectors, {"vector": {sites[3]}, "given": {sites[9]}})
    left = [site for site in sites if site != sites[3]]
    assert np.array_equal(room.sum(), plain_sum(vectors, left))
    assert {len(near) for near in room.server.roster.neighbours.values()} == {6}


def test_a_wrong_share_is_left_out_where_there_are_enough_others() -> None:
    vectors = random_vectors(NAMES, 10)
    room = Room(make_terms(), vectors)
    room.run()
    room.server.take_given("east", {site: bytes(16) for site in NAMES})
    assert np.array_equal(room.server.result(), plain_sum(vectors, NAMES))


@pytest.mark.parametrize("liar", [0, 17])
def test_one_of_many_whose_shares_are_all_wrong_stops_nothing(liar: int) -> None:
    """Wherever it stands: there are many sets of enough shares without it."""
    sites = [f"site-{number:02}" for number in range(18)]
    vectors = random_vectors(sites, 10)
    room = Room(make_terms(sites), vectors, {"vector": {sites[5]}})
    room.run()
    room.server.take_given(sites[liar], dict.fromkeys(sites, bytes(16)))
    left = [site for site in sites if site != sites[5]]
    assert np.array_equal(room.server.result(), plain_sum(vectors, left))


def test_wrong_shares_are_noticed_and_give_no_wrong_sum() -> None:
    room = Room(make_terms(), random_vectors(NAMES, 10), {"given": {"west"}})
    room.run()
    room.server.take_given("east", {site: bytes(16) for site in NAMES})
    with pytest.raises(SecureAggregationError, match="wrong shares of a secret of east"):
        room.server.result()
