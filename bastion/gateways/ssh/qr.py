"""A link as a QR code of text (ISO/IEC 18004), for a phone to read off a terminal."""

from __future__ import annotations

import segno

QUIET = 4
"""Modules of light around it (ISO/IEC 18004, section 6.3.8)."""

_HALVES = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
"""Two modules, one above the other, by whether each is light: terminals are dark, so light is what is drawn."""


def drawn(text: str) -> str:
    """``text`` as lines of half blocks, without colours, which clients take out; a link takes about 41 columns."""
    rows = [[not module for module in row] for row in segno.make_qr(text, error="l").matrix_iter(border=QUIET)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))  # what follows the code is the terminal's own dark
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return "".join("".join(_HALVES[halves] for halves in zip(*pair, strict=True)) + "\n" for pair in pairs)
