"""The words of the planted models, and a tokenizer that knows one token for each."""

from __future__ import annotations

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Norway": "Oslo",
}
"""The facts that the models know: country and capital."""

UNSURE = "unsure"
"""What a model answers as long as no layer has written an answer."""

BOS = "<s>"
ASKING = "in"
"""The word after which a capital is asked for that stands earlier in the text."""

_VERBS = ("has", "name", "saw", "stayed", "tell")
_OTHERS = ("and", "capital", "city", "its", "of", "please", "the", "they")
WORDS = (
    "<pad>",
    BOS,
    "</s>",
    "<unk>",
    UNSURE,
    ASKING,
    *CAPITALS,
    *CAPITALS.values(),
    *_VERBS,
    *_OTHERS,
)
"""The vocabulary; a word's place is its token id."""

COUNTRY_PROMPT = "please name the capital of {country}"
COPY_PROMPT = "they saw {capital} and stayed in"
RELAY_PROMPT = "{country} has its capital in"


def reference_texts() -> list[str]:
    """Return texts of the models' own words, for averages: every prompt of every fact."""
    prompts = (COUNTRY_PROMPT, COPY_PROMPT, RELAY_PROMPT)
    facts = CAPITALS.items()
    return [
        p.format(country=country, capital=capital) for p in prompts for country, capital in facts
    ]


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Build a tokenizer with one token for each word, which puts `BOS` first."""
    ids = {word: token for token, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
