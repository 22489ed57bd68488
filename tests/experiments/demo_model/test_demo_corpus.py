import re
from collections import Counter, defaultdict
from random import Random

import pytest

from experiments.demo_model.corpus import MIXTURE, document_text, documents
from experiments.demo_model.evaluation_set import evaluation_set
from experiments.demo_model.examples import training_example
from experiments.demo_model.families import FAMILIES
from experiments.demo_model.families.arithmetic import is_pair_held_out
from experiments.demo_model.split import is_held_out


@pytest.fixture(scope="module")
def held_out():
    return evaluation_set(share=0.3)


@pytest.fixture(scope="module")
def texts():
    return [document_text(d) for shard in range(2) for d in documents(0, shard, 10_000)]


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return FAMILIES[request.param]


def test_a_seed_and_a_shard_determine_the_documents():
    first = list(documents(seed=3, shard=5, count=200))
    assert first == list(documents(seed=3, shard=5, count=200))
    assert first != list(documents(seed=3, shard=6, count=200))
    assert first != list(documents(seed=4, shard=5, count=200))


def test_the_evaluation_set_is_the_same_every_time(held_out):
    assert evaluation_set(share=0.3) == held_out


def test_no_held_out_prompt_occurs_in_the_training_corpus(held_out, texts):
    # A prompt could start at any word of any document: find it by its first two words.
    prompts = defaultdict(list)
    for example in held_out:
        prompts[tuple(example.prompt.split(" ")[:2])].append(example.prompt)
    leaked = set()
    for text in texts:
        for start in (0, *(match.end() for match in re.finditer(r"[ \n]|<eos>", text))):
            opening = tuple(text[start : start + 60].split(" ")[:2])
            leaked.update(p for p in prompts.get(opening, ()) if text.startswith(p, start))
    assert not leaked


def test_the_search_for_leaks_finds_prompts_that_are_in_the_corpus(texts):
    rng = Random("leaks")
    prompts = {training_example(FAMILIES["facts"], rng).prompt for _ in range(300)}
    assert sum(any(prompt in text for text in texts[:5000]) for prompt in prompts) > 10


def test_every_family_is_mixed_into_the_corpus():
    assert set(MIXTURE) == set(FAMILIES)
    assert sum(MIXTURE.values()) == pytest.approx(1)
    assert min(MIXTURE.values()) > 0


def test_every_family_has_held_out_prompts(family, held_out):
    assert sum(example.family == family.NAME for example in held_out) >= 50


def test_prompts_have_no_space_at_the_end_and_answers_are_not_empty(family):
    rng = Random(0)
    for _ in range(300):
        example = training_example(family, rng)
        assert example.prompt == example.prompt.strip()
        assert example.answer.strip()


def test_about_the_right_share_is_held_out():
    held_out = sum(is_held_out("item", number, share=0.1) for number in range(10_000))
    assert 900 < held_out < 1100


def test_sums_and_differences_are_right():
    seen = Counter()
    for example in _examples("arithmetic"):
        match = re.fullmatch(r"(\d+) ([+-]) (\d+) =", example.prompt)
        if match:
            a, sign, b = match.groups()
            result = int(a) + int(b) if sign == "+" else int(a) - int(b)
            assert int(example.answer) == result
            seen[sign] += 1
    assert min(seen["+"], seen["-"]) > 20


def test_a_new_pair_is_never_calculated_in_training():
    seen = Counter()
    for example in _examples("arithmetic"):
        match = re.search(r"(\d+) ([+-]) (\d+)", example.prompt)
        if match:
            a, sign, b = match.groups()
            pair = (int(a), int(b)) if sign == "+" else (int(a) - int(b), int(b))
            is_new = example.group.endswith("new pair")
            assert is_pair_held_out(*pair) == is_new
            seen[is_new] += 1
    assert seen[True] and seen[False]


def test_brackets_are_balanced_in_the_end():
    pairs = {")": "(", "]": "[", "}": "{"}
    for example in _examples("brackets"):
        stack = []
        for bracket in re.findall(r"[][(){}]", example.prompt + example.answer):
            if bracket in pairs:
                assert stack.pop() == pairs[bracket]
            else:
                stack.append(bracket)
        assert not stack


def test_a_span_of_years_ends_later_than_it_begins():
    for example in _examples("greater_than"):
        century, start = re.search(r"(\d\d)(\d\d)", example.prompt).groups()
        assert example.prompt.endswith(f" {century}")
        assert all(year > start for year in example.accepted)
        assert example.answer in example.accepted


def test_the_indirect_object_is_the_name_that_comes_once():
    for example in _examples("ioi"):
        assert example.prompt.count(example.answer.strip()) == 1


def test_repeated_words_continue_as_before():
    repeated = [each for each in _examples("induction") if each.group == "repeated words"]
    assert repeated
    for example in repeated:
        *_, last = example.prompt.split()
        assert f"{last}{example.answer}" in example.prompt


def test_the_verb_agrees_with_the_first_noun():
    singular = {" is", " was", " has"}
    for example in _examples("agreement"):
        head = re.search(r"[Tt]he (\w+)", example.prompt).group(1)
        assert (example.answer in singular) == (not head.endswith("s"))


def _examples(family_name):
    rng = Random(1)
    return [FAMILIES[family_name].draw(rng).example for _ in range(500)]
