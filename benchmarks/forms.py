"""What a form of cut activations costs in accuracy: float32, bfloat16, int8 codes.

    python benchmarks/forms.py            # some minutes; needs demo/
    python benchmarks/forms.py --quick    # one seed, few steps

LoRA r=8 on the last blocks of SmolLM2-135M, ICD-10 chapters; seeds and rows are paired.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from page import markdown_table
from sealtune.model.activations import Form, bytes_per_token
from top_jobs import QUICK, Place, TopJob, accuracy_cell, difference, fetch, size_here, trained

SET, RATE = "icd10", 4e-3
FORMS: tuple[Form, ...] = get_args(Form)


def main() -> None:
    """Parse options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo/model", help="its folder")
    parser.add_argument("--data", default="demo/data", help="folder of the demo sets")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--fresh", action="store_true", help="run stored jobs again")
    options = parser.parse_args()
    place = Place(options.model, options.data)
    fetch(place, (SET,))
    size, seeds = (QUICK, 1) if options.quick else (size_here(), options.seeds)
    jobs = [
        TopJob(SET, {"lora": {"rank": 8}}, seed, RATE, size, form=form)
        for form in FORMS
        for seed in range(1, seeds + 1)
    ]
    table = "forms" + "-quick" * options.quick
    done = trained(table, jobs, place, workers=options.workers, fresh=options.fresh)
    found = {form: done[i * seeds : (i + 1) * seeds] for i, form in enumerate(FORMS)}
    config = json.loads((Path(options.model) / "config.json").read_text(encoding="utf-8"))
    width = int(config["hidden_size"])
    rows = [
        [
            form,
            bytes_per_token(form, width),
            accuracy_cell(found[form]),
            str(difference(found[form], found["fp32"])),
        ]
        for form in FORMS
    ]
    print(markdown_table(["form", "bytes/token", "accuracy %", "to fp32 (seeds, rows)"], rows))


if __name__ == "__main__":
    main()
