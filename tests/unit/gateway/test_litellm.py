"""A LiteLLM config as routes of ours: what is taken over, and what is said of the rest."""

from pathlib import Path

import pytest

from dutchdoor.core import DocumentError
from dutchdoor.gateway.routing.file import PriceRow, load_routes
from dutchdoor.gateway.routing.kinds import detect
from dutchdoor.gateway.routing.litellm import Imported, load_litellm
from dutchdoor.gateway.routing.opening import Opener
from dutchdoor.gateway.routing.writing import routes_text

STARTER = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: "os.environ/ANTHROPIC_API_KEY"
general_settings:
  master_key: sk-master-1234
  database_url: postgresql://user:secret@db/litellm
litellm_settings:
  drop_params: true
  success_callback: ["langfuse"]
"""
AZURE = """\
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://eu.openai.azure.com/
      api_key: os.environ/AZURE_KEY
      api_version: "2025-01-01-preview"
      rpm: 6
  - model_name: gpt-4o
    litellm_params:
      model: gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 60
  - model_name: sonnet
    litellm_params:
      model: bedrock/anthropic.claude-3-5-sonnet
      aws_region_name: us-east-1
"""
LOCAL = """\
model_list:
  - model_name: llama
    litellm_params:
      model: ollama_chat/llama3.2
      api_base: http://localhost:11434
      timeout: 90
    model_info:
      supports_function_calling: false
  - model_name: llama-default
    litellm_params: {model: ollama/llama3.2}
  - model_name: qwen
    litellm_params:
      model: hosted_vllm/Qwen/Qwen3-8B
      api_base: http://10.0.0.5:8000
      api_key: none-needed-1
      input_cost_per_token: 0.00000015
      output_cost_per_token: 6e-07
  - model_name: embed
    litellm_params:
      model: openai/nomic-embed
      api_base: http://10.0.0.5:9000/v1/
    model_info:
      mode: embedding
"""
BALANCED = """\
model_list:
  - model_name: fast
    litellm_params: {model: groq/llama-3.3-70b, api_key: os.environ/GROQ_API_KEY, weight: 9}
  - model_name: fast
    litellm_params: {model: openrouter/meta-llama/llama-3.3-70b-instruct, weight: 1}
  - model_name: slow
    litellm_params: {model: mistral/mistral-large-latest}
  - model_name: last
    litellm_params: {model: deepseek/deepseek-chat}
router_settings:
  routing_strategy: latency-based-routing
  num_retries: 2
  timeout: 45
  fallbacks: [{fast: [slow, last]}, {slow: [nobody]}]
  model_group_alias: {gpt-4: fast, hidden: {model: slow, hidden: true}, lost: nowhere}
  redis_host: localhost
litellm_settings:
  context_window_fallbacks: [{slow: [last]}]
  default_fallbacks: [last]
"""
ORDERED = """\
model_list:
  - model_name: chat
    litellm_params: {model: openai/b, api_base: "http://10.0.0.2:8000/v1", order: 2}
  - model_name: chat
    litellm_params: {model: openai/a, api_base: "http://10.0.0.1:8000/v1", order: 1}
"""
WILD = """\
model_list:
  - model_name: "*"
    litellm_params: {model: "*"}
  - model_name: "anthropic/*"
    litellm_params: {model: "anthropic/*", api_key: os.environ/ANTHROPIC_API_KEY}
  - model_name: xai/grok
    litellm_params: {model: xai/grok-4, api_key: os.environ/XAI_API_KEY}
  - model_name: from-env
    litellm_params: {model: openai/m, api_base: os.environ/BASE, temperature: 0.2, extra_headers: {a: b}}
