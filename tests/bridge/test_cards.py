from __future__ import annotations

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from llm_bridge.evaluation.cards import LIMITS, Card, write_card

CARD = Card(
    name="tiny-dpo",
    base="org/base-1b",
    method="Trained by DPO on 768 comparisons.",
    eta=0.5,
    loss="DPO(beta=0.5)",
    data={"comparisons": 768, "prompts": "train: half"},
    settings={"reference": "fixed", "learning_rate": 3e-4},
    metrics=pd.DataFrame(
        {"metric": ["fresh_gold"], "mean": [1.25], "lower": [1.0], "upper": [1.5]}
    ),
    metrics_note="On 96 held-out prompts.",
    parent="abc123",
    limits=("One seed.",),
)


def test_the_front_matter_is_what_the_hub_reads():
    card = ModelCard(CARD.text())
    assert card.data.to_dict() == {
        "base_model": "org/base-1b",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "preference-learning", "rlhf-theory"],
    }


def test_everything_that_is_known_is_said():
    text = CARD.text()
    for line in (
        "# tiny-dpo",
        "Trained by DPO on 768 comparisons.",
        "* Base: org/base-1b",
        "* Weights of the base: abc123",
        "* Loss: DPO(beta=0.5)",
        "* η, weight of KL(π‖π0): 0.5",
        "* comparisons: 768",
        "* reference: fixed",
        "* learning_rate: 3·10⁻⁴",
        "| fresh_gold | 1.25 | 1 to 1.5 |",
        "On 96 held-out prompts.",
        "* One seed.",
        *(f"* {limit}" for limit in LIMITS),
    ):
        assert line in text.splitlines()


def test_a_folder_is_no_base_on_the_hub(tmp_path):
    local = Card(
        name="m", base=str(tmp_path / "model"), method="Trained.", kind="text-classification"
    )
    front = yaml.safe_load(local.text().split("---")[1])
    assert "base_model" not in front
    assert front["pipeline_tag"] == "text-classification"
    assert "η" not in local.text()
    assert "## Data" not in local.text()
    assert "Loss" not in local.text()


def test_a_card_is_written_beside_the_weights(tmp_path):
    path = write_card(tmp_path, CARD)
    assert path == tmp_path / "README.md"
    assert path.read_text() == CARD.text()
    with pytest.raises(ValueError, match="is no folder"):
        write_card(tmp_path / "missing", CARD)
