"""Quantity: Kubernetes' way to write amounts, such as ``500m``, ``2`` or ``4Gi``."""

from __future__ import annotations

import re
from decimal import Decimal

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(m|n|u|k|[KMGTPE]i|[MGTPE])?)")
_SUFFIX = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"),
    "": Decimal(1), "k": Decimal(1000),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("MGTPE", start=2)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}  # fmt: skip


def parse_quantity(written: str) -> Decimal:
    """Return the amount that a quantity stands for.

    Raises:
        ValueError: it is no quantity.
    """
    match = _FORM.fullmatch(written)
    if match is None:
        raise ValueError(
            f"{written!r} is no quantity; write a number with m, k, M, G, T, Ki, Mi, Gi or Ti"
        )
    digits, exponent, suffix = match.groups()
    return Decimal(digits + (exponent or "")) * _SUFFIX[suffix or ""]
