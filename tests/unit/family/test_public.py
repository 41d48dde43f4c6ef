"""The public form tells what is open and binds what is closed, without showing it."""

import hashlib
import json
from pathlib import Path

import pytest

from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.family.public import (
    Closed,
    Closings,
    byte_class,
    commitment,
    component_digest,
    opens,
    public_form,
)
from dutchdoor.family.weights import variant_digest
from tests.unit.policy.world import make_world

SALT = b"s" * 32
DIGEST = "sha256:" + "a" * 64
NOTHING = Closings({}, {})


def salts(digest: str) -> bytes:
    return hashlib.sha256(b"salt" + digest.encode()).digest()


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedFamily:
    world = make_world(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret-rows.csv").write_text("a,b\n")
    world.edit(
        "references:",
        "components:\n  - {kind: datasets, path: data, license: CC-BY-4.0, intent: closed}\n"
        "  - {kind: model-card, license: CC-BY-4.0}\nreferences:",
    )
    return load_family(tmp_path / "family.yaml")


CLOSED = Closings(
    downloads={"large": Closed("evidence", "fails tamper (hazard.reagents)")},
    components={
        (None, "datasets", "data"): Closed("choice", "legal: not ours"),
        ("large", "system-prompt", "serve/system.txt"): Closed("choice", "how it is served"),
    },
)


def test_a_commitment_binds_everything_it_names() -> None:
    held = commitment("variant", "gable", "gable-l/bf16", SALT, DIGEST)
    assert held.startswith("commit:sha256:") and len(held) == len("commit:sha256:") + 64
    assert opens(held, "variant", "gable", "gable-l/bf16", SALT, DIGEST)
    others = [
        ("serve", "gable", "gable-l/bf16", SALT, DIGEST),
        ("variant", "other", "gable-l/bf16", SALT, DIGEST),
        ("variant", "gable", "gable-l/q8", SALT, DIGEST),
        ("variant", "gable", "gable-l/bf16", b"t" * 32, DIGEST),
        ("variant", "gable", "gable-l/bf16", SALT, "sha256:" + "b" * 64),
        ("variant", "gablegable", "-l/bf16", SALT, DIGEST),  # no field runs into the next
    ]
    for other in others:
        assert not opens(held, *other)


@pytest.mark.parametrize(
    ("salt", "digest"), [(b"", DIGEST), (b"s" * 31, DIGEST), (SALT, "a" * 64), (SALT, "sha256:x")]
)
def test_a_short_salt_or_no_digest_commits_to_nothing(salt: bytes, digest: str) -> None:
    with pytest.raises(ValueError, match=r"salt|digest"):
        commitment("variant", "gable", "x", salt, digest)


def test_what_is_open_is_as_it_is_and_can_be_tied_to_the_evidence(loaded: LoadedFamily) -> None:
    form = public_form(loaded, CLOSED, salts)
    small = form["members"][0]
    digest = variant_digest(loaded.folder / "small")
    (variant,) = small["variants"]
    assert variant["digest"] == digest
    assert opens(
        variant["commitment"], "variant", "gable", "small/bf16", bytes.fromhex(variant["salt"]), digest
    )
    assert form["components"] == [{"kind": "model-card", "license": "CC-BY-4.0"}]


def test_what_is_closed_is_replaced_by_kind_size_reason_and_commitment(loaded: LoadedFamily) -> None:
    form = public_form(loaded, CLOSED, salts)
    rows = {(row["member"], row["kind"]): row for row in form["closed"]}
    assert set(rows) == {
        ("large", "model-parameters-final"), ("large", "system-prompt"), (None, "datasets"),
    }  # fmt: skip
    weights = rows["large", "model-parameters-final"]
    assert (weights["size"], weights["closed_by"], weights["variant"]) == (
        "below 1M parameters",
        "evidence",
        "bf16",
    )
    assert weights["because"] == "fails tamper (hazard.reagents)"
    digest = variant_digest(loaded.folder / "large")
    assert opens(weights["commitment"], "variant", "gable", "large/bf16", salts(digest), digest)
    assert rows[None, "datasets"]["size"] == "below 1 kB"


def test_nothing_of_what_is_closed_can_be_read_in_the_form(loaded: LoadedFamily) -> None:
    text = json.dumps(public_form(loaded, CLOSED, salts))
    closed = variant_digest(loaded.folder / "large")
    data, _ = component_digest(loaded.folder / "data")
    prompt, _ = component_digest(loaded.folder / "serve" / "system.txt")
    for secret in (
        closed,
        data,
        prompt,
        "secret-rows",
        "system.txt",
        "guard.yaml",
        "Be kind",
        "./large",
        "./small",
    ):
        assert secret not in text
    for digest in (closed, data, prompt):
        assert salts(digest).hex() not in text
    assert variant_digest(loaded.folder / "large") in json.dumps(
        public_form(loaded, NOTHING, salts)
    )  # and it would be


def test_a_target_is_committed_to_and_its_address_and_keys_name_stay_private(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.edit(
        "variants: [{id: bf16, weights: ./small}]",
        "variants: [{id: there}]\n    serve: {target: {url: https://inner.example/v1, model: m, key_env: SECRET_KEY}}",
    )
    closings = Closings({"small": Closed("inconclusive")}, {})
    form = public_form(world.loaded, closings, salts)
    assert "inner.example" not in json.dumps(form) and "SECRET_KEY" not in json.dumps(form)
    assert form["members"][0]["serve"] == {"elsewhere": True}
    assert form["closed"][0]["commitment"].startswith("commit:sha256:")


def test_a_components_digest_depends_on_names_and_bytes_and_no_link_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("1")
    first, size = component_digest(folder)
    assert size == 1
    (folder / "a").rename(folder / "b")
    assert component_digest(folder)[0] != first
    (tmp_path / "outside").write_text("x")
    (folder / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(Exception, match="leaves its folder"):
        component_digest(folder)


@pytest.mark.parametrize(
    ("size", "expected"), [(0, "below 1 kB"), (10**6, "below 1 GB"), (10**13, "above 1 TB")]
)
def test_byte_classes(size: int, expected: str) -> None:
    assert byte_class(size) == expected
