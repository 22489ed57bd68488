"""The same corpus, measured by actors of Ray Data."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from iglens_tl import IGLens, load_model
from iglens_tl.corpus import (
    Measurement,
    RayEngine,
    read_status,
    run_corpus,
)
from tests.support.cases import HAS_HOOKED
from tests.support.corpora import TEXTS, assert_same_corpus

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.skipif(not HAS_HOOKED, reason="what Ray does has nothing to do with the version"),
    # Ray leaves sockets and processes to be collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    """Start Ray once for all tests of the module."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def measurement():
    return Measurement(lenses={"ig_lens": IGLens(top_k=0)})


@pytest.fixture
def engine(cluster, toy_folder):
    return RayEngine(load=partial(load_model, toy_folder("llama")), workers=2, cpus=1)


def test_actors_write_the_rows_of_one_process(toy, source, measurement, engine, tmp_path):
    options = {"texts_per_part": 2}
    run_corpus(source, toy, tmp_path / "whole", measurement, **options)
    seen = []
    done = run_corpus(
        source, toy, tmp_path / "out", measurement, engine=engine, report=seen.append, **options
    )
    assert done.is_complete and len(seen) == len(TEXTS) / 2
    assert [progress.texts for progress in seen] == list(range(2, len(TEXTS) + 1, 2))
    assert_same_corpus(tmp_path / "out", tmp_path / "whole")


def test_the_part_of_an_actor_that_dies_is_measured_by_another(
    toy, source, measurement, engine, tmp_path
):
    options = {"texts_per_part": 3}
    run_corpus(source, toy, tmp_path / "whole", measurement, **options)
    mark, load = tmp_path / "died", engine.load

    def load_or_die():
        model = load()
        if not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return model

    dying = RayEngine(load=load_or_die, workers=1, cpus=1)
    done = run_corpus(source, toy, tmp_path / "out", measurement, engine=dying, **options)
    assert mark.exists() and done.is_complete
    assert_same_corpus(tmp_path / "out", tmp_path / "whole")


def test_a_run_goes_on_with_another_engine(toy, source, measurement, engine, tmp_path):
    options = {"texts_per_part": 2}
    run_corpus(source, toy, tmp_path / "whole", measurement, **options)

    def interrupt(progress):
        signal.raise_signal(signal.SIGINT)

    out = tmp_path / "out"
    begun = run_corpus(source, toy, out, measurement, engine=engine, report=interrupt, **options)
    assert not begun.is_complete and begun.texts >= 2
    assert read_status(out).progress.texts >= begun.texts
    assert run_corpus(source, toy, out, measurement, **options).is_complete
    assert_same_corpus(out, tmp_path / "whole")


def test_what_goes_wrong_in_an_actor_is_told_in_one_sentence(
    toy, toy_folder, source, measurement, engine, tmp_path
):
    other = RayEngine(load=partial(load_model, toy_folder("gpt2")), workers=1, cpus=1)
    with pytest.raises(ValueError, match="a worker loaded another .* than the run") as error:
        run_corpus(source, toy, tmp_path / "out", measurement, engine=other)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert run_corpus(source, toy, tmp_path / "out", measurement, engine=engine).is_complete


def test_more_workers_than_cores_are_refused(toy, source, measurement, engine, tmp_path):
    many = RayEngine(load=engine.load, workers=3, cpus=1)
    with pytest.raises(ValueError, match="3 workers of 1 cores need 3, but the cluster has 2"):
        run_corpus(source, toy, tmp_path / "out", measurement, engine=many)
    with_gpus = RayEngine(load=engine.load, workers=1, cpus=1, gpus=1)
    with pytest.raises(ValueError, match="1 workers of 1 GPUs need 1, but the cluster has 0"):
        run_corpus(source, toy, tmp_path / "out", measurement, engine=with_gpus)
