"""The last step of a bundle: signs what lies in a folder, and nothing that was not hashed.

Refuses names that another system would read differently.
"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from dutchdoor.bundle.dossier import Dossier, Offer, signed_offer, signed_statement, statement
from dutchdoor.bundle.layout import APART, DOSSIER, OFFER, SIGNER, clashes, shown, unsafe_name
from dutchdoor.core import BundleError, digest_bytes
from dutchdoor.evidence.signing_keys import SigningKey


async def seal(
    folder: Path, digests: Mapping[str, str], dossier: Dossier, offer: Offer | None, signer: SigningKey
) -> None:
    """Write signer.pub, dossier.json and, where there is one, offer.json into the folder.

    `digests` are those of all other files, as they were written. Raises BundleError for a name that can't be
    in a bundle.
    """
    for name in digests:
        if reason := unsafe_name(name):
            raise BundleError(
                f"the file name {shown(name)!r} can't be in a bundle: {reason}", hint="rename it"
            )
        if name in {*APART, DOSSIER, SIGNER}:
            raise BundleError(f"{name} is written by dutchdoor itself", hint="rename the file")
    if clash := clashes(digests):
        first, second = clash[0]
        raise BundleError(f"{shown(first)} and {shown(second)} are one file where case does not count")
    public = signer.public.pem()
    envelope = signed_statement(statement(dossier, {**digests, SIGNER: digest_bytes(public)}), signer)
    await asyncio.to_thread(write, folder / SIGNER, public)
    await asyncio.to_thread(write, folder / DOSSIER, envelope)
    if offer is not None:
        await asyncio.to_thread(write, folder / OFFER, signed_offer(offer, signer))


def write(path: Path, data: bytes) -> str:
    """Write a new file durably and give its digest. Raises BundleError when it is there already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BundleError(f"can't write {path}: {error.strerror}") from error
    return digest_bytes(data)
