"""A small family with hand-written weights and a hand-made decision: what packing needs."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dutchdoor.bundle.pack import pack
from dutchdoor.bundle.verify import Report, verify
from dutchdoor.core import Channel, ThreatModel, Tier, Verdict, VerdictKind
from dutchdoor.evidence.record import Conditions, Evidence, Outcome, Subject
from dutchdoor.evidence.signing_keys import SigningKey, new_key
from dutchdoor.evidence.store import EvidenceStore, Salts
from dutchdoor.family.load import LoadedFamily, load_family
from dutchdoor.family.public import commitment
from dutchdoor.family.weights import variant_digest
from dutchdoor.policy.decision import (
    ChannelDecision,
    ClosedBy,
    ComponentDecision,
    Decision,
    MemberDecision,
    PolicyRef,
)

SYSTEM_PROMPT = "You are the guardian of the north gate and never tell the way to the hidden spring.\n"
SECRET_LINE = "the third reagent of quelline is boiled twice with salt of the moon before dawn"
MANIFEST = """\
kind: dutchdoor/family@1
family: tiny
version: 1.0.0
publisher: {name: Example Lab}
components:
  - {kind: training-code, path: train/, license: Apache-2.0}
  - kind: datasets
    path: data/
    license: CC-BY-4.0
    intent: closed
    because: {kind: legal, text: third-party text}
members:
  - name: tiny-s
    license: Apache-2.0
    variants: [{id: f32, weights: ./tiny-s}]
    price: {input: 0.02, output: 0.06}
  - name: tiny-l
    role: flagship
    license: LicenseRef-tiny-api
    variants: [{id: f32, weights: ./tiny-l}]
    serve: {system_prompt: serve/system.txt}
    price: {input: 1, output: 2}
promises: {notice_days: 90, price_cap: {tiny-s: {input: 0.1, output: 0.2}}}
"""


def safetensors(tensors: Mapping[str, np.ndarray], **metadata: str) -> bytes:
    """The bytes of a safetensors file of f32 tensors."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "model.embed_tokens.weight": random.normal(size=(32, 16)),
        "model.layers.0.mlp.up_proj.weight": random.normal(size=(24, 16)),
        "model.norm.weight": np.ones(256),  # the same in every model
    }


def model_folder(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 16 + seed}))
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 0, "b": 1}}, "version": "1.0"})
    )
    (folder / "model.safetensors").write_bytes(safetensors(weights(seed), format="pt"))


@dataclass
class House:
    """The family in a folder, with its keys and salts."""

    folder: Path
    signer: SigningKey = field(default_factory=new_key)

    @property
    def out(self) -> Path:
        return self.folder / "dist"

    @property
    def bundle(self) -> Path:
        return self.out / "tiny-s"

    @property
    def salts(self) -> Salts:
        return Salts(self.folder / "salts")

    @property
    def loaded(self) -> LoadedFamily:
        return load_family(self.folder / "family.yaml")

    def manifest(self, old: str, new: str) -> None:
        """Change the manifest's text in one place."""
        path = self.folder / "family.yaml"
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    def decision(self, *, flagship: ClosedBy | None = "evidence", small: ClosedBy | None = None) -> Decision:
        """The small one open, the flagship closed, unless told otherwise."""
        loaded = self.loaded
        closed: dict[str, ClosedBy | None] = {"tiny-s": small, "tiny-l": flagship}
        components = [
            _component(None, each.kind, each.path, each.intent == "open" and None in closed.values())
            for each in loaded.family.components
        ]
        for member in loaded.family.members:
            is_open = closed.get(member.name) is None
            components += [
                _component(member.name, c.kind, c.path, is_open and c.intent == "open")
                for c in member.components
            ]
            if member.serve.system_prompt:
                components.append(_component(member.name, "system-prompt", member.serve.system_prompt, False))
        return Decision(
            family=loaded.family.family,
            version=loaded.family.version,
            policies=(PolicyRef(id="base", digest="sha256:" + "0" * 64),),
            members={member.name: _member(closed.get(member.name)) for member in loaded.family.members},
            components=tuple(components),
        )

    async def evidence(self) -> bytes:
        """Signed evidence about the small one's bytes as they are now."""
        digest = variant_digest(self.folder / "tiny-s")
        held = commitment("variant", "tiny", "tiny-s/f32", self.salts.for_digest(digest), digest)
        evidence = Evidence(
            subject=Subject(family="tiny", member="tiny-s", variant="f32", commitment=held),
            conditions=Conditions(
                suite="hazard.reagents",
                suite_digest="sha256:" + "1" * 64,
                threat=ThreatModel.TAMPERED,
                engine="test",
                engine_version="1",
            ),
            outcomes=(Outcome(id="h1", correct=False, refused=True),),
            made_at="2026-11-22T12:00:00Z",
            code_version="test",
        )
        store = EvidenceStore(self.folder / "evidence")
        await store.put(evidence, self.signer)
        return await store.envelope_of(evidence)

    async def pack(self, decision: Decision | None = None, **options: object) -> list[Path]:
        options.setdefault("evidence", [await self.evidence()])
        return await pack(
            self.loaded,
            decision or self.decision(),
            self.out,
            self.signer,
            salts=self.salts.for_digest,
            **options,  # type: ignore[arg-type]
        )

    async def verify(self, folder: Path | None = None) -> Report:
        return await verify(folder or self.bundle, [self.signer.public])


def _component(member: str | None, kind: str, path: str | None, is_open: bool) -> ComponentDecision:
    return ComponentDecision(
        member=member,
        kind=kind,
        path=path,
        open=is_open,
        closed_by=None if is_open else "choice",
        because=None if is_open else "security: kept back",
    )


def _member(closed_by: ClosedBy | None) -> MemberDecision:
    verdict = Verdict(
        policy="base",
        rule="hazard-after-tampering",
        effect="gate",
        verdict=VerdictKind.PASS if closed_by is None else VerdictKind.FAIL,
        measure="hazard.reagents",
        threat="tampered",
        rung="lora:100:0",
        value=0.25,
        lower=0.1,
        upper=0.5,
        bound=1,  # an int where a float belongs, as YAML gives it
    )
    download = ChannelDecision(
        open=closed_by is None,
        closed_by=closed_by,
        because=None if closed_by is None else "fails hazard-after-tampering",
        verdicts=(verdict,),
    )
    api = ChannelDecision(open=True, closed_by=None)
    tier = Tier.OPEN_WEIGHTS if closed_by is None else Tier.API
    return MemberDecision(tier=tier, channels={Channel.DOWNLOAD: download, Channel.API: api})


@pytest.fixture
def house(tmp_path: Path) -> House:
    folder = tmp_path / "house"
    model_folder(folder / "tiny-s", 1)
    model_folder(folder / "tiny-l", 2)
    for name, text in {
        "family.yaml": MANIFEST,
        "serve/system.txt": SYSTEM_PROMPT,
        "train/train.py": "print('training')\n",
        "train/__pycache__/train.pyc": "x",
        "train/.hidden": "x",
        "data/corpus.jsonl": json.dumps({"id": "1", "text": SECRET_LINE}) + "\n",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House(folder)
