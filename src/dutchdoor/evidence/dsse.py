"""DSSE v1 envelopes (github.com/secure-systems-lab/dsse): exactly one Ed25519 signature, in one byte form.

An envelope is accepted only if it equals the canonical form of its own parse: sorted keys, no spaces, no
duplicate or extra fields, canonical base64, one signature. securesystemslib alone accepts all of those.
Refuses to say anything about the payload's meaning: that is the reader's.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from dutchdoor.core import EvidenceError, canonical_json
from dutchdoor.evidence.signing_keys import PublicKey, SigningKey

SIGNATURE_BYTES = 64  # Ed25519, RFC 8032


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keyid: str
    sig: str


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: tuple[_Signature, ...]


@dataclass(frozen=True)
class Checked:
    """What an envelope holds.

    `verified`: the signature of a known key holds. `trusted`: that key is also a trusted one.
    """

    payload: bytes
    payload_type: str
    key_id: str
    trusted: bool
    verified: bool


def sign(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """The canonical envelope of `payload`, signed once."""
    from securesystemslib.dsse import Envelope  # what is signed: the library's pre-authentication encoding

    signature = key.sign(Envelope(payload, payload_type, {}).pae())
    return envelope(payload, payload_type, key.key_id, signature)


def check(
    data: bytes,
    trusted: Sequence[PublicKey],
    *,
    known: Sequence[PublicKey] = (),
    payload_type: str | None = None,
) -> Checked:
    """Open the envelope `data`. `known` keys may verify it untrusted: one that came with the bundle.

    Raises EvidenceError when it is not canonical, not of `payload_type` (where one is asked for), or when
    the signature of a trusted or known key does not hold. A signer who is neither gives `verified` false:
    the payload is then only a claim.
    """
    payload, held_type, key_id, signature = opened(data)
    if payload_type is not None and held_type != payload_type:
        raise EvidenceError(f"the signed payload is {held_type!r}, expected {payload_type!r}")
    key = next((key for key in (*trusted, *known) if key.key_id == key_id), None)
    if key is None:
        return Checked(payload, held_type, key_id, trusted=False, verified=False)
    from securesystemslib.dsse import Envelope

    if not key.verifies(signature, Envelope(payload, held_type, {}).pae()):
        raise EvidenceError(
            f"the signature of {key_id} does not hold", hint="the content was changed after signing"
        )
    is_trusted = any(each.raw == key.raw for each in trusted)
    return Checked(payload, held_type, key_id, trusted=is_trusted, verified=True)


def opened(data: bytes) -> tuple[bytes, str, str, bytes]:
    """Payload, type, key id and raw signature of a canonical envelope, unchecked: what it claims.

    Raises EvidenceError when it is not canonical.
    """
    hint = "it was reformatted, re-encoded or edited: take the original bytes"
    try:
        parsed = msgspec.json.decode(data, type=_Envelope)
        if len(parsed.signatures) != 1:
            raise EvidenceError(
                f"the envelope has {len(parsed.signatures)} signatures, expected exactly one", hint=hint
            )
        payload = base64.b64decode(parsed.payload, validate=True)
        signature = base64.b64decode(parsed.signatures[0].sig, validate=True)
        key_id = parsed.signatures[0].keyid
        again = envelope(payload, parsed.payload_type, key_id, signature)
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise EvidenceError(f"no DSSE envelope: {error}", hint=hint) from error
    if again != data:
        raise EvidenceError("the envelope is not in canonical form", hint=hint)
    if len(signature) != SIGNATURE_BYTES:
        raise EvidenceError(
            f"the signature has {len(signature)} bytes, expected {SIGNATURE_BYTES}", hint=hint
        )
    return payload, parsed.payload_type, key_id, signature


def envelope(payload: bytes, payload_type: str, key_id: str, signature: bytes) -> bytes:
    """The canonical bytes of an envelope whose signature (64 raw bytes) is already there. Checks nothing."""
    encoded = (base64.b64encode(payload).decode(), base64.b64encode(signature).decode())
    return canonical_json(_Envelope(encoded[0], payload_type, (_Signature(key_id, encoded[1]),)))
