"""Results: the data of every lens, its tables and its files."""

from iglens_tl.results.data import LensData as LensData
from iglens_tl.results.data import Provenance as Provenance
from iglens_tl.results.data import Target as Target
from iglens_tl.results.data import Text as Text
from iglens_tl.results.data import TopTokens as TopTokens
