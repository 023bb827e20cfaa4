"""Sketches against exact cosines; who is far out, and who is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealtune.methods.federated.agreement import Agreement, Standing, agreements
from sealtune.methods.federated.sketch import WIDTH, Sketcher, cosines

Array = np.ndarray[Any, Any]
Update = dict[str, Array]
SHAPES = {"a": (8, 3001), "b": (700, 64), "c": (21,)}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
SITES = ("east", "north", "south", "west", "wild")
WHOLE = dict.fromkeys((*SITES, *(f"s{i}" for i in range(64))), SIZE)


def as_update(numbers: Array) -> Update:
    ends = np.cumsum([math.prod(shape) for shape in SHAPES.values()])[:-1]
    parts = np.split(numbers.astype(np.float32), ends)
    return {n: part.reshape(s) for (n, s), part in zip(SHAPES.items(), parts, strict=True)}


def exact_cosine(one: Array, two: Array) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def vectors(kind: str, source: np.random.Generator) -> tuple[Array, Array]:
    """Two updates, of which the hard ones are those whose rows look alike."""
    one, two = source.normal(size=(2, SIZE))
    if kind == "alike":
        two = one + 0.5 * two
    elif kind == "constant":  # adds the same to every number, as a crude attack does
        one, two = np.full(SIZE, 1.0), np.full(SIZE, 1.0) + two
    elif kind == "few":  # all in the same thousand numbers
        one[1000:], two[1000:] = 0, 0
    elif kind == "periodic":  # the same numbers in every row
        one, two = (np.resize(v[:WIDTH], SIZE) for v in (one, two))
    return one, two


@pytest.mark.parametrize("kind", ["random", "alike", "constant", "few", "periodic"])
def test_the_error_of_a_sketch_is_as_stated(kind: str) -> None:
    errors = []
    for seed in range(60):
        source = np.random.default_rng(seed)
        one, two = vectors(kind, source)
        sketcher = Sketcher(source.bytes(32), SHAPES)
        found = cosines(np.stack([sketcher.sketch(as_update(v)) for v in (one, two)]))
        assert found[0, 0] == pytest.approx(1.0)
        errors.append(found[0, 1] - exact_cosine(one, two))
    deviation = math.sqrt(np.mean(np.square(errors)))
    assert deviation < 1.5 / math.sqrt(WIDTH), deviation
    assert abs(np.mean(errors)) < 4 * deviation / math.sqrt(len(errors))


def test_without_the_key_nobody_hides_from_a_sketch() -> None:
    """An update made to vanish under one key is there under another."""
    source = np.random.default_rng(0)
    known, secret = (Sketcher(source.bytes(32), SHAPES) for _ in range(2))
    hidden = source.normal(size=SIZE)
    for _ in range(40):  # take away what the sketch sees, by what is known of its transpose
        seen = known.sketch(as_update(hidden)).astype(np.float64)
        hidden -= transposed(known, seen) / (SIZE / WIDTH)
    length = np.linalg.norm(hidden)
    assert np.linalg.norm(known.sketch(as_update(hidden))) < 0.2 * length
    assert np.linalg.norm(secret.sketch(as_update(hidden))) == pytest.approx(length, rel=0.1)


def transposed(sketcher: Sketcher, seen: Array) -> Array:
    """The update that meets every other one as ``seen`` meets its sketch."""
    rows, row = [], 0
    for shape in SHAPES.values():
        for start in range(0, math.prod(shape), WIDTH):
            size = min(WIDTH, math.prod(shape) - start)
            turned = np.roll(seen, -sketcher._shifts[row])[:size] * sketcher._signs[:size]
            rows.append(-turned if sketcher._negative[row] else turned)
            row += 1
    return np.concatenate(rows)


def test_an_update_of_a_lower_rank_is_one_with_zeros() -> None:
    sketcher = Sketcher(bytes(32), SHAPES)
    whole = as_update(np.random.default_rng(1).normal(size=SIZE))
    whole["a"][3:] = 0
    whole["b"][:, 10:] = 0
    part = {**whole, "a": whole["a"][:3], "b": whole["b"][:, :10]}
    assert np.array_equal(sketcher.sketch(whole), sketcher.sketch(part))


@given(st.integers(3, 9), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_agreement_is_what_half_of_the_others_reach(count: int, seed: int) -> None:
    sketches = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    named = {f"s{i}": sketch for i, sketch in enumerate(sketches)}
    for i in range(count):
        cosine = sorted(
            (exact_cosine(sketches[i], sketches[j]) for j in range(count) if j != i), reverse=True
        )
        half = math.ceil((count - 1) / 2)
        assert agreements(named, dict.fromkeys(named, SIZE))[f"s{i}"] == pytest.approx(
            cosine[half - 1], abs=1e-5
        )


def played(
    rounds: int, wild: float, *, noise: float = 2.0, sites: tuple[str, ...] = SITES
) -> tuple[list[dict[str, bool]], list[dict[str, int]]]:
    """Flags and counted rows of each round; the wild site's update is ``wild`` times the usual."""
    source, standings = np.random.default_rng(7), dict[str, Standing]()
    sizes = {site: WHOLE[site] for site in sites}
    flags, rows = [], []
    for _ in range(rounds):
        agreement = Agreement(Sketcher(bytes(32), SHAPES), standings, sizes)
        rows.append({site: agreement.rows(site, 100) for site in sites})
        common = source.normal(size=SIZE)
        for site in sites:
            own = common + noise * source.normal(size=SIZE)
            agreement.note(site, as_update(own * (wild if site == "wild" else 1)))
        standings, found = agreement.close()
        flags.append({site: fields["outlier"] for site, fields in found.items()})
    return flags, rows


