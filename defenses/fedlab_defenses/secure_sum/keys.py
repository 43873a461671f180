"""Keys, what two of them agree on, letters sealed with it, and the masks that grow from it.

X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869), ChaCha20-Poly1305 and ChaCha20 (RFC 8439), all of the
`cryptography` package. flwr 1.41 has such helpers too; its mask generator folds a 32-byte key into 32 bits
and starts a Mersenne twister with them, which can be tried out, so nothing of it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedlab.errors import DataError

PUBLIC = 32
"""Bytes of a public key."""
SEALED = 16
"""Bytes that a sealed letter has more than what it says."""


@dataclass(frozen=True)
class KeyPair:
    """A private key, out of a seed of 16 bytes: short enough to be shared, and as strong as the curve."""

    private: X25519PrivateKey

    @classmethod
    def of(cls, seed: bytes) -> KeyPair:
        return cls(X25519PrivateKey.from_private_bytes(_derived(seed, b"private key")))

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    def agree(self, other: bytes, purpose: bytes) -> bytes:
        """The 32 bytes that both ends of the pair know, and nobody else.

        Raises:
            DataError: `other` is no public key.
        """
        try:
            return _derived(self.private.exchange(X25519PublicKey.from_public_bytes(other)), purpose)
        except ValueError as error:
            raise DataError(f"a public key of {len(other)} bytes that is none: {error}") from error


def seal(key: bytes, sender: int, letter: bytes) -> bytes:
    """`letter`, for the other end's eyes; each end may seal one letter with a key."""
    return ChaCha20Poly1305(key).encrypt(_nonce(sender), letter, None)


def unseal(key: bytes, sender: int, sealed: bytes) -> bytes:
    """What `sender` sealed.

    Raises:
        DataError: it was changed on its way, or is another's.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(sender), sealed, None)
    except InvalidTag as error:
        raise DataError(f"a sealed letter of node {sender} was changed on its way") from error


def mask(key: bytes, count: int, bits: int, stream: int = 0) -> NDArray[np.unsignedinteger[Any]]:
    """(count,) uniform unsigned integers of 32 or 64 bits; other streams of a key are independent."""
    kind: type[np.unsignedinteger[Any]] = np.uint32 if bits == 32 else np.uint64
    cipher = Cipher(ChaCha20(key, bytes(8) + stream.to_bytes(8, "little")), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(count * bits // 8)), dtype=kind)


def mask_key(seed: bytes) -> bytes:
    """The key of a mask that a client puts on for itself, from 16 bytes that it shares out."""
    return _derived(seed, b"self mask")


def _derived(secret: bytes, purpose: bytes) -> bytes:
    info = b"fedlab secagg " + purpose
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def _nonce(sender: int) -> bytes:
    return sender.to_bytes(12, "little")
