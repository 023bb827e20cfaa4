"""What tests of images share: the packages of the lock, and an image of the aggregator."""

from __future__ import annotations

import shutil

import pytest

from sealtune.errors import FederationError, StorageError
from sealtune.images.build import build
from sealtune.images.choose import pin
from sealtune.images.fetch import fetch
from sealtune.images.image import Image
from sealtune.images.lock import Lock, Package, read_lock
from sealtune.images.machine import find_qemu
from sealtune.job.cache import cache_folder
from sealtune.start import read_program

# the user's, while tests are collected: public files by hash, which every session would fetch anew
PACKAGES = cache_folder() / "packages"
AGGREGATOR = "aggregator"


@pytest.fixture(scope="session")
def lock() -> Lock:
    """The lock that comes with sealtune, its packages for the aggregator fetched.

    Of a Debian package that has been replaced since, the newest stands in.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("images are made of Debian's packages: no apt-get and dpkg-deb here")
    shipped = read_lock()
    wheels, _ = shipped.wheels_of(read_program(AGGREGATOR).packages)
    packages = []
    try:
        for package in shipped.packages:
            if package.kind == "deb":
                packages.append(_offered(package))
            else:
                packages.append(package)
                if package in wheels:
                    fetch(package, PACKAGES)
    except StorageError as error:
        pytest.skip(f"the packages of an image cannot be had: {error.message}")
    return Lock(kernel=shipped.kernel, packages=tuple(packages))


def _offered(package: Package) -> Package:
    try:
        fetch(package, PACKAGES)
    except StorageError:
        return pin("deb", package.name, "", PACKAGES)
    return package


@pytest.fixture(scope="session")
def aggregator(lock: Lock, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image of the aggregator; not to be written to."""
    folder = tmp_path_factory.mktemp("images") / AGGREGATOR
    return build(lock, AGGREGATOR, folder, cache=PACKAGES)


@pytest.fixture(scope="session")
def _qemu() -> None:
    """What boots an image."""
    try:
        find_qemu()
    except FederationError as error:
        pytest.skip(f"{error.message}; {error.hint}")
