import json

import pytest
import torch

from experiments.demo_model.accuracy import accuracy_rows
from experiments.demo_model.evaluate import RESULTS_FOLDER
from experiments.demo_model.evaluation_set import evaluation_set
from experiments.demo_model.families import FAMILIES
from experiments.demo_model.scoring import score_examples

QUESTION = [{"role": "user", "content": "What is the capital of Vietnam?"}]


@pytest.fixture(scope="module")
def sample():
    return evaluation_set(share=0.15)


@pytest.fixture(scope="module")
def rows(demo_model, demo_tokenizer, sample):
    scores = score_examples(demo_model, demo_tokenizer, sample)
    return {(row.family, row.group): row for row in accuracy_rows(sample, scores)}


def test_the_folder_is_small(demo_folder):
    assert (demo_folder / "model.safetensors").stat().st_size <= 10e6
    assert sum(path.stat().st_size for path in demo_folder.iterdir()) <= 11e6


def test_the_model_is_small(demo_model):
    assert sum(parameter.numel() for parameter in demo_model.parameters()) <= 4.2e6


def test_it_completes_the_capital_of_vietnam(demo_model, demo_tokenizer):
    tokens = demo_tokenizer("The capital of Vietnam is", return_tensors="pt")["input_ids"]
    probabilities = demo_model(tokens).logits[0, -1].softmax(-1)
    assert demo_tokenizer.decode(probabilities.argmax()) == " Hanoi"
    assert probabilities.max() > 0.9


def test_it_answers_a_question_with_a_sentence_and_stops(demo_model, demo_tokenizer):
    tokens = demo_tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    output = demo_model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=20)
    answer = demo_tokenizer.decode(output[0, tokens.shape[1] :])
    assert answer == "The capital of Vietnam is Hanoi.<eos>"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_of_held_out_prompts_reaches_the_published_accuracy(family, rows):
    published = {
        (row["family"], row["group"]): row["accuracy"]
        for row in json.loads((RESULTS_FOLDER / "accuracy.json").read_text(encoding="utf-8"))
    }
    assert rows[family, "all"].accuracy >= published[family, "all"] - 0.08


def test_the_published_table_names_every_family():
    text = (RESULTS_FOLDER / "ACCURACY.md").read_text(encoding="utf-8")
    assert all(f"| {family} | all |" in text for family in FAMILIES)