"""


def imported(folder: Path, text: str, **environ: str) -> Imported:
    path = folder / "config.yaml"
    path.write_text(text)
    assert detect(path) == "litellm"
    return load_litellm(path, environ)


def reason(found: Imported, where: str) -> str:
    (why,) = [each.why for each in found.left_out if each.where == where]
    return why


def test_a_first_config_is_taken_over(tmp_path: Path) -> None:
    found = imported(tmp_path, STARTER)
    rows = found.routes.targets
    assert (rows["gpt-4o"].provider, rows["gpt-4o"].model) == ("openai", "gpt-4o")
    assert rows["gpt-4o"].key_env == "OPENAI_API_KEY"
    assert (rows["claude"].provider, rows["claude"].key_env) == ("anthropic", "ANTHROPIC_API_KEY")
    assert [plan.model for plan in found.routes.routes] == ["gpt-4o", "claude"]
    assert all(plan.unpriced for plan in found.routes.routes)
    assert "never dropped here" in reason(found, "litellm_settings.drop_params")
    assert "dutchdoor keys create" in reason(found, "general_settings.master_key")
    assert {each.where for each in found.left_out} == {
        "litellm_settings.drop_params",
        "litellm_settings.success_callback",
        "general_settings.master_key",
        "general_settings.database_url",
    }
    assert "secret" not in str(found.left_out) and "sk-master" not in str(found.left_out)


def test_what_cannot_be_reached_is_said_and_the_rest_is_served(tmp_path: Path) -> None:
    found = imported(tmp_path, AZURE)
    assert [(row.provider, row.model) for row in found.routes.targets.values()] == [("openai", "gpt-4o")]
    assert [plan.model for plan in found.routes.routes] == ["gpt-4o"]
    assert "Azure" in reason(found, "model_list[0] (gpt-4o: azure/gpt-4o-eu)")
    assert "AWS" in reason(found, "model_list[2] (sonnet: bedrock/anthropic.claude-3-5-sonnet)")
    assert "limits none" in reason(found, "model_list[1].litellm_params.rpm")
    only = AZURE.split("  - model_name: gpt-4o\n    litellm_params:\n      model: gpt-4o")[0]
    with pytest.raises(DocumentError, match=r"no model of it can be served here: .*Azure"):
        imported(tmp_path, only)


def test_local_servers_become_urls(tmp_path: Path) -> None:
    found = imported(tmp_path, LOCAL)
    rows = found.routes.targets
    assert rows["llama"].url == "http://localhost:11434/v1" and rows["llama"].timeout_s == 90
    assert rows["llama"].can == {"tools": False}
    assert rows["llama-default"].provider == "ollama"
    assert (rows["qwen"].url, rows["qwen"].model) == ("http://10.0.0.5:8000/v1", "Qwen/Qwen3-8B")
    assert rows["qwen"].price == PriceRow(input=0.15, output=0.6)
    assert rows["embed"].url == "http://10.0.0.5:9000/v1" and rows["embed"].can["embeddings"] is True
    assert rows["embed"].can["chat"] is False
    assert found.routes.keys == {"qwen": "none-needed-1"} and rows["qwen"].key_env is None
    assert found.open_keys == ("model_list[2].litellm_params.api_key",)
    assert "none-needed-1" not in f"{found}{found.routes}"


def test_weights_fallbacks_and_aliases_become_routes(tmp_path: Path) -> None:
    found = imported(tmp_path, BALANCED)
    plans = {plan.model: plan for plan in found.routes.routes}
    assert plans["fast"].to == ("fast-1", "fast-2", "slow", "last")
    assert plans["fast"].weights == (9.0, 1.0, 0.0, 0.0)
    assert plans["slow"].to == ("slow",) and plans["slow"].weights is None
    assert plans["last"].to == ("last",)
    assert plans["gpt-4"].to == plans["fast"].to and plans["hidden"].to == ("slow",)
    assert all((plan.retries, plan.deadline_s) == (2, 45.0) for plan in plans.values())
    assert "nobody" in reason(found, "router_settings.fallbacks[1].slow")
    assert "nowhere" in reason(found, "router_settings.model_group_alias.lost")
    assert "drawn by weight" in reason(found, "router_settings.routing_strategy")
    assert "passed over" in reason(found, "litellm_settings.context_window_fallbacks")
    assert reason(found, "router_settings.redis_host")


def test_default_fallbacks_stand_behind_all_that_have_none(tmp_path: Path) -> None:
    found = imported(tmp_path, BALANCED.replace("{fast: [slow, last]}, {slow: [nobody]}", ""))
    plans = {plan.model: plan.to for plan in found.routes.routes}
    assert plans["slow"] == ("slow", "last") and plans["last"] == ("last",)


def test_an_order_goes_before_weights(tmp_path: Path) -> None:
    found = imported(tmp_path, ORDERED)
    (plan,) = found.routes.routes
    assert [found.routes.targets[name].model for name in plan.to] == ["a", "b"] and plan.weights is None


def test_wildcards_and_unknown_places_are_said(tmp_path: Path) -> None:
    found = imported(tmp_path, WILD, BASE="http://10.0.0.9:1/v1")
    assert list(found.routes.targets) == ["from-env"]
    assert found.routes.targets["from-env"].url == "http://10.0.0.9:1/v1"
    assert "stands for many models" in reason(found, "model_list[0] (*)")
    assert "stands for many models" in reason(found, "model_list[1] (anthropic/*)")
    assert "give its api_base" in reason(found, "model_list[2] (xai/grok: xai/grok-4)")
    assert "nothing is added" in reason(found, "model_list[3].litellm_params.temperature")
    assert "nothing is added" in reason(found, "model_list[3].litellm_params.extra_headers")
    with pytest.raises(DocumentError, match="no model of it"):
        imported(tmp_path, WILD)  # BASE is not set


@pytest.mark.parametrize("text", [STARTER, AZURE, LOCAL, BALANCED, ORDERED])
async def test_the_written_file_says_the_same(tmp_path: Path, text: str) -> None:
    found = imported(tmp_path, text)
    path = tmp_path / "routes.yaml"
    path.write_text(routes_text(found.routes, [f"{each.where}: {each.why}" for each in found.left_out]))
    again = load_routes(path)
    assert again.routes == found.routes.routes
    assert list(again.targets) == list(found.routes.targets)
    for name, row in again.targets.items():
        assert row.key_env == ("QWEN_KEY" if name == "qwen" else found.routes.targets[name].key_env)
    assert "none-needed-1" not in path.read_text() and detect(path) == "routes"


async def test_it_can_be_served(tmp_path: Path) -> None:
    built = await Opener(tmp_path / "data").build(imported(tmp_path, LOCAL).routes)
    assert list(built.routes) == ["llama", "llama-default", "qwen", "embed"]
    assert built.routes["llama"].unpriced


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("kind: dutchdoor/routes@1\n: broken", "routes"),
        ("# family\nkind: 'dutchdoor/family@1'\n", "family"),
        ('{"kind": "dutchdoor/routes@1"}', "routes"),
        ('{"model_list": []}', "litellm"),
        ("a: 1", None),
        ("", None),
        ("[}", None),
    ],
)
def test_what_a_file_is_is_told_by_what_is_in_it(tmp_path: Path, text: str, kind: str | None) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert detect(path) == kind


@pytest.mark.parametrize(
    "text",
    [
        "model_list: 3",
        "model_list: [{}]",
        "model_list: [",
        "model_list: [{model_name: a, litellm_params: {}}]",
    ],
)
def test_what_is_no_config_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DocumentError, match=r"config\.yaml"):
        load_litellm(tmp_path / "config.yaml", {})


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = """\
x: &common
  api_base: http://10.0.0.1:8000/v1
model_list:
  - model_name: a
    litellm_params: {<<: *common, model: openai/a}
"""
    found = imported(tmp_path, text)
    assert found.routes.targets["a"].url == "http://10.0.0.1:8000/v1"
    assert [each.where for each in found.left_out] == ["x"]
