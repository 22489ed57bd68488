"""From texts to the windows that are measured, without the model's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from iglens_tl.corpus.kinds import kinds_of
from iglens_tl.corpus.measurement import Measurement
from iglens_tl.corpus.sources import Entry
from iglens_tl.corpus.windows import Window, windows_of
from iglens_tl.prompts import Request, TokenizingModel, encode_prompt, token_string


@dataclass(frozen=True)
class Piece:
    """A window of a text that is to be measured.

    Attributes:
        entry: The text, without its content.
        window: The window.
        kinds: The kind of every token of the text.
    """

    entry: Entry
    window: Window
    kinds: Sequence[str] = field(repr=False)

    @property
    def request(self) -> Request:
        """What is read in the window."""
        targets = self.window.targets
        ids = self.window.ids
        return Request(ids, tuple(targets), tuple(ids[place + 1] for place in targets))


@dataclass(frozen=True)
class Prepared:
    """Texts that are ready to be measured.

    Attributes:
        pieces: Their windows, in order.
        rejected: The texts that cannot be measured and why, by their numbers.
    """

    pieces: Sequence[Piece]
    rejected: Mapping[int, tuple[Entry, str]]


class Preparer:
    """Tokenises texts and cuts them into windows.

    Attributes:
        adapter: The model, or what of it texts are tokenised with.
        measurement: What is measured.
    """

    def __init__(self, adapter: TokenizingModel, measurement: Measurement) -> None:
        self.adapter, self.measurement = adapter, measurement
        self.length = measurement.length(adapter)
        self._special = frozenset(getattr(adapter.tokenizer, "all_special_ids", ()))
        self._bos = getattr(adapter.tokenizer, "bos_token_id", None)

    def __call__(self, entries: Iterable[Entry]) -> Prepared:
        """Prepare some texts."""
        pieces: list[Piece] = []
        rejected: dict[int, tuple[Entry, str]] = {}
        for entry in entries:
            # What was read is the larger part of what would be kept, or sent to another process.
            known = replace(entry, content=None)
            try:
                pieces += self._pieces(entry, known)
            # Whatever a tokenizer or a chat template raises concerns this text alone.
            except Exception as error:
                rejected[entry.text] = (known, in_one_line(error))
        return Prepared(pieces, rejected)

    def _pieces(self, entry: Entry, known: Entry) -> list[Piece]:
        if entry.content is None or entry.content == "" or entry.content == []:
            raise ValueError("it is empty")
        options = self.measurement
        prompt = encode_prompt(self.adapter, entry.content, prepend_bos=options.prepend_bos)
        ids = prompt.ids
        if len(ids) < 2:
            raise ValueError("it is a single token, which has no next one")
        if len(ids) > self.length and options.long == "reject":
            raise ValueError(f"it has {len(ids)} tokens, more than {self.length}")
        if len(ids) > self.length and options.long == "truncate":
            ids = ids[: self.length]
        kinds = kinds_of([token_string(self.adapter, token) for token in ids], ids, self._special)
        windows = windows_of(
            ids,
            length=self.length,
            overlap=options.steps_back(self.length),
            has_bos=ids[0] == self._bos,
        )
        return [Piece(known, window, kinds) for window in windows]


def in_one_line(error: Exception) -> str:
    """Return what an error says without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
