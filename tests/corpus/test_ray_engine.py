"""The same corpus, measured by actors of Ray Data."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from iglens_tl import load_model
from iglens_tl.corpus import Columns, RayEngine, Source, open_source, read_status, run_corpus
from tests.support.cases import HAS_HOOKED
from tests.support.corpora import TEXTS, assert_same_corpus, credits_of, rows_of, run_folder

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.xdist_group("ray"),  # one cluster
    pytest.mark.skipif(not HAS_HOOKED, reason="what Ray does has nothing to do with the version"),
    # Ray leaves sockets and processes to be collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
]

# A node that says nothing for some seconds is dead; by default it takes half a minute.
QUICK_TO_NOTICE = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of three nodes for all tests of the module: two of them have a core each."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # Ray's processes give way to all others by default, such as the rest of the tests.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def load(toy_folder):
    return partial(load_model, toy_folder("llama"))


@pytest.fixture
def load_slowly(load):
    """Let every forward pass take a moment, so that there is one to die in."""

    def load_slowly():
        model = load()
        model.register_forward_pre_hook(lambda *_: time.sleep(0.3))
        return model

    return load_slowly


@pytest.fixture
def engine(cluster, load):
    return RayEngine(load=load, workers=1, cpus=1)


def test_actors_write_the_rows_of_one_process(toy, load, cluster, tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = [*TEXTS, "", [1, 2, 999], "w3 w4 " * 40, [1, 2, 3]]
    lines = [json.dumps({"text": text, "year": number}) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines))
    source, seen = open_source(path, columns=Columns(keep=("year",))), []
    measurement = credits_of(max_length=16, prepend_bos=True)
    expected = run_folder(source, toy, tmp_path / "whole", measurement, texts_per_part=2)
    engine = RayEngine(load=load, workers=2, cpus=1)
    options = {"texts_per_part": 2, "engine": engine, "report": seen.append}
    done = run_corpus(source, toy, tmp_path / "out", measurement, **options)
    assert done.is_complete and done.rejected == 2 and len(seen) == len(texts) / 2
    assert [progress.texts for progress in seen] == list(range(2, len(texts) + 1, 2))
    assert_same_corpus(tmp_path / "out", expected)


def test_a_run_goes_on_with_another_engine(toy, source, engine, tmp_path):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=2)

    def interrupt(progress):
        signal.raise_signal(signal.SIGINT)

    out, options = tmp_path / "out", {"texts_per_part": 2}
    begun = run_corpus(source, toy, out, credits_of(), engine=engine, report=interrupt, **options)
    assert not begun.is_complete and begun.texts >= 2
    assert read_status(out).progress.texts >= begun.texts
    assert run_corpus(source, toy, out, credits_of(), **options).is_complete
    assert_same_corpus(out, expected)


RUN = """
import sys, warnings
warnings.simplefilter("ignore")
from functools import partial
from iglens_tl import IGLens, load_model
from iglens_tl.corpus import Columns, Measurement, RayEngine, open_source, run_corpus
source, model, out, address = sys.argv[1:]
load = partial(load_model, model)
opened = open_source(source, columns=Columns())
measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0)})
engine = RayEngine(load=load, workers=1, cpus=1, address=address)
run_corpus(opened, load(), out, measurement, texts_per_part=1, engine=engine)
"""


def test_a_run_that_is_killed_at_any_moment_ends_with_the_rows_of_an_undisturbed_one(
    toy, toy_folder, source, engine, cluster, tmp_path
):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=1)
    draw, out = random.Random(), tmp_path / "out"
    arguments = [tmp_path / "texts.txt", toy_folder("llama"), out, cluster.address]
    driver = subprocess.Popen([sys.executable, "-c", RUN, *map(str, arguments)])
    n_parts = draw.randrange(len(TEXTS) - 4)
    while driver.poll() is None and len(list(out.glob("parts/part-*"))) < n_parts:
        time.sleep(0.01)
    time.sleep(draw.random() / 10)
    driver.kill()
    assert driver.wait() in (-signal.SIGKILL, 0)
    done = run_corpus(source, toy, out, credits_of(), texts_per_part=1, engine=engine)
    assert done.is_complete
    assert_same_corpus(out, expected)


def test_actors_that_die_at_any_moment_leave_no_part_out(
    toy, source, load_slowly, cluster, tmp_path
):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=1)
    draw, killed = random.Random(3), []

    def die_once(name):
        mark = tmp_path / name
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(Source):
        def read(self, part):
            if part.number == 5:
                die_once("reader")
            return super().read(part)

    def load_or_die():
        die_once("worker")
        return load_slowly()

    def kill(progress):
        if progress.texts == 4:
            time.sleep(draw.random() / 2)
            killed.extend(actors(cluster, "_Worker"))
            os.kill(killed[0], signal.SIGKILL)

    deadly = Deadly(source.readers, source.columns)
    engine = RayEngine(load=load_or_die, workers=1, cpus=1)
    options = {"texts_per_part": 1, "engine": engine, "report": kill}
    done = run_corpus(deadly, toy, tmp_path / "out", credits_of(), **options)
    assert done.is_complete and killed
    assert (tmp_path / "reader").exists() and (tmp_path / "worker").exists()
    assert_same_corpus(tmp_path / "out", expected)


def test_a_node_that_is_lost_takes_no_part_with_it(toy, source, load_slowly, cluster, tmp_path):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=1)
    lost = []

    def lose_a_node(progress):
        if progress.texts >= 3 and not lost:
            lost.append(cluster.list_all_nodes()[-1])
            assert actors(cluster, "_Worker", lost)
            cluster.remove_node(lost[0], allow_graceful=False)

    engine = RayEngine(load=load_slowly, workers=2, cpus=1)
    options = {"texts_per_part": 1, "engine": engine, "report": lose_a_node}
    try:
        done = run_corpus(source, toy, tmp_path / "out", credits_of(), **options)
    finally:
        cluster.add_node(num_cpus=1)
    assert done.is_complete and lost
    assert_same_corpus(tmp_path / "out", expected)


def test_a_source_that_changes_during_a_run_is_told_and_what_was_measured_is_kept(
    toy, engine, load, tmp_path
):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, first in (("a", 0), ("b", 6)):
        (folder / f"{name}.txt").write_text(
            "".join(f"{text}\n" for text in TEXTS[first : first + 6])
        )
    content = (folder / "b.txt").read_text()
    source = open_source(folder, columns=Columns())
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=3)

    class Changing(RayEngine):
        def run(self, *arguments):
            (folder / "b.txt").write_text("w1 w2 w3\n")
            yield from super().run(*arguments)

    changing = Changing(load=load, workers=1, cpus=1)
    out, options = tmp_path / "out", {"texts_per_part": 3}
    with pytest.raises(ValueError, match=r"b\.txt' has changed since the run began") as error:
        run_corpus(source, toy, out, credits_of(), engine=changing, **options)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert rows_of(out) and len(rows_of(out)) < len(rows_of(expected))
    (folder / "b.txt").write_text(content)
    again = open_source(folder, columns=Columns())
    assert run_corpus(again, toy, out, credits_of(), **options).new_texts == 6
    assert_same_corpus(out, expected)


def test_what_goes_wrong_in_an_actor_is_told_in_one_sentence(
    toy, toy_folder, source, engine, tmp_path
):
    other = RayEngine(load=partial(load_model, toy_folder("gpt2")), workers=1, cpus=1)
    with pytest.raises(ValueError, match="a worker loaded another .* than the run") as error:
        run_corpus(source, toy, tmp_path / "out", credits_of(), engine=other)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert run_corpus(source, toy, tmp_path / "out", credits_of()).is_complete


def test_more_workers_than_cores_are_refused(toy, source, load, cluster, tmp_path):
    many = RayEngine(load=load, workers=3, cpus=1)
    with pytest.raises(ValueError, match="3 workers of 1 cores need 3, but the cluster has 2"):
        run_corpus(source, toy, tmp_path / "out", credits_of(), engine=many)
    with_gpus = RayEngine(load=load, workers=1, cpus=1, gpus=1)
    with pytest.raises(ValueError, match="1 workers of 1 GPUs need 1, but the cluster has 0"):
        run_corpus(source, toy, tmp_path / "out", credits_of(), engine=with_gpus)


def actors(cluster, name, nodes=None):
    """Return the processes of the nodes' actors of a class."""
    raylets = {
        started.process.pid
        for node in nodes or cluster.list_all_nodes()
        for started in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "cmdline").read_text()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended meanwhile
        if parent in raylets and told.startswith("ray::MapWorker") and name in told:
            found.append(int(folder.name))
    return found
