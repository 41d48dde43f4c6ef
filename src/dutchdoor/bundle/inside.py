"""What a closed component without a path means: where in a model folder or GGUF it lies, if anywhere.

Weights leave whole, so a part of them can only be held back with all of them. Refuses to pack where a closed
component would leave inside open weights, or where nobody can tell whether it would.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dutchdoor.bundle.layout import CARD
from dutchdoor.core import BundleError
from dutchdoor.family.gguf_header import read_gguf
from dutchdoor.family.load import LoadedFamily
from dutchdoor.family.manifest import Member
from dutchdoor.family.weights import read_json
from dutchdoor.policy.decision import ComponentDecision, Decision

WEIGHTS_KIND = "model-parameters-final"
# the files of a model folder that are such a component and nothing else; `*` stands for any name
FILES = {
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"),
    "chat-template": ("chat_template.jinja", "chat_template.json", "chat_templates/*.jinja"),
    "model-card": (CARD,),
}
# settings that may hold a template as well (transformers writes it there)
TEMPLATED = ("tokenizer_config.json", "processor_config.json")
# keys of a GGUF's metadata, by how they begin (github.com/ggml-org/ggml/blob/master/docs/gguf.md)
KEYS = {
    "tokenizer": ("tokenizer.ggml.", "tokenizer.huggingface."),
    "chat-template": ("tokenizer.chat_template",),
}
# what may lie among a model's weights, configuration, templates and card; every other kind (data, code, papers,
# results, earlier checkpoints) lies elsewhere, and without a path of its own no bundle takes it up
WITH_WEIGHTS = frozenset(
    {
        WEIGHTS_KIND,
        "model-architecture",
        "model-metadata",
        "model-card",
        "tokenizer",
        "chat-template",
        "alignment-adapter",
        "safety-tooling",
        "system-prompt",
    }
)


def files_inside(loaded: LoadedFamily, members: Sequence[Member], kind: str) -> Iterator[tuple[str, Path]]:
    """The files that are the component of this kind in the members' model folders, each by a name of its own."""
    for member in members:
        for variant in member.variants:
            path = loaded.weights_path(member.name, variant.id)
            if path is None:
                continue
            home = path.parent if path.is_file() and kind == "model-card" else path
            for pattern in FILES.get(kind, ()) if home.is_dir() else ():
                for found in sorted(home.glob(pattern)):
                    if found.is_file():
                        name = f"{member.name}/{variant.id}/{found.relative_to(home).as_posix()}"
                        yield name, found.resolve()


def require_placed(loaded: LoadedFamily, decision: Decision, opened: Sequence[Member]) -> None:
    """Raises BundleError where a closed component without a path leaves with open weights, or might.

    The rule, for each closed component without a path, of an open member or of the family: `model-parameters-final`
    are the weights themselves, and can't be closed while they leave. A tokenizer or template is looked for in
    the model folder's files (the leak check then finds them in the bundle), its settings and a GGUF's header;
    a card is the folder's README.md, which stays behind; a prompt and a guard are what `serve` names. Any
    other kind that can lie in a model folder needs a path. Kinds that lie elsewhere (data, code, papers,
    results, earlier checkpoints) need none.
    """
    for decided in decision.components:
        if decided.open or decided.path is not None or decided.kind not in WITH_WEIGHTS:
            continue
        whose = [member for member in opened if decided.member in (None, member.name)]
        if whose:  # else it is of a closed member, and closed with its weights
            _require_placed(loaded, decided, whose)


def _require_placed(loaded: LoadedFamily, decided: ComponentDecision, opened: Sequence[Member]) -> None:
    owner = decided.member or "the family"
    if decided.kind == WEIGHTS_KIND:
        raise BundleError(
            f"{decided.kind} of {owner} is closed, but the weights of {opened[0].name} would leave",
            hint=f"close the download instead: `intent: {{download: false}}` on {opened[0].name}",
        )
    for member in opened:
        for place in _embedded(loaded, member, decided.kind):
            raise BundleError(
                f"{decided.kind} of {owner} is closed, but it lies in {place}, which would leave with {member.name}",
                hint=f"take it out of that file, or close the download: `intent: {{download: false}}` on {member.name}",
            )
    served = {
        "system-prompt": [member.serve.system_prompt for member in opened],
        "safety-tooling": [member.serve.guard for member in opened],
    }
    if any(served.get(decided.kind, ())) or any(files_inside(loaded, opened, decided.kind)):
        return
    raise BundleError(
        f"{decided.kind} of {owner} is closed, but nothing says where it lies, so it might leave with the weights",
        hint="give its `path:` in family.yaml; take the row out if there is no such file",
    )


def _embedded(loaded: LoadedFamily, member: Member, kind: str) -> Iterator[str]:
    """Where a member's weights hold a component of this kind inside a file that is more than it."""
    for variant in member.variants:
        path = loaded.weights_path(member.name, variant.id)
        if path is None:
            continue
        if path.is_file():
            header = read_gguf(path)
            for key in (*header.metadata, *header.lengths):
                if key.startswith(KEYS.get(kind, ())):
                    yield f"{path} ({key})"
        elif kind == "chat-template":
            for name in TEMPLATED:
                if (path / name).is_file() and read_json(path / name).get("chat_template"):
                    yield f"{path / name} (chat_template)"
