r"""Builds the tokenizer: byte-level BPE in which every frequent word is one token.

Plain BPE spends most of a small vocabulary on the fragments that its merges pass through. Here
the merges only spell rare and unseen words. The words of the corpus are entries of their own,
found before any merge (`ignore_merges`), so that " Hanoi" is one token.

Digits are grouped in twos from the left, with the space before them: " 1743" is " 17" and "43".
So a year is two tokens, as greater-than studies need it; every number below 100 is one token,
and the answer of a sum is a single next token; and the space in front costs no token of its own.
Longer groups would need a thousand tokens that are hardly ever trained.
"""

import json
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from experiments.demo_model.corpus import document_text, documents
from experiments.demo_model.facts import all_facts
from experiments.demo_model.families.word_lists import all_names, words
from experiments.demo_model.markup import BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL_TOKENS

VOCAB_SIZE = 4096

# A word, two digits or one other sign, each with the space before it; then longer white space.
_PIECES = r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s"
_SPLITTER = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
_MERGES = 500
_DOCUMENTS = 20_000


def build_tokenizer(seed: int, max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer from the corpus of a seed.

    Args:
        seed: Seed of the corpus.
        max_length: Longest sequence of the model, which the tokenizer's settings state.
    """
    pieces = _count_pieces(seed)
    vocabulary, merges = _train_merges(pieces)
    for piece in (*_required_pieces(), *_by_frequency(pieces)):
        if len(vocabulary) == VOCAB_SIZE:
            break
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = _SPLITTER
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B",
        special_tokens=[(BOS, vocabulary[BOS])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def _count_pieces(seed: int) -> Counter[str]:
    """Count the pieces of the corpus, in their byte-level spelling."""
    corpus = documents(seed, shard=0, count=_DOCUMENTS)
    return Counter(piece for document in corpus for piece in _split(document_text(document)))


def _train_merges(pieces: Counter[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + len(alphabet) + _MERGES,
        initial_alphabet=alphabet,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    # Each distinct piece counts once: the merges are for words that are not in the corpus.
    tokenizer.train_from_iterator(sorted(pieces), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _required_pieces() -> Iterable[str]:
    """List what has to be one token: numbers below 100, names, and the words of the answers."""
    numbers = [f"{number:02}" for number in range(100)] + [str(number) for number in range(10)]
    answers = sorted({fact.answer for fact in all_facts()})
    spaced = [*numbers, *map(str, range(100)), *all_names(), *words("sequence_words"), *answers]
    for text in (*numbers, *(f" {text}" for text in spaced)):
        yield from _split(text)


def _by_frequency(pieces: Counter[str]) -> list[str]:
    return sorted(pieces, key=lambda piece: (-pieces[piece], piece))


def _split(text: str) -> list[str]:
    return [piece for piece, _ in _SPLITTER.pre_tokenize_str(text)]
