"""A demo's pooled rows as files of single sites, and what is found on their hosts."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path

from sealtune.demo.dealt import deal_out, job_text
from sealtune.demo.seen import count
from tests.sample_job import write_job

EXAMPLE = Path(__file__).parents[2] / "examples" / "icd10.toml"


def test_each_row_goes_to_one_site(tmp_path: Path, llama: Path) -> None:
    job = write_job(tmp_path, llama)
    files = deal_out(job, tmp_path / "dealt")
    assert set(files) == {"north", "south"}
    for part in ("train", "test"):
        pooled = (tmp_path / f"{part}.jsonl").read_text().splitlines()
        dealt = [line for own in files.values() for line in own[part].read_text().splitlines()]
        assert sorted(dealt) == sorted(pooled)


def test_the_job_file_names_no_place() -> None:
    text = job_text(EXAMPLE, name="across", rounds=2, steps=5)
    values = tomllib.loads(text)
    assert values["job"] == {"name": "across", "seed": 1, "rounds": 2}
    assert values["sites"] == {"names": ["charity", "county", "university"]}
    assert values["train"]["steps_per_round"] == 5
    assert "path" not in values["model"]
    assert not {"train", "test", "max_train_rows"} & values["data"].keys()
    assert "demo" not in json.dumps(values)


def test_texts_are_counted_once_wherever_they_are() -> None:
    places = [b"..fracture of femur..", b"fracture of femur and asthma"]
    assert count({b"fracture of femur", b"asthma", b"eczema"}, places) == 2


def test_texts_are_found_at_every_place_as_by_looking_for_each() -> None:
    source = random.Random(1)
    for _ in range(200):
        place = bytes(source.choice(b"ab") for _ in range(source.randrange(60)))
        texts = {
            bytes(source.choice(b"ab") for _ in range(source.randrange(1, 14))) for _ in range(20)
        }
        assert count(texts, [place]) == sum(text in place for text in texts)
