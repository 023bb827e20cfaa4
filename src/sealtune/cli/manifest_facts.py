"""What people read of a manifest before they sign it, in the order in which they should ask.

Every text from the manifest goes through ``printable``: it must not steer a terminal.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sealtune.attest import AppraisalPolicy
from sealtune.cli.evidence_facts import NO_TEE, evidence, weak_evidence
from sealtune.cli.training_view import count, rates, rounds, tuned
from sealtune.errors import ManifestError
from sealtune.job.compute_rules import GPU, is_gpu_stand_in
from sealtune.job.key_files import spaced
from sealtune.job.keys import fingerprint, public_from_hex
from sealtune.job.manifest import Manifest
from sealtune.job.method import Compute, method_of
from sealtune.job.network import NetworkIdentity, key_fingerprint, node_fingerprint
from sealtune.job.pad_operators import NO_COLLUSION, key_digest
from sealtune.job.printable import printable
from sealtune.party.trust import accepted_evidence
from sealtune.report.manifest_page import Group, Line, Part, Shown, Tone
from sealtune.report.parties import UNMASKED, Facts

RELEASE = {
    "participants": "every participant gets the joint adapter",
    "quorum": "a quorum of participants must sign for its release",
    "never": "nobody gets the adapter; the server enclave answers questions",
}
_ROUNDS = 8  # whose epsilon is shown
_UNITS = {
    "site": "site: whether it took part at all; noise in the server enclave",
    "example": "training row: whether it is among a site's; noise in that site's enclave",
}
_RUNS: Mapping[str, tuple[str, Tone]] = {
    "enclave": ("in the enclave", "good"),
    "masked": ("masked on the accelerator", ""),
    "plain": ("PLAIN on the accelerator", "bad"),
    "owner": ("at the data owner", ""),
}


def facts_of(
    manifest: Manifest,
    policies: Mapping[str, AppraisalPolicy],
    job_id: str,
    signed: Sequence[str],
    fault: str = "",
) -> Shown:
    """All of it.

    Args:
        manifest: to show.
        policies: its ``appraisal``, understood.
        job_id: its digest.
        signed: organisations whose signature was verified.
        fault: what is wrong with signatures.
    """
    parts = [
        Part(f"Job '{manifest.settings.job.name}'", (Group("", tuple(_terms(manifest, job_id))),)),
        Part(
            "Who takes part",
            tuple(_participants(manifest, signed)),
            note="compare the keys with their owners: sealtune keys show FILE",
        ),
    ]
    if manifest.network is not None:
        parts.append(Part("Where they meet", _network(manifest.network)))
    if manifest.pad_accelerators:
        parts.append(Part("Who multiplies", tuple(_pads(manifest)), note=NO_COLLUSION))
    parts += [
        Part("Evidence that is accepted", tuple(evidence(policies))),
        Part("What is trained", (Group("", tuple(_training(manifest))),)),
        Part(
            "What runs where",
            (Group("", tuple(_plan(manifest))),),
            note="sealtune plan JOB.toml prints each module; job verify --local FILE compares",
        ),
    ]
    return Shown(
        name=manifest.settings.job.name,
        job_id=job_id,
        method=manifest.method,
        weak=(*([printable(fault, 500)] if fault else []), *_weak(manifest, policies)),
        unsigned=tuple(one.org for one in manifest.participants if one.org not in signed),
        parts=tuple(parts),
        facts=_picture(manifest, policies),
    )


def _weak(manifest: Manifest, policies: Mapping[str, AppraisalPolicy]) -> list[str]:
    """What is weaker than it could be; shown in red, before anything else."""
    settings, weak = manifest.settings, weak_evidence(policies)
    try:
        accepted_evidence(manifest)
    except ManifestError as error:  # such a manifest is signed by nobody's `job sign`
        weak.insert(0, f"{error.message[:1].upper()}{printable(error.message[1:], 500)}.")
    if not method_of(manifest.method).attested:
        weak.append(NO_TEE[:1].upper() + NO_TEE[1:])
    if settings.accelerated and settings.protection.protect == UNMASKED:
        weak.append("Codes cross to accelerators without masks: they see what text follows from.")
    if is_gpu_stand_in(settings):
        weak.append("The GPUs that enclaves compute on prove nothing: the evidence is simulated.")
    if any(one.operators == "simulated" for one in manifest.pad_accelerators.values()):
        weak.append("Accelerator and pad accelerator are SIMULATED: one operator sees everything.")
    if settings.privacy.insecure_difference_releases:
        weak.append(f"{_DIFFERENCE[:1].upper()}{_DIFFERENCE[1:]}.")
    if len(manifest.participants) == 1:
        weak.append("One organisation answers for all sites: every aggregate is its own.")
    return weak


_COMPUTES: Mapping[Compute, str] = {
    "masked": "on accelerators that nobody trusts, under masks",
    "enclave": "on the enclave's own processor",
    GPU: "on the enclave's own GPU, in confidential mode and attested with it",
}
_DIFFERENCE = "this result less an earlier one may show an organisation's part, by consent"


def _terms(manifest: Manifest, job_id: str) -> list[Line]:
    settings, method = manifest.settings, method_of(manifest.method)
    least = f"{count(settings.quorum, 'site')}, of {count(manifest.min_cohort, 'organisation')}"
    attested = Line("attested", f"anew every {count(manifest.epoch, 'round')}")
    if method.server_trains:
        cohort = f"training starts with the samples of at least {least} or more"
        # in between nothing is sent
        attested = Line("attested", "before samples are sent, and anew at the end")
    elif not method.attested:
        cohort = f"every sum holds the updates of at least {least} or more"
        words = "NOBODY: no TEE anywhere; sites sign, the server proves nothing"
        attested = Line("attested", words, "bad")
    else:
        cohort = f"every aggregate holds the updates of at least {least} or more"
    return [
        Line("job id", job_id),
        Line("start", f"from {manifest.not_before} to {manifest.expires}"),
        Line("release", RELEASE[manifest.release]),
        Line("cohort", cohort),
        *_privacy(manifest),
        *_shown(manifest),
        attested,
    ]


def _shown(manifest: Manifest) -> list[Line]:
    """Whose figures leave the server enclave, and whether results may be subtracted."""
    privacy = manifest.settings.privacy
    whose = "of each site" if privacy.site_metrics else "of all sites together"
    figures = f"losses and answers {whose}" if manifest.dp is None else "none: they have no noise"
    rows = [Line("metrics", figures)]
    if privacy.insecure_difference_releases:
        rows.append(Line("INSECURE", _DIFFERENCE, "bad"))
    return rows


def _privacy(manifest: Manifest) -> list[Line]:
    """Whose presence is hidden, by how much noise, and what the rounds cost."""
    dp, privacy = manifest.dp, manifest.settings.privacy
    if dp is None:
        return [Line("privacy", "no differential privacy", "note")]
    paid = manifest.rounds
    rows = [
        Line("privacy", f"differential privacy of each {_UNITS[privacy.unit or '']}"),
        Line("epsilon", f"{dp.spent(paid):g} after {count(paid, 'round')}, of a budget of "
             f"{privacy.epsilon:g}; delta {privacy.delta:g}"),
        Line("noise", f"{dp.noise_multiplier:g} times what one {privacy.unit} adds at most, whose "
             f"norm is clipped to {privacy.clip:g}; {dp.accountant.upper()} of "
             f"{printable(dp.computed_by)}"),
    ]  # fmt: skip
    for table in dp.tables:
        each = table.epsilon[:paid]
        shown = [f"{cost:g}" for cost in each]
        if len(each) > _ROUNDS:
            shown = [*shown[: _ROUNDS - 1], "…", shown[-1]]
        rows.append(Line(", ".join(table.sites), f"epsilon by round: {', '.join(shown)}"))
    if paid < manifest.settings.job.rounds:
        words = f"training ends after round {paid} of {manifest.settings.job.rounds}"
        rows.append(Line("", f"{words}: the next one would exceed the budget", "note"))
    return rows


def _participants(manifest: Manifest, signed: Sequence[str]) -> list[Group]:
    groups = []
    for one in manifest.participants:
        lines = [Line("key", spaced(fingerprint(public_from_hex(one.key))), key=True)]
        for site in one.sites:
            data = manifest.data[site]
            lines += [
                Line("site", site),
                Line("training", f"{data.train_rows:,} rows, SHA-256 {data.train}"),
                Line("test", f"{data.test_rows:,} rows, SHA-256 {data.test}"),
            ]
        done = one.org in signed
        state = "signed" if done else "NOT SIGNED YET"
        groups.append(Group(one.org, tuple(lines), "good" if done else "note", state))
    return groups


def _network(network: NetworkIdentity) -> tuple[Group, Group]:
    relay, link = (spaced(key_fingerprint(one.public_key())) for one in network.parsed())
    nodes = {site: node_fingerprint(key) for site, key in network.nodes.items()}
    places = (
        Line("sites", f"send to {network.sites_at}"),
        Line("server", f"sends to {network.server_at}"),
    )
    keys = (
        Line("coordinator", relay, key=True),
        Line("server", link, key=True),
        *(Line(site, spaced(digest), key=True) for site, digest in nodes.items()),
    )
    return Group("", places), Group("Network keys, which protect no data", keys)


def _pads(manifest: Manifest) -> list[Group]:
    return [
        Group(
            site,
            (
                Line("masked", f"on the accelerator of {one.accelerator}"),
                Line("masks", f"on the pad accelerator of {one.operator}"),
                Line("key", spaced(key_digest(one.key)), key=True),
            ),
            "bad" if one.operators == "simulated" else "",
            "SIMULATED" if one.operators == "simulated" else "",
        )
        for site, one in manifest.pad_accelerators.items()
    ]


def _training(manifest: Manifest) -> list[Line]:
    settings, model = manifest.settings, manifest.model
    tuning, train = settings.tuning, settings.train
    steps = train.steps_per_round
    rows = [
        ("model", f"{printable(model.name)} ({printable(manifest.plan.architecture)})"),
        ("digest", f"SHA-256 {model.digest}"),
        ("tokenizer", f"SHA-256 {model.tokenizer_digest}"),
        *(("code", f"SHA-384 {digest}, {name}") for name, digest in manifest.code.items()),
        ("method", f"{manifest.method}: {printable(tuned(tuning))}"),
        (
            "training",
            f"{count(settings.job.rounds, 'round')} of "
            f"{count(steps, 'step') if isinstance(steps, int) else 'one pass over the data'}, "
            f"{count(train.batch_size, 'example')} a step",
        ),
        *rates(settings),
        *rounds(settings),
        ("task", settings.model.task),
        ("text", printable(settings.data.template)),
    ]
    if manifest.labels:
        shown = ", ".join(printable(label, 40) for label in manifest.labels[:8])
        more = ", …" if len(manifest.labels) > 8 else ""
        rows.append(("classes", f"{len(manifest.labels)}: {shown}{more}"))
    return [Line(*row) for row in rows]


def _plan(manifest: Manifest) -> list[Line]:
    plan = manifest.plan
    counts = Counter(module.placement for module in plan.modules)
    rows = [
        *_computes(manifest),
        Line("protection", printable(plan.protect), "bad" if plan.protect == UNMASKED else ""),
        Line("plan", f"SHA-256 {manifest.plan_digest}"),
    ]
    for placement, (words, tone) in _RUNS.items():
        number = counts[placement]  # type: ignore[index]
        if number:
            rows.append(Line(f"{number:,}", f"modules {words}", tone))
    where = "in the enclave" if method_of(manifest.method).attested else "at each data owner"
    rows.append(Line("trained", f"{count(len(plan.trainable), 'tensor')}, {where}"))
    if plan.personal:
        parts = ", ".join(manifest.settings.aggregation.personal)
        words = f"{count(len(plan.personal), 'tensor')} of them, in no update: {parts}"
        rows.append(Line("stay home", words))
    if plan.cut is not None:
        rows += _split(manifest, plan.cut)
    return rows


def _computes(manifest: Manifest) -> list[Line]:
    """Where the frozen layers of what is tuned are computed."""
    settings = manifest.settings
    if settings.compute is None:
        return []
    if is_gpu_stand_in(settings):
        return [Line("compute", "on a GPU that PROVES NOTHING: simulated evidence", "bad")]
    return [Line("compute", _COMPUTES[settings.compute])]


def _split(manifest: Manifest, cut: int) -> list[Line]:
    """Where the model is cut, and what crosses."""
    plan, split = manifest.plan, manifest.settings.split
    words = f"after block {cut} of {plan.blocks}: what comes first runs at the sites, without a TEE"
    rows = [Line("cut", words)]
    if split is not None:
        sent = (
            f"cut activations as {split.activations}, once for each sample, to the server enclave"
        )
        rows.append(Line("sent", sent))
    if manifest.settings.model.task == "causal-lm":
        words = "token ids go with them: the server enclave sees the text itself"
        rows.append(Line("", words, "note"))
    return rows


def _picture(manifest: Manifest, policies: Mapping[str, AppraisalPolicy]) -> Facts:
    plan = manifest.plan
    return Facts(
        protect=manifest.settings.protection.protect,
        sites=manifest.settings.sites.names,
        simulated=not all(policy.confidential for policy in policies.values()),
        prefix_blocks=plan.prefix_blocks,
        cut=plan.cut,
        blocks=plan.blocks,
        release=manifest.release,
        task=manifest.settings.model.task,
        compute=manifest.settings.compute,
        pads=bool(manifest.pad_accelerators),
    )
