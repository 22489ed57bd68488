"""Corpora: lenses over many texts, in a folder of Parquet files that answers questions."""

from iglens_tl.corpus.corpus import Corpus as Corpus
from iglens_tl.corpus.engines import Engine as Engine
from iglens_tl.corpus.engines import LocalEngine as LocalEngine
from iglens_tl.corpus.groupings import GROUPINGS as GROUPINGS
from iglens_tl.corpus.measurement import LONG as LONG
from iglens_tl.corpus.measurement import Measurement as Measurement
from iglens_tl.corpus.ray_engine import RayEngine as RayEngine
from iglens_tl.corpus.run import TEXTS_PER_PART as TEXTS_PER_PART
from iglens_tl.corpus.run import Progress as Progress
from iglens_tl.corpus.run import run_corpus as run_corpus
from iglens_tl.corpus.sources import Columns as Columns
from iglens_tl.corpus.sources import Source as Source
from iglens_tl.corpus.sources import open_source as open_source
from iglens_tl.corpus.status import read_status as read_status
from iglens_tl.results.corpus import CorpusSummary as CorpusSummary
from iglens_tl.results.corpus import Example as Example
from iglens_tl.results.corpus import Examples as Examples
