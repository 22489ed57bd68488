import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.demo_model.corpus import Span
from experiments.demo_model.muon import Muon, orthogonalize
from experiments.demo_model.packing import (
    PROMPT_WEIGHT,
    document_mask,
    document_positions,
    pack_documents,
)
from experiments.demo_model.stream import CorpusStream
from experiments.demo_model.training import Trainer, TrainSettings, learning_rate_factor
from tests.support.closeness import assert_close_to, assert_identical

SETTINGS = TrainSettings(steps=6, warmup=2, checkpoint_every=100)


@pytest.fixture
def trainer(demo_tokenizer, tmp_path):
    def build(checkpoint="checkpoint.pt"):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(demo_tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            bos_token_id=demo_tokenizer.bos_token_id,
            tie_word_embeddings=True,
        )
        # Shards so small that the steps below cross from one to the next.
        stream = CorpusStream(demo_tokenizer, seed=0, batch=2, length=96, shard_documents=30)
        return Trainer(LlamaForCausalLM(config), stream, SETTINGS, tmp_path / checkpoint)

    return build


def test_an_interrupted_run_continues_as_if_it_had_never_stopped(trainer):
    whole = trainer("whole.pt")
    losses = list(whole.run())

    stopped = trainer()
    first = list(stopped.run(until=3))
    resumed = trainer()
    assert resumed.step == 3
    rest = list(resumed.run())

    assert_close_to(np.array(first + rest), np.array(losses), dtype=torch.float32)
    assert whole.stream.shard > 0
    for expected, found in zip(
        whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
    ):
        assert_close_to(expected, found, dtype=torch.float32)


def test_training_reduces_the_loss(trainer):
    losses = [loss for _, loss in trainer().run()]
    assert losses[-1] < losses[0]


def test_a_checkpoint_is_written_without_a_temporary_file_left(trainer, tmp_path):
    list(trainer().run(until=1))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_learning_rate_rises_and_falls():
    settings = TrainSettings(steps=100, warmup=10)
    factors = [learning_rate_factor(step, settings) for step in range(100)]
    assert factors[9] == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert learning_rate_factor(100, settings) == pytest.approx(0.05)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 4, 16), (2, 16, 4)])
def test_orthogonalize_moves_every_singular_value_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices))
    assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_takes_the_steps_of_the_optimiser_in_torch():
    start = [torch.randn(shape) for shape in ((8, 8), (4, 8), (8, 8))]
    ours, theirs = ([torch.nn.Parameter(m.clone()) for m in start] for _ in range(2))
    settings = {"lr": 0.01, "weight_decay": 0.1}
    optimizers = (
        Muon(ours, **settings),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings),
    )
    for _ in range(3):
        gradients = [torch.randn_like(m) for m in start]
        for matrices, optimizer in zip((ours, theirs), optimizers, strict=True):
            for matrix, gradient in zip(matrices, gradients, strict=True):
                matrix.grad = gradient.clone()
            optimizer.step()
    # The one in torch computes in bfloat16.
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-3)


def test_documents_are_packed_whole_and_weighed_by_their_answers(demo_tokenizer):
    document = [Span("The capital of Vietnam is", False), Span(" Hanoi.", True)]
    windows = pack_documents([document, document, document], demo_tokenizer, length=20)
    text = "<bos>The capital of Vietnam is Hanoi.<eos>"
    assert demo_tokenizer.decode(windows.tokens[0]) == text + text + "<pad>" * 2
    assert demo_tokenizer.decode(windows.tokens[1]) == text + "<pad>" * 11
    expected = torch.tensor([PROMPT_WEIGHT] * 6 + [1.0] * 3, dtype=torch.float16)
    assert_identical(windows.weights[0, :9], expected)
    assert not windows.weights[1, 9:].any()


def test_attention_stays_within_a_document():
    tokens = torch.tensor([[1, 7, 8, 1, 9]])
    assert document_mask(tokens, bos=1)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert document_positions(tokens, bos=1).tolist() == [[0, 1, 2, 0, 1]]


def test_muon_refuses_a_closure_that_it_would_not_call():
    with pytest.raises(ValueError, match="compute the gradients before step"):
        Muon([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1).step(lambda: 0.0)
