"""A server that wants one site's vector; each attack is carried out, and the sites give nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sealtune.errors import SecureAggregationError
from sealtune.secure_sum import member as member_module
from sealtune.secure_sum import shares
from sealtune.secure_sum.member import Member
from sealtune.secure_sum.ring import Vector, add_mask
from sealtune.secure_sum.roster import Roster, SumKeys, sign_keys
from sealtune.secure_sum.secret_keys import add_pair_mask, masking_key, own_mask_key
from tests.secure_sum.room import NAMES, SUBJECT, Room, keys_of, make_terms, random_vectors

VICTIM = "west"
OTHERS = [site for site in NAMES if site != VICTIM]
HONEST = ("north", "river", "south")  # with "east" siding with the server


@pytest.fixture
def room() -> Room:
    return Room(make_terms(), random_vectors(NAMES, 40))


def at(room: Room, stage: str) -> Room:
    room.run(until=stage)
    return room


def told_two_stories(room: Room) -> dict[str, dict[str, bytes]]:
    """Half of the sites hear that the victim survived, half that it was lost; "east" signs both.

    Returns:
        what each site gives out.
    """
    stories = {
        site: sorted(NAMES) if site in ("north", VICTIM) else sorted(OTHERS)
        for site in (*HONEST, VICTIM)
    }
    signed = {site: room.members[site].confirm(story) for site, story in stories.items()}
    given = {}
    for site, story in stories.items():
        statement = room.server.roster.survivors_statement
        lie = keys_of(NAMES)["east"].sign(statement("east", SUBJECT, room.server.sealed, story))
        same = {other: signed[other] for other in signed if stories[other] == story}
        given[site] = room.members[site].unmask({**same, "east": lie})
    return given


def test_two_lists_of_survivors_get_too_few_signatures(room: Room) -> None:
    with pytest.raises(SecureAggregationError, match="sites signed the survivors; it takes 4"):
        told_two_stories(at(room, "vector"))


def test_with_a_threshold_of_two_the_server_would_read_one_site(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack itself works: it is the threshold that stops it."""
    monkeypatch.setattr("sealtune.secure_sum.roster.threshold", lambda _holders: 2)
    monkeypatch.setattr(type(room.terms), "signatures", 2)
    given = told_two_stories(at(room, "vector"))
    roster = room.server.roster
    survived = {site: given[site][VICTIM] for site in ("north", VICTIM)}
    lost = {site: given[site][VICTIM] for site in ("river", "south")}
    seed = shares.join(roster, VICTIM, survived, lambda _secret: True)
    key = masking_key(room.terms, VICTIM, shares.join(roster, VICTIM, lost, lambda _secret: True))
    seen = room.masked[VICTIM].copy()
    add_mask(seen, own_mask_key(room.terms, VICTIM, seed), -1)
    for other in OTHERS:
        add_pair_mask(seen, roster, VICTIM, key, other, -1)
    assert np.array_equal(seen, room.vectors[VICTIM])


def test_a_second_list_is_not_signed(room: Room) -> None:
    at(room, "signature")
    with pytest.raises(SecureAggregationError, match="a second time"):
        room.members["north"].confirm(sorted(OTHERS))


def test_both_secrets_are_not_given_one_after_the_other(room: Room) -> None:
    at(room, "given")
    with pytest.raises(SecureAggregationError, match="a second time"):
        room.members["north"].unmask(room.server.signatures)


def test_shares_are_not_given_before_the_survivors_are_signed(room: Room) -> None:
    at(room, "vector")
    with pytest.raises(SecureAggregationError, match="out of order"):
        room.members["north"].unmask({})


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_signatures(room: Room, count: int) -> None:
    at(room, "signature")
    some = dict(sorted(room.server.signatures.items())[:count])
    with pytest.raises(SecureAggregationError, match=f"{count} sites signed"):
        room.members["north"].unmask(some)


def test_a_signature_over_another_list_or_of_another_key(room: Room) -> None:
    at(room, "signature")
    forged = Ed25519PrivateKey.generate().sign(b"all of them")
    with pytest.raises(SecureAggregationError, match="not signed by its organisation's key"):
        room.members["north"].unmask({**room.server.signatures, "south": forged})


def test_a_signer_that_did_not_survive(room: Room) -> None:
    room.lost = {"vector": {VICTIM}}
    at(room, "signature")
    with pytest.raises(SecureAggregationError, match="did not survive signed"):
        room.members["north"].unmask({**room.server.signatures, VICTIM: bytes(64)})


