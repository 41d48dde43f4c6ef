"""What a person may write for A and B, and what it stands for.

Reads no weights and calls no one: it only tells a folder, a GGUF file, a bundle, a family's member and a URL
apart.
"""

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from dutchdoor.core import UsageError

FORMS = "a folder, a .gguf file, a bundle folder, family.yaml#MEMBER, or URL#MODEL"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An address as it was written; `text` is what the person typed."""

    text: str


class WeightsAddress(Address, frozen=True, kw_only=True):
    """A Hugging Face folder or one GGUF file."""

    path: Path

    @property
    def kind(self) -> str:
        return "folder" if self.path.is_dir() else "gguf"


class BundleAddress(Address, frozen=True, kw_only=True):
    """A folder with a dossier; it is verified before anything in it is used."""

    path: Path
    kind: str = "bundle"


class MemberAddress(Address, frozen=True, kw_only=True):
    """A member of a family, as its manifest says it is served."""

    manifest: Path
    member: str
    kind: str = "member"


class UrlAddress(Address, frozen=True, kw_only=True):
    """A model behind an OpenAI-dialect URL, among them a member of a running family."""

    url: str
    model: str
    kind: str = "url"


AnyAddress = WeightsAddress | BundleAddress | MemberAddress | UrlAddress


def parse_address(text: str) -> AnyAddress:
    """What `text` stands for. Raises UsageError with the forms that are understood."""
    if text.startswith(("http://", "https://")):
        return _url(text)
    path = Path(text).expanduser()
    if not path.exists() and "#" in text:
        return _member(text)
    if not path.exists():
        raise UsageError(f"there is no model at {text}", hint=f"give {FORMS}")
    if path.suffix in {".yaml", ".yml"}:
        raise UsageError(f"{text} names a whole family", hint=f"say which member: {text}#MEMBER")
    if path.is_dir():
        return _folder(text, path)
    if path.suffix == ".gguf":
        return WeightsAddress(text=text, path=path)
    raise UsageError(f"{text} is not a model that can be loaded", hint=f"give {FORMS}")


def _url(text: str) -> UrlAddress:
    url, _, model = text.partition("#")
    if not model:
        raise UsageError(f"{text} does not say which model", hint=f"write {url.rstrip('/')}#MODEL")
    if "@" in url.split("://", 1)[1].split("/", 1)[0]:  # it would end up in reports and logs
        raise UsageError(
            "a key or password does not belong in the URL",
            hint="name a variable: --key-env-a, --key-env-b",
        )
    base = url.rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(base)
        named = parts.hostname is not None and parts.port != 0  # reading the port checks it
    except ValueError:
        named = False
    if not named:
        raise UsageError(
            f"{url} is no address of a server", hint="for example http://127.0.0.1:8000/v1#MODEL"
        )
    if not parts.path:
        base += "/v1"  # where every server of this dialect that has no path of its own answers
    return UrlAddress(text=text, url=base, model=model)


def _member(text: str) -> MemberAddress:
    file, _, member = text.rpartition("#")
    manifest = Path(file).expanduser()
    if manifest.is_dir():
        manifest = manifest / "family.yaml"
    if not manifest.is_file():
        raise UsageError(f"there is no family manifest at {file}", hint=f"give {FORMS}")
    if not member:
        raise UsageError(f"{text} does not say which member", hint=f"write {file}#MEMBER")
    return MemberAddress(text=text, manifest=manifest, member=member)


def _folder(text: str, path: Path) -> AnyAddress:
    if (path / "dutchdoor").is_dir():  # a bundle, also without its dossier: verifying says so
        return BundleAddress(text=text, path=path)
    if (path / "config.json").is_file():
        return WeightsAddress(text=text, path=path)
    if (path / "family.yaml").is_file():
        raise UsageError(f"{text} holds a whole family", hint=f"say which member: {text}#MEMBER")
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return WeightsAddress(text=text, path=found[0])
    if found:
        raise UsageError(f"{text} holds {len(found)} GGUF files", hint=f"name one, such as {found[0]}")
    raise UsageError(f"{text} holds no model: no config.json, no .gguf, no dossier", hint=f"give {FORMS}")
