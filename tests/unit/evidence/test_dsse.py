"""Envelopes: what is accepted, and each way in which one is not."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signature

from dutchdoor.core import EvidenceError
from dutchdoor.evidence import dsse
from dutchdoor.evidence.signing_keys import new_key

KEY = new_key()
OTHER = new_key()
TYPE = "application/vnd.in-toto+json"
PAYLOAD = b'{"a":1}'
SIGNED = dsse.sign(PAYLOAD, TYPE, KEY)


def refused(data: bytes, words: str = "") -> None:
    with pytest.raises(EvidenceError) as caught:
        dsse.check(data, [KEY.public])
    assert words in caught.value.message


def changed(**fields: object) -> bytes:
    """A compact envelope with sorted keys, like ours, with some fields changed."""
    return json.dumps({**json.loads(SIGNED), **fields}, separators=(",", ":"), sort_keys=True).encode()


def test_what_was_signed_comes_out_again() -> None:
    checked = dsse.check(SIGNED, [OTHER.public, KEY.public], payload_type=TYPE)
    assert (checked.payload, checked.payload_type, checked.key_id) == (PAYLOAD, TYPE, KEY.key_id)
    assert checked.trusted
    assert checked.verified


def test_the_helper_that_changes_fields_changes_nothing_by_itself() -> None:
    assert changed() == SIGNED


def test_the_signature_is_what_securesystemslib_makes_and_accepts() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from securesystemslib.signer import SSlibKey

    public = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(KEY.public.raw), keyid=KEY.key_id)
    assert set(Envelope.from_dict(json.loads(SIGNED)).verify([public], 1)) == {KEY.key_id}


def test_an_unknown_signer_is_neither_trusted_nor_verified() -> None:
    checked = dsse.check(SIGNED, [OTHER.public])
    assert (checked.trusted, checked.verified, checked.key_id) == (False, False, KEY.key_id)


def test_a_known_key_verifies_without_being_trusted() -> None:
    checked = dsse.check(SIGNED, [OTHER.public], known=[KEY.public])
    assert (checked.trusted, checked.verified) == (False, True)


def test_a_known_key_can_refute() -> None:
    forged = changed(payload=base64.b64encode(b'{"a":2}').decode())
    with pytest.raises(EvidenceError, match="does not hold"):
        dsse.check(forged, [], known=[KEY.public])


def test_another_payload_type_is_refused_where_one_is_asked_for() -> None:
    with pytest.raises(EvidenceError, match="expected 'x/y'"):
        dsse.check(SIGNED, [KEY.public], payload_type="x/y")


def test_a_changed_payload_type_breaks_the_signature() -> None:
    refused(changed(payloadType="x/y"), "does not hold")


def test_a_changed_payload_breaks_the_signature() -> None:
    refused(changed(payload=base64.b64encode(b'{"a":2}').decode()), "does not hold")


def test_a_second_signature_is_refused_even_a_good_one() -> None:
    one = json.loads(SIGNED)["signatures"][0]
    refused(changed(signatures=[one, one]), "2 signatures")
    refused(changed(signatures=[]), "0 signatures")


@pytest.mark.parametrize(
    "other",
    [
        SIGNED + b"\n",
        b" " + SIGNED,
        SIGNED.replace(b'":"', b'": "', 1),
        json.dumps(json.loads(SIGNED), indent=1).encode(),
        json.dumps(dict(reversed(json.loads(SIGNED).items())), separators=(",", ":")).encode(),
        SIGNED.replace(b'{"payload":', b'{"payload":"e30=","payload":', 1),
        SIGNED.replace(b"payload", b"p\\u0061yload", 1),
        SIGNED.replace(b"/", b"\\/", 1),
        b"\xef\xbb\xbf" + SIGNED,
    ],
    ids=["newline", "space", "inner space", "indented", "reordered", "duplicate", "escaped", "slash", "bom"],
)
def test_a_reformatted_envelope_is_refused(other: bytes) -> None:
    assert other != SIGNED
    refused(other)


def test_a_field_of_no_meaning_is_refused() -> None:
    refused(changed(note="hello"), "unknown field")


@pytest.mark.parametrize(
    "payload", ["eyJhIjoxfR==", "eyJhIjoxfQ", "eyJhIjoxfQ=", "eyJhIjox\nfQ==", "eyJhIjoxfQ==="], ids=repr
)
def test_another_spelling_of_the_same_base64_is_refused(payload: str) -> None:
    refused(changed(payload=payload))


def test_a_signature_of_another_length_is_refused() -> None:
    signature = {"keyid": KEY.key_id, "sig": base64.b64encode(b"x" * 63).decode()}
    refused(changed(signatures=[signature]), "63 bytes")


def test_a_signature_moved_under_another_key_is_refused() -> None:
    signature = json.loads(SIGNED)["signatures"][0] | {"keyid": OTHER.key_id}
    with pytest.raises(EvidenceError, match="does not hold"):
        dsse.check(changed(signatures=[signature]), [KEY.public, OTHER.public])


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'"' + b"a" * 1000]
)
def test_what_is_no_envelope_is_refused_without_a_crash(data: bytes) -> None:
    refused(data, "no DSSE envelope")


@given(st.binary(max_size=300), st.text(max_size=40))
def test_any_payload_and_type_survive(payload: bytes, payload_type: str) -> None:
    try:
        payload_type.encode()
    except UnicodeEncodeError:
        return
    checked = dsse.check(dsse.sign(payload, payload_type, KEY), [KEY.public])
    assert (checked.payload, checked.payload_type) == (payload, payload_type)


@given(st.integers(0, len(SIGNED) * 8 - 1))
def test_no_flipped_bit_is_accepted(bit: int) -> None:
    data = bytearray(SIGNED)
    data[bit // 8] ^= 1 << (bit % 8)
    with contextlib.suppress(EvidenceError):
        assert not dsse.check(bytes(data), [KEY.public]).verified  # the key id may now be an unknown one


def test_the_library_alone_would_accept_what_is_refused_here() -> None:
    loose = json.loads(SIGNED)
    loose["payload"] = "eyJhIjoxfR=="  # padding bits that mean nothing
    envelope = Envelope.from_dict(loose)
    assert envelope.payload == PAYLOAD
    assert isinstance(envelope.signatures[KEY.key_id], Signature)
