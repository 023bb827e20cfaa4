"""Both ends of a run's channels, with throw-away keys in the place of a TEE's and organisations'.

Handshake, evidence's binding and policies are the product's own; a run on hardware is attacked with
simulated evidence, since the attacks are on what evidence is bound to and not on who signs it.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealtune.attest.evidence import Attester, Claims, Evidence, Kind, Verifier
from sealtune.attest.measure import program_digest
from sealtune.attest.platforms import participant, simulated, unattested
from sealtune.attest.policy import AppraisalPolicy
from sealtune.audit.subject import Subject
from sealtune.channel.client import ClientHandshake
from sealtune.channel.handshake import Established
from sealtune.channel.server import ServerHandshake
from sealtune.job.method import Attested
from sealtune.party.trust import SERVER, Trust

_BOUND: dict[Kind, Callable[[bytes], bytes]] = {
    Kind.SIMULATED: lambda data: bytes(simulated.BODY.unpack_from(data)[4]),
    Kind.PARTICIPANT: lambda data: bytes(participant.BODY.unpack_from(data)[1]),
}


class Unbound:
    """A verifier that checks who signed, and not for which conversation.

    Args:
        inner: the product's.
    """

    def __init__(self, inner: Verifier) -> None:
        self._inner = inner

    def verify(
        self, evidence: Evidence, *, report_data: bytes, policy: AppraisalPolicy, at: datetime
    ) -> Claims:
        """See ``Verifier``."""
        read = _BOUND.get(evidence.kind)
        stated = report_data if read is None else read(evidence.data)
        return self._inner.verify(evidence, report_data=stated, policy=policy, at=at)


@dataclass(frozen=True)
class Ends:
    """The server and a site of a run.

    Attributes:
        job_id: 48 bytes.
        site: its name.
        of_site, of_server: what each shows and accepts.
        shown: roles that show evidence, or sign; the others prove nothing.
    """

    job_id: bytes
    site: str
    of_site: Trust
    of_server: Trust
    shown: tuple[Attested, ...]

    @classmethod
    def of(cls, subject: Subject) -> Ends:
        """As the run's method has them."""
        shows: dict[Attested, Attester] = {}
        accepts: dict[Attested, tuple[Verifier, AppraisalPolicy]] = {}
        for role in ("server", "site"):
            shows[role], accepts[role] = _of_role(subject, role)
        return cls(
            bytes.fromhex(subject.job_id),
            subject.job.sites.names[0],
            Trust(shows["site"], *accepts[SERVER]),
            Trust(shows[SERVER], *accepts["site"]),
            ("site",) if subject.job.job.rules.sums_only else ("server", "site"),
        )

    def unbound(self) -> Ends:
        """The same without a check of what evidence was made for."""
        return replace(
            self,
            of_site=replace(self.of_site, verifier=Unbound(self.of_site.verifier)),
            of_server=replace(self.of_server, verifier=Unbound(self.of_server.verifier)),
        )

    def server(self) -> ServerHandshake:
        """The server's end of a fresh handshake."""
        one = self.of_server
        return ServerHandshake(self.job_id, self.site, one.attester, one.verifier, one.policy)

    def client(self) -> ClientHandshake:
        """The site's end."""
        one = self.of_site
        return ClientHandshake(self.job_id, self.site, one.attester, one.verifier, one.policy)

    def shake_hands(self) -> tuple[Established, Established]:
        """The server's and the site's channel."""
        server, client = self.server(), self.client()
        reply = server.on_hello(client.on_challenge(server.challenge()))
        last, at_site = client.on_server_hello(reply)
        return server.on_client_key(last), at_site


def _of_role(subject: Subject, role: Attested) -> tuple[Attester, tuple[Verifier, AppraisalPolicy]]:
    """What it shows, and what its peer accepts."""
    rules, key = subject.job.job.rules, Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    if role in rules.attested:
        code = program_digest(subject.manifest.programs[role])
        policy = simulated.simulated_policy(code)
        attester = simulated.SimulatedAttester(key, measurement=code)
        return attester, (simulated.SimulatedVerifier((public,)), policy)
    if role == SERVER:
        accepts = unattested.UnattestedVerifier(), unattested.unattested_policy()
        return unattested.UnattestedAttester(), accepts
    policy = participant.participant_policy(public.hex())
    return participant.ParticipantAttester(key), (participant.ParticipantVerifier(), policy)