def test_a_site_that_pulls_the_other_way_counts_little_from_the_next_round_on() -> None:
    flags, rows = played(3, -1.0)
    assert all(found == {site: site == "wild" for site in SITES} for found in flags)
    assert [counted["wild"] for counted in rows] == [100, 6, 6]
    assert all(counted[site] == 100 for counted in rows for site in SITES if site != "wild")


@pytest.mark.parametrize("noise", [0.5, 2.0, 4.0, 1e3])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_honest_sites_are_not_far_out_however_little_they_agree(noise: float, count: int) -> None:
    flags, rows = played(4, 1.0, noise=noise, sites=SITES[-count:])
    assert not any(far for found in flags for far in found.values())
    assert all(counted == 100 for round_ in rows for counted in round_.values())


def test_of_three_sites_the_two_that_are_alike_do_not_decide_over_the_third() -> None:
    """An honest site with rows of other kinds is named, and keeps its weight."""
    flags, rows = played(3, -1.0, sites=SITES[-3:])
    assert all(found["wild"] for found in flags)
    assert all(counted["wild"] == 100 for counted in rows)


def test_two_colluding_sites_of_five_make_nobody_else_an_outlier() -> None:
    source = np.random.default_rng(3)
    common, theirs = source.normal(size=(2, SIZE))
    agreement = Agreement(Sketcher(bytes(32), SHAPES), {}, WHOLE)
    for site in SITES:
        own = common + 2 * source.normal(size=SIZE)
        agreement.note(site, as_update(theirs - common if site in SITES[3:] else own))
    _, found = agreement.close()
    assert {s: f["outlier"] for s, f in found.items()} == {s: s in SITES[3:] for s in SITES}


def test_a_site_that_comes_back_counts_again() -> None:
    far = dict.fromkeys(SITES, (0.2, 0.2)) | {"wild": (-0.2, 0.2)}
    source, counted = np.random.default_rng(5), []
    for _ in range(4):
        agreement = Agreement(Sketcher(bytes(32), SHAPES), far, WHOLE)
        counted.append(agreement.rows("wild", 100))
        common = source.normal(size=SIZE)
        for site in SITES:
            agreement.note(site, as_update(common + 2 * source.normal(size=SIZE)))
        far, _ = agreement.close()
    assert counted[0] == 6
    assert counted[-1] == 100


def test_a_site_of_a_low_rank_is_no_outlier() -> None:
    """An eighth of the numbers, in which it pulls as the others do; the other way, it is one."""
    source = np.random.default_rng(5)
    common, low = source.normal(size=SIZE), {"a": (1, 3001), "b": (700, 8), "c": (21,)}
    sizes = {**WHOLE, "south": sum(math.prod(shape) for shape in low.values())}
    for sign in (1, -1):
        agreement = Agreement(Sketcher(bytes(32), SHAPES), {}, sizes)
        for site in SITES:
            update = as_update(common + source.normal(size=SIZE))
            if site == "south":
                update = {n: sign * t[tuple(slice(k) for k in low[n])] for n, t in update.items()}
            agreement.note(site, update)
        fields = agreement.close()[1]
        named = {site for site in SITES if fields[site]["outlier"]}
        assert named == (set() if sign == 1 else {"south"})


def test_honest_sites_of_low_ranks_that_hardly_agree_are_seldom_far_out() -> None:
    """Of sixteen directions; in few numbers the error of a sketch weighs more."""
    source, far = np.random.default_rng(9), 0
    shapes = {"a": (16, 500), "b": (400, 16)}
    low = {"four": 4, "eight": 8, "sixteen": 16}
    sizes = {site: 900 * rank for site, rank in low.items()}
    updates = {
        site: {
            "a": source.normal(size=(rank, 500)).astype(np.float32),
            "b": source.normal(size=(400, rank)).astype(np.float32),
        }
        for site, rank in low.items()
    }
    for key in range(400):
        agreement = Agreement(Sketcher(key.to_bytes(32, "big"), shapes), {}, sizes)
        for site, update in updates.items():
            agreement.note(site, update)
        far += sum(fields["outlier"] for fields in agreement.close()[1].values())
    assert far <= 1