def own_keys(terms_key: Ed25519PrivateKey, room: Room, site: str) -> SumKeys:
    """Keys of the server's own, in a site's name, signed with a key that it has."""
    public = [X25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(2)]
    return sign_keys(room.terms, site, terms_key, (public[0], public[1], bytes(32)))


def test_the_servers_own_keys_in_a_neighbours_place(room: Room) -> None:
    at(room, "keys")
    mine = own_keys(Ed25519PrivateKey.generate(), room, "south").encode()
    with pytest.raises(SecureAggregationError, match="keys of south are not signed"):
        room.members["north"].share({**room.server.roster.encoded, "south": mine})


def test_another_sites_keys_in_a_neighbours_place(room: Room) -> None:
    """The organisation of "east" sides with the server, and signs for itself only."""
    at(room, "keys")
    theirs = room.server.roster.encoded["east"]
    with pytest.raises(SecureAggregationError, match="keys of south are not signed"):
        room.members["north"].share({**room.server.roster.encoded, "south": theirs})


def test_other_keys_in_a_sites_own_place(room: Room) -> None:
    at(room, "keys")
    encoded = room.server.roster.encoded
    with pytest.raises(SecureAggregationError, match="other keys of this site"):
        room.members["north"].share({**encoded, "north": encoded["south"]})


def test_keys_of_another_sum(room: Room) -> None:
    at(room, "keys")
    old = Member(make_terms(number=0), "south", keys_of(NAMES)["south"]).advertise()
    with pytest.raises(SecureAggregationError, match="keys of south are not signed"):
        room.members["north"].share({**room.server.roster.encoded, "south": old})


def test_keys_of_an_earlier_attempt_at_the_same_sum(room: Room) -> None:
    """They are signed, but the site that they are of has others: it signs no such roster."""
    old = Member(room.terms, "south", keys_of(NAMES)["south"]).advertise()
    at(room, "keys")
    stale = {**room.server.roster.encoded, "south": old}
    sealed = {site: room.members[site].share(stale) for site in ("east", "north", "river", VICTIM)}
    with pytest.raises(SecureAggregationError, match="other keys of this site"):
        room.members["south"].share(stale)
    assert "south" in sealed["north"]  # and whoever took the old ones gets no signature of south
    sharers = sorted(sealed)
    for site in sharers:
        others = {other: sealed[other][site] for other in sharers if other != site}
        room.members[site].receive(sharers, others, SUBJECT)
        room.members[site].mask(room.vectors[site])
        with pytest.raises(SecureAggregationError, match="others than before"):
            room.members[site].confirm([*sharers, "south"])


@pytest.mark.parametrize(
    ("sites", "organisations"),
    [
        (("north", VICTIM), {}),
        (("north", "river", VICTIM), {}),
        (NAMES, {"north": "org-a", "river": "org-a", "south": "org-b", "east": "org-b"}),
    ],
)
def test_a_roster_that_is_too_small(
    sites: tuple[str, ...], organisations: Mapping[str, str]
) -> None:
    names = {site: f"org-{site}" for site in NAMES} | dict(organisations)
    everybody = set(names.values())
    terms = (
        make_terms(organisations=names)
        if len(everybody) > 3
        else make_terms(organisations=names, least_organisations=4)
    )
    room = at(Room(terms, random_vectors(NAMES, 4)), "keys")
    some = {site: keys for site, keys in room.server.roster.encoded.items() if site in sites}
    with pytest.raises(SecureAggregationError, match="says too much of each"):
        room.members[VICTIM].share(some)


def test_less_than_three_organisations_are_refused_whatever_the_terms_say() -> None:
    names = {site: "org-a" if site == VICTIM else "org-b" for site in NAMES}
    terms = make_terms(organisations=names, least=1)
    room = at(Room(terms, random_vectors(NAMES, 4)), "keys")
    with pytest.raises(SecureAggregationError, match="of 2 organisations says too much"):
        room.members[VICTIM].share(room.server.roster.encoded)


def test_survivors_that_are_too_few(room: Room) -> None:
    at(room, "vector")
    with pytest.raises(SecureAggregationError, match="says too much of each"):
        room.members[VICTIM].confirm(["north", VICTIM])


def test_survivors_that_never_shared(room: Room) -> None:
    room.lost = {"shares": {"south"}}
    at(room, "vector")
    with pytest.raises(SecureAggregationError, match="others than before"):
        room.members[VICTIM].confirm(list(NAMES))


def test_a_site_does_not_sign_its_own_loss(room: Room) -> None:
    at(room, "vector")
    with pytest.raises(SecureAggregationError, match="not this one"):
        room.members[VICTIM].confirm(OTHERS)


