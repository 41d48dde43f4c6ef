"""Headers are read with every number checked: what is truncated, overlapping, huge or a pickle is refused."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dutchdoor.core import WeightsError
from dutchdoor.family.weights import describe, header_size, size_class, tensors, variant_digest, variant_files
from tests.fakes.models import make_model
from tests.fakes.weights import (
    GGUF_METADATA,
    LLAMA,
    Q8_0,
    gguf_bytes,
    safetensors_bytes,
    safetensors_header,
    write_folder,
    write_gguf,
)


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        describe(path)
    return caught.value.message


def test_a_folder_is_described_from_its_headers(tmp_path: Path) -> None:
    facts = describe(write_folder(tmp_path / "m"))
    assert (facts.format, facts.architecture, facts.parameters, facts.context_length, facts.dtype) == (
        "safetensors", "LlamaForCausalLM", 36, 128, "BF16",
    )  # fmt: skip
    assert facts.has_chat_template and not facts.quantised and facts.license is None
    assert facts.files == ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2"])
def test_parameters_of_every_shape_are_those_that_transformers_counts(shape: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / shape, shape=shape)
    facts = describe(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert facts.parameters == sum(each.numel() for each in model.parameters())
    config = model.config
    expected = getattr(config, "max_position_embeddings", None) or config.n_positions
    assert facts.context_length == expected
    assert facts.has_chat_template is (shape != "gpt2") and not facts.quantised


def test_masks_and_frequencies_that_old_checkpoints_store_are_no_parameters(tmp_path: Path) -> None:
    buffers = {
        "h.0.attn.bias": (1, 1, 4, 4),
        "h.0.attn.masked_bias": (),
        "layers.0.rotary_emb.inv_freq": (4,),
    }
    assert describe(write_folder(tmp_path / "m", LLAMA | buffers)).parameters == 36
    assert describe(write_folder(tmp_path / "n", LLAMA | {"h.0.attn.bias": (16,)})).parameters == 52


def test_a_tied_head_that_was_stored_all_the_same_counts_once(tmp_path: Path) -> None:
    shapes = LLAMA | {"lm_head.weight": (8, 4)}
    assert describe(write_folder(tmp_path / "tied", shapes, tie_word_embeddings=True)).parameters == 36
    assert describe(write_folder(tmp_path / "untied", shapes, tie_word_embeddings=False)).parameters == 68


def test_a_configuration_inside_text_config_is_found(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "m", max_position_embeddings=None, text_config={"max_position_embeddings": 99}
    )
    assert describe(folder).context_length == 99


@pytest.mark.parametrize("key", ["n_positions", "n_ctx", "max_sequence_length", "seq_length"])
def test_the_context_length_has_many_names(tmp_path: Path, key: str) -> None:
    assert (
        describe(write_folder(tmp_path / "m", max_position_embeddings=None, **{key: 77})).context_length == 77
    )


def test_integers_in_place_of_floats_are_quantised_and_count_at_least_as_many(tmp_path: Path) -> None:
    facts = describe(write_folder(tmp_path / "m", dtype="I32"))
    assert facts.quantised and facts.parameters == 36 * 32  # nothing says how many bits a weight has


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("apache-2.0", "Apache-2.0"),
        ("mit", "MIT"),
        ("other", None),
        ("llama3", None),
        ('"cc-by-4.0"', "CC-BY-4.0"),
    ],
)
def test_the_licence_in_the_readme_is_taken_only_if_it_is_known(
    tmp_path: Path, stated: str, expected: str | None
) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "README.md").write_text(f"---\nlanguage: en\nlicense: {stated}\n---\n# A model\nlicense: mit\n")
    assert describe(folder).license == expected


def test_a_licence_outside_the_metadata_block_counts_for_nothing(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "README.md").write_text("# A model\nlicense: mit\n")
    assert describe(folder).license is None


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    for number, (name, shape) in enumerate(LLAMA.items(), 1):
        header = safetensors_header({name: shape})
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(safetensors_bytes(header))
    names = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate(LLAMA, 1)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert describe(folder).parameters == 36

    index.write_text(json.dumps({"weight_map": names | {"ghost": "model-00001-of-00002.safetensors"}}))
    assert "'ghost', which no shard holds" in refusal(folder)
    index.write_text(json.dumps({"weight_map": names | {"x": "../../etc/passwd"}}))
    assert "outside its folder" in refusal(folder)
    index.write_text(json.dumps({"weight_map": names | {"x": "model-00003-of-00002.safetensors"}}))
    assert "model-00003-of-00002.safetensors is missing" in refusal(folder)
    index.write_text(json.dumps({"weight_map": []}))
    assert "names no shards" in refusal(folder)


def broken(tmp_path: Path, data: bytes) -> str:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(data)
    message = refusal(folder)
    assert str(folder / "model.safetensors") in message
    return message


GOOD = safetensors_bytes(safetensors_header(LLAMA))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "shorter than a header"),
        (GOOD[:5], "shorter than a header"),
        (GOOD[:40], "its header claims"),
        (GOOD[:-1], "truncated"),
        (GOOD + b"x", "belong to nothing"),
        (struct.pack("<Q", 2**63) + GOOD[8:], "its header claims"),
        (struct.pack("<Q", 2**40) + b"{}", "its header claims"),
        (safetensors_bytes(b"[]", b""), "no JSON object"),
        (safetensors_bytes(b'{"a": ', b""), "no JSON object"),
        (safetensors_bytes(b"[" * 50_000, b""), "no JSON object"),
        (safetensors_bytes(b'{"a": 1}', b""), "not described"),
        (safetensors_bytes(b'{"a": {}, "a": {}}', b""), "given twice"),
    ],
)
def test_broken_safetensors_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    assert why in broken(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"data_offsets": [0, 10**18]}, "bytes, its shape needs"),
        ({"data_offsets": [-8, 0]}, "no valid data_offsets"),
        ({"data_offsets": [64, 0]}, "no valid data_offsets"),
        ({"data_offsets": [0.0, 64]}, "no valid data_offsets"),
        ({"shape": [-8, -4]}, "no valid shape"),
        ({"shape": [2**62, 2**62]}, "bytes, its shape needs"),
        ({"shape": [True, 32]}, "no valid shape"),
        ({"shape": [1] * 30 + [32]}, "no valid shape"),
        ({"dtype": "PICKLE"}, "unknown dtype 'PICKLE'"),
        ({"extra": 1}, "not described"),
        ({"data_offsets": [8, 72]}, "leaves a gap"),
    ],
)
def test_a_header_that_lies_about_a_tensor_is_refused(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    header = safetensors_header({"a": (8, 4)})
    header["a"] |= change
    assert why in broken(tmp_path, safetensors_bytes(header, bytes(72 if "gap" in why else 64)))


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    header = safetensors_header({"a": (8,), "b": (8,)})
    header["b"]["data_offsets"] = [8, 24]
    assert "overlaps another" in broken(tmp_path, safetensors_bytes(header, bytes(24)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "x.pkl"])
def test_a_pickle_is_refused_and_never_read(tmp_path: Path, name: str) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    assert "may be a pickle" in refusal(folder)
    assert "may be a pickle" in refusal(folder / name)


def test_a_pickle_named_safetensors_is_refused(tmp_path: Path) -> None:
    import pickle

    assert "its header claims" in broken(tmp_path, pickle.dumps({"weights": list(range(100))}))


def test_a_folder_without_weights_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there are no weights"):
        describe(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="no safetensors") as caught:
        describe(tmp_path)
    assert "config.json" in (caught.value.hint or "")
    write_gguf(tmp_path / "m.gguf")
    with pytest.raises(WeightsError) as caught:
        describe(tmp_path)
    assert caught.value.hint == f"name the file itself: {tmp_path / 'm.gguf'}"


def test_weights_without_a_config_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "config.json").unlink()
    assert "there is no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 10_000])
def test_a_broken_config_is_refused_by_name(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "config.json").write_text(text)
    assert str(folder / "config.json") in refusal(folder)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    secret = write_folder(tmp_path / "secret")
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(secret / "model.safetensors")
    assert "is a link that leaves its folder" in refusal(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "nothing")
    assert "link to nothing" in refusal(folder)


def test_the_hubs_own_cache_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot = write_folder(tmp_path / "models--a--b" / "snapshots" / "rev")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (snapshot / "model.safetensors").rename(blobs / "1f")
    (snapshot / "model.safetensors").symlink_to(blobs / "1f")
    assert describe(snapshot).parameters == 36


def test_a_gguf_is_described_from_its_header(tmp_path: Path) -> None:
    facts = describe(write_gguf(tmp_path / "tiny-q8_0.gguf"))
    assert (facts.format, facts.architecture, facts.parameters, facts.context_length) == (
        "gguf",
        "llama",
        96,
        256,
    )
    assert (facts.dtype, facts.quantised, facts.license, facts.name) == ("Q8_0", True, "Apache-2.0", "tiny")
    assert facts.has_chat_template and facts.files == ("tiny-q8_0.gguf",)


def test_version_2_is_read_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for version, good in ((2, True), (3, True), (1, False), (4, False), (3 << 24, False)):
        path.write_bytes(gguf_bytes(GGUF_METADATA, {"a": ((32,), 0, 128)}, version=version))
        if good:
            assert describe(path).dtype == "F32"
        else:
            assert f"its format version is {version}" in refusal(path)


TENSORS = {"a": ((32, 2), Q8_0, 68), "b": ((32,), 0, 128)}
GGUF = gguf_bytes(GGUF_METADATA, TENSORS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"GGML" + GGUF[4:], "doesn't begin with GGUF"),
        (GGUF[:100], "truncated"),
        (GGUF[:-1], "truncated"),
        (gguf_bytes(GGUF_METADATA, TENSORS, short=64), "truncated"),
        (gguf_bytes(GGUF_METADATA, TENSORS, keys=10**15), "metadata keys"),
        (gguf_bytes(GGUF_METADATA, TENSORS, keys=900), "is broken"),
        (GGUF[:8] + struct.pack("<Q", 2**50) + GGUF[16:], "tensors and"),
        (gguf_bytes(GGUF_METADATA | {"general.alignment": 0}, TENSORS), "its alignment is 0"),
        (gguf_bytes(GGUF_METADATA, {"a": ((32,), 77, 128)}), "unknown type 77"),
        (gguf_bytes(GGUF_METADATA, {"a": ((1,) * 9, 0, 128)}), "9 dimensions"),
        (gguf_bytes(GGUF_METADATA, {"a": ((31,), Q8_0, 34)}), "no shape that Q8_0 can hold"),
        (gguf_bytes(GGUF_METADATA, {"a": ((2**40, 2**20), 0, 4)}), "truncated"),
        (gguf_bytes(GGUF_METADATA, TENSORS, offsets={"b": 0}), "overlaps another"),
        (gguf_bytes(GGUF_METADATA, TENSORS, offsets={"b": 2**60}), "truncated"),
        (gguf_bytes(GGUF_METADATA, {}), "no tensors"),
    ],
)
def test_broken_ggufs_are_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    message = refusal(path)
    assert why in message and str(path) in message


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 700), put=st.binary(min_size=1, max_size=9))
def test_a_gguf_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, at: int, put: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF[:at] + put + GGUF[at + len(put) :])
    try:
        describe(path)
    except WeightsError as error:
        assert str(path) in error.message


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, len(GOOD)), put=st.binary(min_size=1, max_size=9))
def test_a_safetensors_with_any_bytes_changed_is_read_or_refused(tmp_path: Path, at: int, put: bytes) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(GOOD[:at] + put + GOOD[at + len(put) :])
    try:
        describe(folder)
    except WeightsError as error:
        assert "model.safetensors" in error.message or "no parameters" in error.message


def test_the_digest_depends_on_what_decides_the_answers_and_on_nothing_else(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    before = variant_digest(folder)
    (folder / "README.md").write_text("# a card")
    (folder / "LICENSE").write_text("text")
    assert variant_digest(folder) == before
    assert set(variant_files(folder)) == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    for name in ("config.json", "chat_template.jinja", "tokenizer.json", "generation_config.json"):
        held = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_text('{"changed": 1}')
        assert variant_digest(folder) != before
        (folder / name).unlink() if held is None else (folder / name).write_bytes(held)
    assert variant_digest(folder) == before


def test_a_cached_digest_is_as_good_as_a_fresh_one_and_a_broken_cache_costs_only_time(tmp_path: Path) -> None:
    folder, cache = write_folder(tmp_path / "m"), tmp_path / "cache" / "digests.json"
    fresh = variant_digest(folder)
    assert variant_digest(folder, cache) == fresh == variant_digest(folder, cache)
    write_folder(folder, fill=1)  # the same size, other bytes
    changed = variant_digest(folder, cache)
    assert changed != fresh and changed == variant_digest(folder)
    cache.write_text("not json")
    assert variant_digest(folder, cache) == changed


def test_spans_lie_where_the_bytes_are(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", fill=7)
    path = folder / "model.safetensors"
    spans = tensors(path)
    assert [each.name for each in spans] == list(LLAMA)
    assert spans[0].offset == header_size(path)
    assert path.read_bytes()[spans[1].offset : spans[1].offset + spans[1].nbytes] == b"\x07" * 8
    gguf = write_gguf(tmp_path / "m.gguf")
    spans = tensors(gguf)
    assert [(each.name, each.nbytes) for each in spans] == [
        ("token_embd.weight", 68),
        ("output_norm.weight", 128),
    ]
    assert spans[0].offset == header_size(gguf) and spans[0].offset % 32 == 0


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (10, "below 1M"),
        (6_000_000, "1M–10M"),
        (8_000_000_000, "1B–10B"),
        (1_000_000_000, "1B–10B"),
        (2 * 10**12, "above 1T"),
    ],
)
def test_a_size_class_says_no_more_than_the_order(count: int, expected: str) -> None:
    assert size_class(count) == expected


def test_fewer_bits_a_weight_mean_more_weights_in_an_integer(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", dtype="I32")
    config = json.loads((folder / "config.json").read_text())
    for stated, times in (({"bits": 2}, 16), ({"load_in_4bit": True}, 8), ({"g": {"num_bits": 8}}, 4)):
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": stated}))
        assert describe(folder).parameters == 36 * times


def test_one_part_of_a_split_gguf_is_not_taken_for_the_model(tmp_path: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", split_max_tensors=1)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.ones((32, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part = next(tmp_path.glob("big-00001-of-*.gguf"))
    with pytest.raises(WeightsError, match="one of 2 parts") as caught:
        describe(part)
    assert "merge" in str(caught.value.hint)


def test_a_whole_file_beside_an_index_of_others_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert variant_files(folder)
    (folder / "model.safetensors").write_bytes((folder / "model-00001-of-00001.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="not clear which are the weights"):
        variant_files(folder)
