"""Random mutations of a bundle: none is ever accepted, none is a crash.

Seeded, so that a failure can be run again: DUTCHDOOR_FUZZ_SEED and DUTCHDOOR_FUZZ_COUNT change what is tried.
The judging half (`examine`) gets most of them, in memory; a smaller number goes through real folders.
"""

import base64
import json
import os
import random
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest_asyncio

from dutchdoor.bundle import Verdict
from dutchdoor.bundle.layout import DOSSIER, OFFER
from dutchdoor.bundle.verify import READ_WHOLE, Contents, examine
from dutchdoor.core import BundleError, digest_bytes
from dutchdoor.evidence.signing_keys import new_key

from .conftest import House

SEED = int(os.environ.get("DUTCHDOOR_FUZZ_SEED", "20261122"))
IN_MEMORY = int(os.environ.get("DUTCHDOOR_FUZZ_COUNT", "500"))
ON_DISK = 60
Files = dict[str, bytes]


def flip(files: Files, rng: random.Random) -> None:
    name = rng.choice([name for name, data in files.items() if data])
    data = bytearray(files[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    files[name] = bytes(data)


def truncate(files: Files, rng: random.Random) -> None:
    name = rng.choice([name for name, data in files.items() if data])
    files[name] = files[name][: rng.randrange(len(files[name]))]


def extend(files: Files, rng: random.Random) -> None:
    name = rng.choice(list(files))
    files[name] += rng.choice([b"\n", b" ", b"\0", b"{}", rng.randbytes(5)])


def insert(files: Files, rng: random.Random) -> None:
    name = rng.choice(list(files))
    at = rng.randrange(len(files[name]) + 1)
    files[name] = files[name][:at] + rng.choice([b" ", b"\t", b"\r\n", b"=", b"\\u0020"]) + files[name][at:]


def swap(files: Files, rng: random.Random) -> None:
    one, two = rng.sample(list(files), 2)
    files[one], files[two] = files[two], files[one]


def remove(files: Files, rng: random.Random) -> None:
    del files[rng.choice(list(files))]


def rename(files: Files, rng: random.Random) -> None:
    name = rng.choice(list(files))
    ways = [name.upper(), name.swapcase(), "./" + name, name + " ", name + ".", name.replace("e", "\u0435")]
    ways += [
        unicodedata.normalize("NFD", name + "\u00e9"),
        name + "\u200b",
        "\ufeff" + name,
        name.replace("/", "\\"),
    ]
    files[rng.choice([way for way in ways if way not in files])] = files.pop(name)


def add(files: Files, rng: random.Random) -> None:
    name = rng.choice(
        [".x", "x.py", "dutchdoor/x", "dutchdoor/status.json", "config.json\n", "../x", "e\u0301", "X" * 300]
    )
    files[name] = rng.randbytes(3)


def reformat(files: Files, rng: random.Random) -> None:
    name = rng.choice([DOSSIER, OFFER])
    held = json.loads(files[name])
    how = rng.randrange(5)
    if how == 0:
        text = json.dumps(held, indent=rng.randrange(1, 5))
    elif how == 1:
        text = json.dumps(dict(reversed(held.items())), separators=(",", ":"))
    elif how == 2:
        text = files[name].decode().replace('{"', '{"payload":"","', 1)
    elif how == 3:
        text = files[name].decode().replace('"keyid"', '"keyid":"x","keyid"')
    else:
        text = json.dumps({**held, rng.choice(["a", "z"]): None}, separators=(",", ":"), sort_keys=True)
    files[name] = text.encode()


def re_encode(files: Files, rng: random.Random) -> None:
    """Other base64 of the same bytes, where there is one."""
    name = rng.choice([DOSSIER, OFFER])
    held = json.loads(files[name])
    where: dict[str, str] = rng.choice([held, held["signatures"][0]])
    field = "payload" if "payload" in where else "sig"
    text = where[field]
    ways = [
        text.rstrip("="),
        text + "=",
        text[:8] + "\n" + text[8:],
        text.replace("+", "-").replace("/", "_") + " ",
    ]
    where[field] = rng.choice([way for way in ways if way != text])
    files[name] = json.dumps(held, separators=(",", ":"), sort_keys=True).encode()


def sign_more(files: Files, rng: random.Random) -> None:
    name = rng.choice([DOSSIER, OFFER])
    held = json.loads(files[name])
    extra = {"keyid": new_key().key_id, "sig": base64.b64encode(rng.randbytes(64)).decode()}
    held["signatures"].insert(rng.randrange(2), rng.choice([extra, held["signatures"][0]]))
    files[name] = json.dumps(held, separators=(",", ":"), sort_keys=True).encode()


def forge(files: Files, rng: random.Random) -> None:
    """A changed payload under the old signature, or under a random one."""
    name = rng.choice([DOSSIER, OFFER])
    held = json.loads(files[name])
    payload = bytearray(base64.b64decode(held["payload"]))
    payload[rng.randrange(len(payload))] ^= 1
    held["payload"] = base64.b64encode(bytes(payload)).decode()
    if rng.random() < 0.5:
        held["signatures"][0]["sig"] = base64.b64encode(rng.randbytes(64)).decode()
    files[name] = json.dumps(held, separators=(",", ":"), sort_keys=True).encode()


def swap_envelopes(files: Files, rng: random.Random) -> None:
    """The payload of one file under the signature of the other."""
    one, two = json.loads(files[DOSSIER]), json.loads(files[OFFER])
    one["signatures"], two["signatures"] = two["signatures"], one["signatures"]
    for name, held in ((DOSSIER, one), (OFFER, two)):
        files[name] = json.dumps(held, separators=(",", ":"), sort_keys=True).encode()


MUTATIONS: list[Callable[[Files, random.Random], None]] = [
    flip, truncate, extend, insert, swap, remove, rename, add, reformat, re_encode, sign_more, forge, swap_envelopes,
]  # fmt: skip


@pytest_asyncio.fixture
async def packed(house: House) -> House:
    await house.pack()
    return house


def read(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(files: Files) -> Contents:
    ours = {name: files[name] for name in READ_WHOLE if name in files}
    return Contents({name: digest_bytes(data) for name, data in files.items()}, ours)


def mutate(files: Files, rng: random.Random) -> str:
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        mutation = rng.choice(MUTATIONS)
        try:
            mutation(files, rng)
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
        ):  # an earlier one left nothing to work on
            continue
        done.append(mutation.__name__)
    return "+".join(done)


async def test_no_mutation_is_accepted_and_none_crashes(packed: House) -> None:
    original = read(packed.bundle)
    trusted = [packed.signer.public]
    assert examine(packed.bundle, contents(original), trusted).verdict is Verdict.VALID
    rng = random.Random(SEED)
    tried: set[str] = set()
    for turn in range(IN_MEMORY):
        files = dict(original)
        how = mutate(files, rng)
        if files == original:
            continue
        tried |= set(how.split("+"))
        for keys in (trusted, []):  # whoever knows the signer, and whoever does not
            report = examine(packed.bundle, contents(files), keys)
            assert report.verdict is Verdict.BROKEN, (SEED, turn, how)
            assert report.findings
            assert all(each.file.isprintable() and each.what for each in report.findings)
    assert tried == {mutation.__name__ for mutation in MUTATIONS}


async def test_no_mutation_of_a_real_folder_is_accepted(packed: House, tmp_path: Path) -> None:
    original = read(packed.bundle)
    rng = random.Random(SEED + 1)
    for turn in range(ON_DISK):
        files = dict(original)
        how = mutate(files, rng)
        folder = tmp_path / f"mutant-{turn}"
        try:
            for name, data in files.items():
                if ".." in name or "/./" in f"/{name}":
                    continue  # not a name a folder can hold
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        except OSError:
            shutil.rmtree(folder)
            continue  # a name that this file system refuses
        if read(folder) == original:
            continue
        try:
            assert (await packed.verify(folder)).verdict is Verdict.BROKEN, (SEED, turn, how)
        except BundleError as error:
            assert "is no bundle" in error.message
        shutil.rmtree(folder)
