"""Updates on the operator's disk: what comes back, what it costs, and what a writer there gets."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sealtune.errors import StorageError
from sealtune.methods.federated.spool import Spool

CHUNK = Spool.CHUNK
BOX = 4 * CHUNK + 16  # bytes of a sealed chunk
SITES = ("west", "north", "south")
SHAPES = {"A": (3, CHUNK // 2 + 5), "B": (7,), "empty": (0, 4), "scalar": ()}
Update = dict[str, NDArray[np.float32]]


def update_of(site: str, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Update:
    numbers = np.random.default_rng(list(site.encode()))
    return {n: numbers.standard_normal(shape, dtype=np.float32) for n, shape in shapes.items()}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "state") as spool:
        for site in SITES:
            spool.put(site, update_of(site))
        yield spool


def operator(spool: Spool, work: Callable[[int], None]) -> None:
    """Open the file as whoever runs the machine can, and write to it."""
    handle = os.open(f"/proc/{os.getpid()}/fd/{spool._file.fileno()}", os.O_RDWR)
    try:
        work(handle)
    finally:
        os.close(handle)


def swap(first: int, second: int, size: int = BOX) -> Callable[[int], None]:
    def work(handle: int) -> None:
        one, two = os.pread(handle, size, first), os.pread(handle, size, second)
        os.pwrite(handle, two, first)
        os.pwrite(handle, one, second)

    return work


def test_every_tensor_comes_back(spool: Spool) -> None:
    assert spool.sites == ("north", "south", "west")
    for site in SITES:
        for name, tensor in update_of(site).items():
            found = spool.get(site, name)
            assert found.shape == tensor.shape
            assert np.array_equal(found, tensor)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, CHUNK), (CHUNK - 1, CHUNK + 1), (5, 5), (CHUNK, CHUNK + 9), (1, 3 * (CHUNK // 2 + 5))],
)
def test_any_stretch_of_all_sites(spool: Spool, start: int, stop: int) -> None:
    expected = np.stack([update_of(site)["A"].ravel()[start:stop] for site in sorted(SITES)])
    assert np.array_equal(spool.stack("A", start, stop), expected)


def test_beyond_the_end_is_refused(spool: Spool) -> None:
    with pytest.raises(ValueError, match="asked for 0 to 8"):
        spool.stack("B", 0, 8)


def test_tensors_of_other_sizes_do_not_stack(spool: Spool) -> None:
    spool.put("east", {"B": np.zeros(3, dtype=np.float32)})
    with pytest.raises(ValueError, match=r"\[3, 7\] numbers"):
        spool.stack("B", 0, 3)
    assert np.array_equal(spool.get("east", "B"), np.zeros(3))


def test_a_site_has_one_update(spool: Spool) -> None:
    with pytest.raises(ValueError, match="already"):
        spool.put("north", update_of("south"))
    assert np.array_equal(spool.get("north", "B"), update_of("north")["B"])


def test_nothing_of_it_has_a_name_or_is_readable(spool: Spool, tmp_path: Path) -> None:
    assert list((tmp_path / "state").iterdir()) == []
    plain = update_of("north")["A"].tobytes()
    found = os.pread(spool._file.fileno(), 1 << 24, 0)
    assert len(found) > len(plain)
    assert plain[:16] not in found


def test_a_flipped_bit_is_noticed(spool: Spool) -> None:
    last = spool._places["south"]["A"].offset + BOX + 100

    def flip(handle: int) -> None:
        (byte,) = os.pread(handle, 1, last)
        os.pwrite(handle, bytes([byte ^ 1]), last)

    operator(spool, flip)
    assert spool.stack("A", 0, CHUNK).shape == (3, CHUNK)  # the chunk before is as it was
    with pytest.raises(StorageError, match=r"update of site 'south' .* was altered"):
        spool.stack("A", CHUNK, CHUNK + 1)


def test_chunks_swapped_between_sites_are_noticed(spool: Spool) -> None:
    places = spool._places
    operator(spool, swap(places["north"]["A"].offset, places["west"]["A"].offset))
    for site in ("north", "west"):
        with pytest.raises(StorageError, match=f"'{site}'"):
            spool.get(site, "A")
    assert np.array_equal(spool.get("south", "A"), update_of("south")["A"])


def test_chunks_swapped_within_a_tensor_are_noticed(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.put("north", update_of("north", {"A": (2, CHUNK)}))
        operator(spool, swap(0, BOX))
        with pytest.raises(StorageError, match="altered"):
            spool.get("north", "A")


def test_what_a_chunk_is_does_not_rest_on_the_nonce_alone(tmp_path: Path) -> None:
    """Two places with one nonce, as no run makes them: the label still tells them apart."""
    with Spool(tmp_path) as spool:
        for site in ("north", "south"):
            spool.put(site, update_of(site, {"A": (4,)}))
        spool._places["south"]["A"] = spool._places["north"]["A"]
        with pytest.raises(StorageError, match="'south'"):
            spool.get("south", "A")


@pytest.mark.parametrize("left", [0, 10, BOX - 1])
def test_a_file_cut_short_is_noticed(tmp_path: Path, left: int) -> None:
    with Spool(tmp_path) as spool:
        spool.put("north", update_of("north", {"A": (CHUNK,)}))
        operator(spool, lambda handle: os.truncate(handle, left))
        with pytest.raises(StorageError, match="altered"):
            spool.get("north", "A")


def test_a_full_disk_costs_that_update_alone(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, *_: int) -> int:
            return 0

        def write(self, _: bytes) -> int:
            return 3

    with monkeypatch.context() as patch:
        patch.setattr(spool, "_file", Full())
        with pytest.raises(StorageError, match="no space left"):
            spool.put("east", update_of("east"))
    assert spool.sites == ("north", "south", "west")
    spool.put("east", update_of("east"))  # under nonces of its own
    assert np.array_equal(spool.get("east", "A"), update_of("east")["A"])


def test_only_float32(spool: Spool) -> None:
    with pytest.raises(ValueError, match="float64"):
        spool.put("east", {"A": np.zeros(3)})  # type: ignore[dict-item]


def peak_mib(tmp_path: Path, sites: int) -> float:
    """Peak of Python's memory while so many updates of 8 MiB are put and summed."""
    update = {"A": np.ones((2, 1 << 20), dtype=np.float32)}
    tracemalloc.start()
    try:
        with Spool(tmp_path) as spool:
            for number in range(sites):
                spool.put(f"site-{number}", update)
            size = update["A"].size
            total = 0.0
            for start in range(0, size, CHUNK):
                total += float(spool.stack("A", start, start + CHUNK).sum())
            assert total == sites * size
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_memory_is_of_chunks_not_of_updates(tmp_path: Path) -> None:
    few, many = peak_mib(tmp_path, 2), peak_mib(tmp_path, 16)
    assert many < 3  # of 128 MiB
    assert many - few < 16 * 4 * CHUNK / 2**20 + 0.1  # a chunk of each site stacked
