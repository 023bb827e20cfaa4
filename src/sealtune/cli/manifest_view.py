"""A job manifest for people: everything that they sign, in the order in which they should ask.

Every text from the manifest goes through ``printable``: it must not steer the terminal.

Trust domain: a participant's own machine; manifests come from outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sealtune.attest import AppraisalPolicy, Kind
from sealtune.cli.training_view import count, rounds, tuned
from sealtune.job.key_files import spaced
from sealtune.job.keys import fingerprint, public_from_hex
from sealtune.job.manifest import Manifest
from sealtune.job.method import method_of
from sealtune.job.network import NetworkIdentity, key_fingerprint, node_fingerprint
from sealtune.job.printable import printable
from sealtune.report.methods import view_of
from sealtune.report.parties import Facts

RELEASE = {
    "participants": "every participant gets the joint adapter",
    "quorum": "a quorum of participants must sign for its release",
    "never": "nobody gets the adapter; the server enclave answers questions",
}
_ROLES = {"server": "server enclave", "site": "sites’ enclaves"}
_RED = "bold red"
_ROUNDS = 8  # whose epsilon is shown
_UNITS = {
    "site": "site: whether it took part at all; noise in the server enclave",
    "example": "training row: whether it is among a site's; noise in that site's enclave",
}
_NO_TEE = (
    "none: SECURE AGGREGATION, WEAKER THAN ENCLAVES. The server is trusted not to side with a "
    "third of the sites or more, and nothing checks or bounds single updates"
)
_RUNS = {"enclave": ("in the enclave", "green"), "masked": ("masked on the accelerator", "yellow"),
         "plain": ("PLAIN on the accelerator", "red"),
         "owner": ("at the data owner", "cyan")}  # fmt: skip


def show_manifest(
    manifest: Manifest,
    policies: Mapping[str, AppraisalPolicy],
    job_id: str,
    signed: Sequence[str],
    console: Console,
) -> None:
    """Print ``manifest``.

    Args:
        policies: its ``appraisal``, understood.
        job_id: its digest.
        signed: organisations whose signature was verified.
    """
    settings = manifest.settings
    attested: str | Text
    least = f"{count(settings.quorum, 'site')}, of {count(manifest.min_cohort, 'organisation')}"
    if method_of(manifest.method).server_trains:
        cohort = f"training starts with the samples of at least {least} or more"
        attested = "before samples are sent, and anew at the end"  # in between nothing is sent
    elif not method_of(manifest.method).attested:
        cohort = f"every sum holds the updates of at least {least} or more"
        attested = Text("NOBODY: no TEE anywhere; sites sign, the server proves nothing", _RED)
    else:
        cohort = f"every aggregate holds the updates of at least {least} or more"
        attested = f"anew every {count(manifest.epoch, 'round')}"
    _heading(console, f"Job '{settings.job.name}'")
    _rows(
        console,
        ("job id", job_id),
        ("start", f"from {manifest.not_before} to {manifest.expires}"),
        ("release", RELEASE[manifest.release]),
        ("cohort", cohort),
        *_privacy(manifest),
        *_shown(manifest),
        ("attested", attested),
    )
    _heading(console, "Who takes part")
    _participants(manifest, signed, console)
    if manifest.network is not None:
        _heading(console, "Where they meet")
        _network(manifest.network, console)
    _heading(console, "Evidence that is accepted")
    if not policies:
        console.print(Text(_NO_TEE, _RED), soft_wrap=True)
    for role, policy in policies.items():
        console.print(Text(f"of the {_ROLES[role]}", "bold"))
        _evidence(policy, console)
    _heading(console, "What is trained")
    _training(manifest, console)
    _heading(console, "What runs where")
    _plan(manifest, console)
    _heading(console, "What each party will see")
    _parties(manifest, policies.values(), console)


def _shown(manifest: Manifest) -> list[tuple[str, str | Text]]:
    """Whose figures leave the server enclave, and whether results may be subtracted."""
    privacy = manifest.settings.privacy
    whose = "of each site" if privacy.site_metrics else "of all sites together"
    figures = f"losses and answers {whose}" if manifest.dp is None else "none: they have no noise"
    rows: list[tuple[str, str | Text]] = [("metrics", figures)]
    if privacy.insecure_difference_releases:
        words = "this result less an earlier one may show an organisation's part, by consent"
        rows.append(("INSECURE", Text(words, "red")))
    return rows


def _privacy(manifest: Manifest) -> list[tuple[str, str | Text]]:
    """Whose presence is hidden, by how much noise, and what the rounds cost."""
    dp, privacy = manifest.dp, manifest.settings.privacy
    if dp is None:
        return [("privacy", Text("no differential privacy", "yellow"))]
    paid = manifest.rounds
    rows: list[tuple[str, str | Text]] = [
        ("privacy", f"differential privacy of each {_UNITS[privacy.unit or '']}"),
        ("epsilon", f"{dp.spent(paid):g} after {count(paid, 'round')}, of a budget of "
         f"{privacy.epsilon:g}; delta {privacy.delta:g}"),
        ("noise", f"{dp.noise_multiplier:g} times what one {privacy.unit} adds at most, whose norm "
         f"is clipped to {privacy.clip:g}; {dp.accountant.upper()} of {printable(dp.computed_by)}"),
    ]  # fmt: skip
    for table in dp.tables:
        each = table.epsilon[:paid]
        shown = [f"{cost:g}" for cost in each]
        if len(each) > _ROUNDS:
            shown = [*shown[: _ROUNDS - 1], "…", shown[-1]]
        rows.append((", ".join(table.sites), f"epsilon by round: {', '.join(shown)}"))
    if paid < manifest.settings.job.rounds:
        words = f"training ends after round {paid} of {manifest.settings.job.rounds}"
        rows.append(("", Text(f"{words}: the next one would exceed the budget", "yellow")))
    return rows


def _participants(manifest: Manifest, signed: Sequence[str], console: Console) -> None:
    for participant in manifest.participants:
        state = (
            Text("signed", "green")
            if participant.org in signed
            else Text("NOT SIGNED YET", "yellow")
        )
        console.print(Text.assemble((participant.org, "bold"), "  ", state), soft_wrap=True)
        key = fingerprint(public_from_hex(participant.key))
        _rows(console, ("key", spaced(key)))
        for site in participant.sites:
            data = manifest.data[site]
            _rows(
                console,
                ("site", site),
                ("training", f"{data.train_rows:,} rows, SHA-256 {data.train}"),
                ("test", f"{data.test_rows:,} rows, SHA-256 {data.test}"),
            )
    console.print(Text("compare the keys with their owners: sealtune keys show FILE", "dim"))


def _network(network: NetworkIdentity, console: Console) -> None:
    relay, link = (spaced(key_fingerprint(one.public_key())) for one in network.parsed())
    nodes = {site: node_fingerprint(key) for site, key in network.nodes.items()}
    _rows(
        console,
        ("sites", f"send to {network.sites_at}"),
        ("server", f"sends to {network.server_at}"),
        ("coordinator", f"is known by the TLS key {relay}"),
        ("server", f"is known by the TLS key {link}"),
        *((site, f"has the node key {spaced(key)}") for site, key in nodes.items()),
    )


def _evidence(policy: AppraisalPolicy, console: Console) -> None:
    for kind, accepted in policy.kinds.items():
        if kind is Kind.SIMULATED:
            words = "simulated  NOT CONFIDENTIAL: whoever runs a machine can read all that is on it"
            console.print(Text(words, _RED), soft_wrap=True)
        elif accepted.insecure_test_root is not None:
            root = accepted.insecure_test_root
            words = f"{kind}  NOT CONFIDENTIAL: under an INSECURE TEST ROOT, {root}"
            console.print(Text(words, _RED), soft_wrap=True)
        else:
            console.print(Text(str(kind), "bold green"))
        rows: list[tuple[str, str | Text]] = [
            ("code", _listed(accepted.measurements, "ANY CODE AT ALL")),
            ("signers", _listed(accepted.signers, "any")),
            ("min SVN", str(accepted.min_svn)),
            ("firmware", ", ".join(map(printable, accepted.tcb_statuses)) or "none"),
        ]
        if accepted.advisories:
            rows.append(("advisories", _listed(accepted.advisories, "ANY that come with it")))
        for product, parts in accepted.snp.min_tcb.items() if accepted.snp else ():
            rows.append(("min TCB", f"{product} {', '.join(f'{k} {v}' for k, v in parts.items())}"))
        if accepted.min_firmware:
            least = ", ".join(f"{k} {v}" for k, v in accepted.min_firmware.items())
            rows.append(("min firmware", least))
        if accepted.platforms != "any":
            rows.append(("machines", _listed(accepted.platforms, "")))
        if accepted.allow:
            rows.append(("allowed", Text(", ".join(accepted.allow), "yellow")))
        _rows(console, *rows)
    if not policy.kinds:
        console.print(Text("none: no enclave can take part", _RED))
    if policy.gpu_required:
        console.print(
            "an attested GPU is required beside each enclave; its evidence can be relayed"
        )
        console.print("from another machine until GPUs and enclaves are bound by TDISP")


def _training(manifest: Manifest, console: Console) -> None:
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
        *rounds(settings),
        ("task", settings.model.task),
        ("text", printable(settings.data.template)),
    ]
    if manifest.labels:
        shown = ", ".join(printable(label, 40) for label in manifest.labels[:8])
        more = ", …" if len(manifest.labels) > 8 else ""
        rows.append(("classes", f"{len(manifest.labels)}: {shown}{more}"))
    _rows(console, *rows)


def _plan(manifest: Manifest, console: Console) -> None:
    plan = manifest.plan
    counts = Counter(module.placement for module in plan.modules)
    rows: list[tuple[str, str | Text]] = [
        ("protection", printable(plan.protect)),
        ("plan", f"SHA-256 {manifest.plan_digest}"),
    ]
    for placement, (words, style) in _RUNS.items():
        number = counts[placement]  # type: ignore[index]
        if number:
            rows.append((f"{number:,}", Text(f"modules {words}", style)))
    where = "in the enclave" if method_of(manifest.method).attested else "at each data owner"
    rows.append(("trained", f"{count(len(plan.trainable), 'tensor')}, {where}"))
    if plan.personal:
        parts = ", ".join(manifest.settings.aggregation.personal)
        words = f"{count(len(plan.personal), 'tensor')} of them, in no update: {parts}"
        rows.append(("stay home", words))
    if plan.cut is not None:
        rows += _split(manifest, plan.cut)
    _rows(console, *rows)
    command = "sealtune plan JOB.toml prints each module; job verify --job compares"
    console.print(Text(command, "dim"))


def _split(manifest: Manifest, cut: int) -> list[tuple[str, str | Text]]:
    """Where the model is cut, and what crosses."""
    plan, split = manifest.plan, manifest.settings.split
    words = f"after block {cut} of {plan.blocks}: what comes first runs at the sites, without a TEE"
    rows: list[tuple[str, str | Text]] = [("cut", words)]
    if split is not None:
        sent = (
            f"cut activations as {split.activations}, once for each sample, to the server enclave"
        )
        rows.append(("sent", sent))
    if manifest.settings.model.task == "causal-lm":
        words = "token ids go with them: the server enclave sees the text itself"
        rows.append(("", Text(words, "yellow")))
    return rows


def _parties(manifest: Manifest, policies: Iterable[AppraisalPolicy], console: Console) -> None:
    plan, view = manifest.plan, view_of(manifest.method)
    facts = Facts(
        protect=manifest.settings.protection.protect,
        sites=manifest.settings.sites.names,
        simulated=not all(policy.confidential for policy in policies),
        prefix_blocks=plan.prefix_blocks,
        cut=plan.cut,
        blocks=plan.blocks,
        release=manifest.release,
        task=manifest.settings.model.task,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("party", "sees", "never sees"):
        table.add_column(heading, overflow="fold")
    for party in view.parties(facts):
        bad = party.kind in {"simulated", "exposed"}
        title = Text.assemble((party.title, "bold"), "\n", (party.trust, "red" if bad else "dim"))
        table.add_row(title, party.sees, party.never)
    console.print(table)
    if facts.simulated:
        words = "simulated enclaves keep nothing from whoever runs their machine, whatever it says"
        console.print(Text(words, _RED), soft_wrap=True)
    seen = view.picture(facts).hidden
    console.print(Text(f"not hidden from anybody: {seen}", "dim"), soft_wrap=True)


def _heading(console: Console, words: str) -> None:
    console.print()
    console.print(Text(words, "bold underline"))


def _rows(console: Console, *rows: tuple[str, str | Text]) -> None:
    for name, value in rows:
        # digests stay on one line, so that they can be copied and searched for
        console.print(Text.assemble((f"  {name:<11}", "dim"), value), soft_wrap=True)


def _listed(values: Sequence[str] | str, anything: str) -> Text:
    if isinstance(values, str):
        return Text(anything, "red" if anything.isupper() or "ANY" in anything else "")
    return Text(", ".join(map(printable, values)) or "none")
