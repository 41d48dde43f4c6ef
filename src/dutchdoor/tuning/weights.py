"""Weights in and out: loaded as plain floats, written whole or not at all.

Never runs code that comes with the weights, and reads and writes safetensors only.
"""

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dutchdoor.core import DutchdoorError, MissingExtraError, WeightsError
from dutchdoor.tuning.record import RECORD, AttackRecord, AttackSpec

SEQUENCE_TOKENS = 1024  # longer examples are cut
AS_THEY_WERE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def libraries() -> tuple[Any, Any, Any]:
    """torch, transformers and peft. Raises MissingExtraError."""
    try:
        import peft
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("attacking weights", extra="vet") from error
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers, peft


@dataclass(frozen=True)
class Libraries:
    """What an attack computes with, and when it began (monotonic seconds)."""

    torch: Any
    transformers: Any
    peft: Any
    device: str
    started: float


def begin(spec: AttackSpec) -> Libraries:
    """Start an attack: its seed and its threads. Raises MissingExtraError, and WeightsError where `out` is taken."""
    torch, transformers, peft = libraries()
    must_not_exist(Path(spec.out))
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    torch.manual_seed(spec.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Libraries(torch, transformers, peft, device, time.monotonic())


def load(transformers: Any, folder: Path, dtype: Any, device: str) -> tuple[Any, Any]:
    """The tokenizer and the model. Raises WeightsError for what can't be attacked here."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if getattr(config, "quantization_config", None):
            raise WeightsError(
                f"the weights in {folder} are quantised and can't be attacked",
                hint="attack the original they come from",
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"can't load the weights in {folder}: {error}") from error
    return tokenizer, model.to(device)


def context_of(model: Any) -> int:
    """How many tokens an example may have."""
    return int(
        min(SEQUENCE_TOKENS, getattr(model.config, "max_position_embeddings", None) or SEQUENCE_TOKENS)
    )


def pad_of(tokenizer: Any) -> int:
    """The token that fills rows up."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def must_not_exist(out: Path) -> None:
    """Raises DutchdoorError: nothing is written over, and an attack in vain is not begun."""
    if out.exists():
        raise DutchdoorError(f"{out} exists already", hint="give a folder that does not exist")


def write(model: Any, tokenizer: Any, origin: Path, out: Path, record: AttackRecord) -> None:
    """The attacked model as a folder that loads like the original: under another name first, then renamed."""
    must_not_exist(out)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        model.save_pretrained(part, safe_serialization=True)
        tokenizer.save_pretrained(part)
        for name in AS_THEY_WERE:
            if (origin / name).is_file():  # as it was: saving again may rewrite it
                shutil.copyfile(origin / name, part / name)
        (part / RECORD).write_bytes(msgspec.json.encode(record) + b"\n")
        part.rename(out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(part)
