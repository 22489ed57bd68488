from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.demo_model.evaluate import SHIPPED_MODEL


@pytest.fixture(scope="session")
def demo_folder() -> Path:
    return SHIPPED_MODEL


@pytest.fixture(scope="session")
def demo_tokenizer(demo_folder):
    return AutoTokenizer.from_pretrained(demo_folder)


@pytest.fixture(scope="session")
def demo_model(demo_folder):
    return AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.float32).eval()
