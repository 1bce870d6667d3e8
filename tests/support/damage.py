"""Random damage to valid bytes, and arbitrary bytes."""

import random

_INSERTED = (
    b"", b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b'"', b"\\", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null",
    b"true", b"-", b"1e400", b"-1e308", b"1e308", b"5e-324", b"NaN", b"9" * 30, b"9" * 5_000, b"[" * 2_000,
    b" - at `$.a", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59.999Z", b'"":', b"x" * 2_000,
    "\N{FULLWIDTH DIGIT ONE}".encode(),
)  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return `data` with 1 to 4 changes: a flipped bit, a cut, a removed, repeated or inserted part."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + rng.randint(1, 20)]
            case 3:
                out[at:at] = out[at : at + rng.randint(1, 200)]
            case 4:
                out[at : at + rng.randint(0, 20)] = rng.choice(_INSERTED)
            case _:
                out[at:at] = rng.choice(_INSERTED)
    return bytes(out)
