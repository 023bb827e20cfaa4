"""The processor: cores, instruction sets, and whether int8 products are exact.

Trust domain: operator (untrusted).
"""

from __future__ import annotations

import re

from sealtune.doctor.finding import Finding, State, found
from sealtune.doctor.machine import Machine

# as Linux names them in /proc/cpuinfo, and what they are for here
_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "vaes": "VAES",
    "avx512_bf16": "BF16",
    "amx_tile": "AMX",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX BF16",
}
_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BF16 = {"avx512_bf16", "amx_bf16"}
_LEAST_CORES = 2


def flags(machine: Machine) -> frozenset[str]:
    """What Linux says of the first processor."""
    match = re.search(r"^flags\s*:(.*)$", machine.text("proc/cpuinfo") or "", re.M)
    return frozenset(match[1].split()) if match else frozenset()


def processor(machine: Machine) -> list[Finding]:
    """Everything on the processor."""
    info = machine.text("proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    cores = len(re.findall(r"^processor\s*:", info, re.M))
    has = flags(machine)
    names = tuple(_SETS[flag] for flag in _SETS if flag in has)
    enough = State.GOOD if cores >= _LEAST_CORES else State.POOR if cores else State.UNKNOWN
    return [
        Finding(
            "processor.cores",
            enough,
            f"{cores} cores, {model[1] if model else 'of unknown make'}",
            f"at least {_LEAST_CORES} cores: a role is several processes",
            value=cores,
        ),
        found(
            "processor.vectors",
            "avx2" in has if has else None,
            ", ".join(names) or "neither AVX2 nor AVX-512",
            "any processor of the last ten years; without AVX2 training takes many times as long",
            value=names,
        ),
        found(
            "processor.pads",
            "vaes" in has if has else None,
            "VAES: one-time pads at full speed" if "vaes" in has else "no VAES",
            "pads of masked offload are made several times slower",
            value="vaes" in has,
        ),
        _int8(machine, has),
        _library(machine),
        _bf16(has),
    ]


def _library(machine: Machine) -> Finding:
    key, remedy = "processor.library", "masked products take many times as long without it"
    told = machine.library()
    if told is None:
        return Finding(key, State.UNKNOWN, "C library: not looked for", remedy, value=None)
    name, why = told
    if why is None:
        return Finding(key, State.GOOD, f"C library for masked products: {name}", value=name)
    return Finding(key, State.POOR, f"no C library: {why}", remedy, value=name)


def _bf16(has: frozenset[str]) -> Finding:
    there = bool(has & _BF16)
    words = "instructions for bfloat16" if there else "no AMX BF16 and no AVX512-BF16"
    remedy = 'train.precision "bf16" and "autocast" take longer here than "fp32": leave it out'
    return found("processor.bf16", there if has else None, words, remedy, value=there)


def _int8(machine: Machine, has: frozenset[str]) -> Finding:
    key = "processor.int8"
    how = machine.arithmetic()
    if how in ("native", "int8"):
        words = "int8 products are exact: tried"
        return Finding(key, State.GOOD, words + " by the library" * (how == "native"), value=how)
    if how == "float64":
        words = "int8 products are not exact or slow here: float64 is used, which is exact"
        remedy = "masked offload is faster with AVX-512 VNNI, AVX-VNNI, AMX or a GPU"
        return Finding(key, State.POOR, words, remedy, value=how)
    made_for_it = bool(has & _INT8)
    words = "instructions for exact int8 products" if made_for_it else "no VNNI and no AMX"
    tail = f" ({how})" if how else " (not tried)"
    state = State.GOOD if made_for_it and not how else State.POOR
    if how and how.startswith("failed"):
        return Finding(key, State.MISSING, words + tail, "run on another processor", value=None)
    remedy = "masked offload works in float64, more slowly"
    return Finding(key, state, words + tail, remedy, value=None)
