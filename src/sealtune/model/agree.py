"""What of a job lies on this machine, as digests, and whether it is what a manifest says.

Trust domain: data owners' machine, before they sign.
"""

from __future__ import annotations

from sealtune.data.digest import identify
from sealtune.data.site import discover_labels, load_sites
from sealtune.errors import DigestMismatchError
from sealtune.job.manifest import Manifest, ModelIdentity
from sealtune.job.settings import Settings
from sealtune.job.spec import Job, ModelSpec
from sealtune.model.files import model_files
from sealtune.plan.planner import make_plan


def identify_model(spec: ModelSpec) -> ModelIdentity:
    """Name and digests of the model.

    Raises:
        ModelError: it cannot be read.
    """
    files = model_files(spec)
    hub = f"{spec.path}@{files.revision}" if files.revision else ""
    return ModelIdentity(
        name=(hub or files.folder.name)[:200],
        digest=files.digest,
        tokenizer_digest=files.tokenizer_digest,
    )


def check_local(manifest: Manifest, job: Job, site: str | None = None) -> list[str]:
    """Work everything out anew from this machine's files and compare.

    Args:
        manifest: what was, or is to be, signed.
        job: this machine's job file.
        site: look at this site's data only; None: at every site's.

    Returns:
        what was found equal, in words.

    Raises:
        DigestMismatchError: lists everything that differs.
        DataError, ModelError: files that cannot be used at all.
    """
    wrong = manifest.settings.differences(Settings.of(job))
    if wrong:
        raise _mismatch(wrong)  # with other settings nothing else can be compared
    if site is not None and site not in manifest.data:
        raise DigestMismatchError(f"the manifest names no site '{site}'")
    found: list[tuple[str, bool]] = [("settings", True)]
    identity = identify_model(job.model)
    found.append(("model", identity.digest == manifest.model.digest))
    tokenizer = identity.tokenizer_digest == manifest.model.tokenizer_digest
    found.append(("tokenizer", tokenizer))
    if site is None:
        found.append(("labels", discover_labels(job) == manifest.labels))
    plan = make_plan(job, len(manifest.labels) or None)
    found.append(("slice plan", plan.digest == manifest.plan_digest))
    sites = load_sites(job, manifest.labels, only=None if site is None else (site,))
    for name, data in sites.items():
        mine, signed = identify(data), manifest.data[name]
        found.append((f"data.{name}.train", mine.train == signed.train))
        found.append((f"data.{name}.test", mine.test == signed.test))
    differing = [what for what, equal in found if not equal]
    if differing:
        raise _mismatch(differing)
    return [what for what, _ in found]


def _mismatch(what: list[str]) -> DigestMismatchError:
    return DigestMismatchError(
        f"what lies here is not what the manifest says; these differ: {', '.join(what)}",
        hint="do not sign before you know why; the job file, model and data must be the same "
        "everywhere",
    )