def shown(room: Room, subject: bytes) -> None:
    """All stages, but one site is given ``subject`` to work on."""
    at(room, "shares")
    for site, member in room.members.items():
        own = subject if site == VICTIM else SUBJECT
        member.receive(list(NAMES), room.server.sealed_for(site), own)
        member.mask(room.vectors[site])
    signed = {site: member.confirm(list(NAMES)) for site, member in room.members.items()}
    room.members[VICTIM].unmask(signed)


def test_another_adapter_for_one_site(room: Room) -> None:
    """Pasquini et al., CCS 2022: all others are given one on which their updates are nothing."""
    with pytest.raises(SecureAggregationError, match="as east was shown them are not signed"):
        shown(room, b"other".ljust(32))


def test_the_same_adapter_for_all(room: Room) -> None:
    shown(room, SUBJECT)


def test_another_list_of_sharers_for_one_site(room: Room) -> None:
    at(room, "shares")
    for site in NAMES:
        sealed = room.server.sealed_for(site)
        sharers = [other for other in NAMES if not (site == VICTIM and other == "east")]
        if site == VICTIM:
            del sealed["east"]
        room.members[site].receive(sharers, sealed, SUBJECT)
        room.members[site].mask(room.vectors[site])
    signed = {site: room.members[site].confirm([*OTHERS[1:], VICTIM]) for site in NAMES[1:]}
    with pytest.raises(SecureAggregationError, match="as north was shown them are not signed"):
        room.members[VICTIM].unmask(signed)


def test_shares_that_are_held_back_moved_or_altered(room: Room) -> None:
    at(room, "shares")
    sharers, right = list(NAMES), room.server.sealed_for("north")
    missing = {sender: one for sender, one in right.items() if sender != "south"}
    moved = {**right, "south": room.server.sealed["south"]["west"]}
    flipped = {**right, "south": right["south"][:-1] + bytes([right["south"][-1] ^ 1])}
    for sealed, words in ((missing, "other sites than the"), (moved, "open"), (flipped, "open")):
        fresh = at(Room(room.terms, room.vectors), "shares")
        own = fresh.server.sealed_for("north")
        changed = {sender: own[sender] if sealed[sender] == right[sender] else sealed[sender]
                   for sender in sealed}  # fmt: skip
        with pytest.raises(SecureAggregationError, match=words):
            fresh.members["north"].receive(sharers, changed, SUBJECT)


def test_keys_of_small_order(room: Room) -> None:
    """A site that sides with the server signs a key with which every secret is zero."""
    at(room, "keys")
    bad = sign_keys(room.terms, "east", keys_of(NAMES)["east"], (bytes(32),) * 3)
    with pytest.raises(SecureAggregationError, match="none that a site makes"):
        room.members["north"].share({**room.server.roster.encoded, "east": bad.encode()})


def test_an_unknown_site_on_the_roster(room: Room) -> None:
    at(room, "keys")
    roster = {**room.server.roster.encoded, "moon": bytes(160)}
    with pytest.raises(SecureAggregationError, match="no site 'moon'"):
        room.members["north"].share(roster)


def test_what_was_refused_ends_the_sum_for_the_site(room: Room) -> None:
    at(room, "keys")
    with pytest.raises(SecureAggregationError):
        room.members["north"].share({})
    with pytest.raises(SecureAggregationError, match="out of order"):
        room.members["north"].share(room.server.roster.encoded)


def no_mask(*_: object) -> None:
    """In the place of a mask."""


def test_the_mask_is_what_hides(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "add_mask", no_mask)
    monkeypatch.setattr(member_module, "add_pair_mask", no_mask)
    at(room, "vector")
    seen: Vector = room.masked[VICTIM]
    assert np.array_equal(seen, room.vectors[VICTIM])


def test_a_signature_over_survivors_is_one_over_the_roster(room: Room) -> None:
    """Two sites with other rosters, of which each holds stale keys of somebody, confirm nothing."""
    at(room, "vector")
    roster = room.server.roster
    other = Member(room.terms, "south", keys_of(NAMES)["south"]).advertise()
    stale = Roster.read(room.terms, {**roster.encoded, "south": other})
    said, wanted = (
        one.survivors_statement("north", SUBJECT, NAMES, NAMES) for one in (stale, roster)
    )
    assert said != wanted
    signatures = {site: room.members[site].confirm(list(NAMES)) for site in NAMES[1:]}
    lie = {**signatures, "north": keys_of(NAMES)["north"].sign(said)}
    room.members["east"].confirm(list(NAMES))
    with pytest.raises(SecureAggregationError, match="as north was shown them are not signed"):
        room.members["east"].unmask(lie)
