"""``manifest.dp``: made for a job's settings and rows, or worked out anew and compared.

    dp = make_terms(settings, {"north": 500, "south": 80})
    check_terms(manifest)

The accountant is dp-accounting's, of Renyi differential privacy. Its epsilon is an upper bound,
some 10 % above the numerical ones of privacy loss distributions; a round more is one multiplication
more. Neighbours differ in one unit, whose contribution is there or is zero: a site's update, or an
example's gradient. The number of sites and of rows is public, and the same for both.

Trust domain: a participant's own machine.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from sealtune.errors import ConfigError, DigestMismatchError, Problem
from sealtune.job.dp_terms import DpTerms, EpsilonTable, sampling_rate
from sealtune.job.manifest import Manifest
from sealtune.job.settings import Settings

_SMALLEST, _LARGEST = 0.05, 1e6  # noise multipliers that are tried
_DIGITS = 4  # of an epsilon, after the point; rounded up
_TOLERANCE = 1e-3  # between versions of the library, relative
_LIBRARY = "dp-accounting"


def make_terms(settings: Settings, rows: Mapping[str, int]) -> DpTerms | None:
    """What a manifest says of differential privacy; None: the settings ask for none.

    Args:
        rows: site -> its number of training rows.

    Raises:
        ConfigError: no round fits into the budget, or delta lets a unit be shown as it is.
    """
    privacy = settings.privacy
    if privacy.unit is None or privacy.epsilon is None:
        return None
    budget, delta, rounds = privacy.epsilon, privacy.delta, settings.job.rounds
    units = len(settings.sites.names) if privacy.unit == "site" else max(rows.values())
    if delta * units >= 1:
        words = f"is {delta:g}: of {units:,} {privacy.unit}s one could be shown as it is"
        hint = f"take much less than 1 / {units:,}, such as {0.1 / units:.0e}"
        raise ConfigError("the job", [Problem("privacy.delta", words)], hint=hint)
    alike: dict[tuple[float, int], list[str]] = {}
    for site in settings.sites.names:
        alike.setdefault(_mechanism(settings, rows[site]), []).append(site)

    def cost(noise: float, after: int) -> float:
        return max(epsilons(noise, rate, steps, (after,), delta)[0] for rate, steps in alike)

    noise = privacy.noise_multiplier
    if noise is None:
        noise = _least(lambda tried: cost(tried, rounds) <= budget)
    first = cost(noise, 1)
    if first > budget:
        words = f"is {budget:g}, and the first round alone costs {first:g}"
        raise ConfigError(
            "the job",
            [Problem("privacy.epsilon", words)],
            hint="raise it or privacy.noise_multiplier, or train fewer steps in a round",
        )
    every = range(1, rounds + 1)
    return DpTerms(
        noise_multiplier=noise,
        accountant="rdp",
        computed_by=f"{_LIBRARY} {version(_LIBRARY)}",
        tables=tuple(
            EpsilonTable(sites=tuple(sites), epsilon=epsilons(noise, rate, steps, every, delta))
            for (rate, steps), sites in alike.items()
        ),
    )


def check_terms(manifest: Manifest) -> None:
    """Hold a manifest's ``dp`` against what follows from its settings and rows.

    Raises:
        DigestMismatchError: the noise or a table is another.
    """
    rows = {site: data.train_rows for site, data in manifest.data.items()}
    stated, own = manifest.dp, make_terms(manifest.settings, rows)
    if stated is None or own is None:  # it is then null in both: see ``dp_terms``
        return
    if not _near(stated.noise_multiplier, own.noise_multiplier):
        raise _another(f"noise multiplier {stated.noise_multiplier:g}", own.noise_multiplier)
    for after in range(1, manifest.settings.job.rounds + 1):
        theirs, ours = stated.epsilons(after), own.epsilons(after)
        for site, epsilon in theirs.items():
            if not _near(epsilon, ours[site]):
                words = f"epsilon {epsilon:g} of {site} after {after} rounds"
                raise _another(words, ours[site])


def epsilons(noise: float, rate: float, steps: int, rounds: Any, delta: float) -> tuple[float, ...]:
    """Epsilon after each of ``rounds``, of so many noisy sums each, rounded up.

    Args:
        noise: deviation of a sum's noise over its sensitivity.
        rate: probability with which a unit is in a sum.
        steps: sums in a round.
        rounds: numbers of rounds.
        delta: for which it is.
    """
    from dp_accounting.rdp import compute_epsilon

    orders, each = divergence(noise, rate)
    costs = (compute_epsilon(orders, n * steps * each, delta)[0] for n in rounds)
    return tuple(math.ceil(float(cost) * 10**_DIGITS) / 10**_DIGITS for cost in costs)


@cache
def divergence(noise: float, rate: float) -> tuple[Any, Any]:
    """Orders, and the Renyi divergence of one noisy sum at each; infinite: it is not known."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    with _quiet():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    return accountant.orders, accountant.rdp


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orders at which the library's sum does not converge are left out, which is no news."""
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _mechanism(settings: Settings, rows: int) -> tuple[float, int]:
    """Probability with which a unit is in a noisy sum, and how many of them a round has."""
    if settings.privacy.unit == "site":
        return 1.0, 1  # who takes part is drawn from a public seed, which hides nobody
    return sampling_rate(settings.train, rows), settings.train.steps(rows)


def _least(enough: Callable[[float], bool]) -> float:
    """The least noise that is ``enough``, to four digits, rounded up."""
    low, high = _SMALLEST, 2 * _SMALLEST
    while not enough(high):
        low, high = high, 2 * high
        if high > _LARGEST:
            words = "is too small: no amount of noise keeps all rounds within it"
            raise ConfigError("the job", [Problem("privacy.epsilon", words)])
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    unit = 10.0 ** (math.ceil(math.log10(high)) - 4)
    return round(math.ceil(high / unit) * unit, 9)


def _near(stated: float, own: float) -> bool:
    return math.isclose(stated, own, rel_tol=_TOLERANCE, abs_tol=10.0**-_DIGITS)


def _another(stated: str, own: float) -> DigestMismatchError:
    return DigestMismatchError(
        f"the manifest states a {stated}, and from its settings and rows follows {own:g}",
        hint="do not sign or start it: whoever built it made a mistake, or hides what rounds cost",
    )
