"""One party that multiplies, for ``test_processors``: prints what it computed as JSON."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from sealtune.errors import IntegrityError
from sealtune.offload import kernels, ring
from tests.offload.integers import multiply
from tests.offload.layers import INNER, Setup, Toy, make_setup


def exact() -> dict[str, bool]:
    """Extreme and random operands, forward and backward layout."""
    found = {}
    generator = torch.Generator().manual_seed(1)
    for rows, inner, cols in ((1, 300, 5), (9, 64, 33), (40, 100, 8)):
        random = torch.randint(-(2**31), 2**31, (rows, inner), generator=generator)
        codes = {
            "random": random.to(torch.int32),
            "lowest digits": torch.full((rows, inner), -0x7F7F7F80, dtype=torch.int32),
            "highest digits": torch.full((rows, inner), 0x7F7F7F7F, dtype=torch.int32),
            "minimum": torch.full((rows, inner), -(2**31), dtype=torch.int32),
        }
        weights = {
            "random": torch.randint(-128, 128, (inner, cols), generator=generator).to(torch.int8),
            "lowest": torch.full((inner, cols), -128, dtype=torch.int8),
            "highest": torch.full((inner, cols), 127, dtype=torch.int8),
        }
        for left, right in itertools.product(codes, weights):
            x, weight = codes[left], weights[right]
            expected = multiply(x, weight)
            name = f"{rows} x {inner} x {cols}, {left} by {right}"
            found[name] = ring.product(x, weight).tolist() == expected
            backward = weight.t().contiguous().t()
            found[f"{name}, turned"] = ring.product(x, backward).tolist() == expected
    return found


def saturates() -> bool:
    """Whether the bare int8 product is wrong here."""
    digits = torch.full((4, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(digits, digits.t()) != 64 * 127 * 127).any())


def gradient(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(model(x).square().mean(), x)[0]


def step(setup: Setup, accelerator: object) -> torch.Tensor:
    """A masked step's gradient."""
    model = Toy().requires_grad_(False)
    with setup.session(accelerator) as session:
        session.install(model)
        torch.manual_seed(0)
        return gradient(model, torch.randn(3, 4, INNER).requires_grad_(True))


def main() -> None:
    """Everything that the test asks for."""
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(Path(folder))
        torch.manual_seed(0)
        expected = gradient(setup.reference, torch.randn(3, 4, INNER).requires_grad_(True))
        result: dict[str, Any] = {
            "arithmetic": kernels.arithmetic(torch.device("cpu")),
            "engine": setup.engine.arithmetic,
            "session": setup.session().arithmetic,
            "saturates": saturates(),
            "exact": exact(),
        }
        found = step(setup, setup.engine)
        result["honest"] = "accepted"
        result["gradient_error"] = float((found - expected).norm() / expected.norm())

        class Liar:
            def product(self, group: str, codes: torch.Tensor, *, backward: bool) -> torch.Tensor:
                result = setup.engine.product(group, codes, backward=backward)
                result[0, -1] += int(backward and group == "q")
                return result

            def close(self) -> None: ...

        try:
            step(setup, Liar())
            result["liar"] = "accepted"
        except IntegrityError as error:
            result["liar"] = error.message
        print(json.dumps(result))


if __name__ == "__main__":
    main()
