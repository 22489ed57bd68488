"""Streams batches of the endless corpus from any position."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from experiments.demo_model.corpus import documents
from experiments.demo_model.packing import Windows, pack_documents


@dataclass
class CorpusStream:
    """Generates the corpus shard by shard and hands it out in batches.

    Attributes:
        tokenizer: Encodes the documents.
        seed: Seed of the corpus.
        batch: Number of windows per batch.
        length: Number of tokens per window.
        shard_documents: Number of documents that are generated at a time.
        shard: The shard of the next batch.
        window: The next batch's first window within the shard.
    """

    tokenizer: PreTrainedTokenizerFast
    seed: int
    batch: int
    length: int
    shard_documents: int = 20_000
    shard: int = 0
    window: int = 0
    _loaded: tuple[int, Windows] | None = None

    def next_batch(self) -> Windows:
        """Return the next batch; what is left at the end of a shard is skipped."""
        windows = self._windows()
        if self.window + self.batch > len(windows.tokens):
            self.shard, self.window = self.shard + 1, 0
            windows = self._windows()
        rows = slice(self.window, self.window + self.batch)
        self.window += self.batch
        return Windows(windows.tokens[rows].long(), windows.weights[rows].float())

    def position(self) -> dict[str, int]:
        """Return what `seek` needs to continue from here."""
        return {"shard": self.shard, "window": self.window}

    def seek(self, position: dict[str, int]) -> None:
        """Continue from a position."""
        self.shard, self.window = position["shard"], position["window"]

    def _windows(self) -> Windows:
        if self._loaded is None or self._loaded[0] != self.shard:
            shard = list(documents(self.seed, self.shard, self.shard_documents))
            self._loaded = self.shard, pack_documents(shard, self.tokenizer, self.length)
        return self._loaded[1]
