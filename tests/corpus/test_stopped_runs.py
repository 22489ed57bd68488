"""Runs that stop: nothing is lost or done twice, and what does not fit is refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from iglens_tl import IGLens
from iglens_tl.corpus import Columns, Measurement, open_source, read_status, run_corpus
from iglens_tl.corpus import folder as folders
from iglens_tl.corpus.folder import locked, part_path
from tests.support.closeness import assert_identical
from tests.support.corpora import TEXTS, assert_same_corpus, credits_of, rows_of, run_folder


class Killed(BaseException):
    """What no code of the package catches."""


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_run_that_dies_anywhere_ends_with_the_rows_of_an_undisturbed_one(
    toy, source, tmp_path, monkeypatch, seed
):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=2)
    draw = random.Random(seed)
    write = folders.write_atomically

    def die_now_and_then():
        if draw.random() < 0.2:
            raise Killed

    def write_or_die(path, fill, **options):
        die_now_and_then()

        def fill_or_die(temporary):
            fill(temporary)
            if draw.random() < 0.3:
                part = temporary.read_bytes()[: draw.randrange(200)]
                # A process that is killed removes nothing.
                temporary.with_name(f".{path.stem}-killed.parquet").write_bytes(part)
                raise Killed

        written = write(path, fill_or_die, **options)
        die_now_and_then()
        return written

    monkeypatch.setattr(folders, "write_atomically", write_or_die)
    n_died = 0
    for _ in range(200):
        try:
            done = run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=2)
            break
        except Killed:
            n_died += 1
    assert done.is_complete and n_died > 0
    assert_same_corpus(tmp_path / "out", expected)


RUN = """
import sys, os, signal, threading, warnings
warnings.simplefilter("ignore")
from iglens_tl import IGLens, load_model
from iglens_tl.corpus import Columns, Measurement, open_source, run_corpus
source, model, out, seconds = sys.argv[1:]
model = load_model(model)
opened = open_source(source, columns=Columns())
if float(seconds):
    threading.Timer(float(seconds), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
run_corpus(opened, model, out, Measurement(lenses={"ig_lens": IGLens(top_k=0)}), texts_per_part=1)
"""


def test_a_process_that_is_killed_leaves_a_folder_to_go_on_with(toy, toy_folder, source, tmp_path):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=1)
    out = tmp_path / "out"
    for seconds in (0.15, 0.25, 0):
        ran = subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path / "texts.txt"), str(toy_folder("llama")),
             str(out), str(seconds)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode in ((-signal.SIGKILL, 0) if seconds else (0,)), ran.stderr
    assert_same_corpus(out, expected)


def test_a_finished_run_measures_nothing_again(toy, source, tmp_path):
    folder = run_folder(source, toy, tmp_path / "out", credits_of(), texts_per_part=4)
    before = [path.stat().st_mtime_ns for path in sorted((folder / "parts").iterdir())]
    again = run_corpus(source, toy, folder, credits_of(), texts_per_part=4)
    assert again.is_complete and again.new_texts == 0 and again.targets > 0
    after = [path.stat().st_mtime_ns for path in sorted((folder / "parts").iterdir())]
    assert_identical(np.array(after), np.array(before))


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_part_that_is_not_whole_is_measured_again(toy, source, tmp_path, damage):
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=4)
    folder = run_folder(source, toy, tmp_path / "out", credits_of(), texts_per_part=4)
    path = part_path(folder, 1)
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert read_status(folder).progress.texts == len(TEXTS) - 4
    assert run_corpus(source, toy, folder, credits_of(), texts_per_part=4).new_texts == 4
    assert_same_corpus(folder, expected)


def test_another_run_into_the_same_folder_is_refused_with_what_differs(
    toy, toy_model, source, tmp_path
):
    folder = run_folder(source, toy, tmp_path / "out", credits_of())
    before = rows_of(folder)
    zero = Measurement(lenses={"ig_lens": IGLens(baseline="zero", top_k=0)})
    for model, measurement, options, differs in (
        (toy, credits_of(max_length=8), {}, "options.max_length was null and is 8"),
        (toy, zero, {}, "options.lenses.ig_lens was .* and is .*zero"),
        (toy, credits_of(), {"texts_per_part": 3}, "texts_per_part was 512 and is 3"),
        (toy_model("gpt2"), credits_of(), {}, "model.weights was"),
    ):
        with pytest.raises(ValueError, match=differs):
            run_corpus(source, model, folder, measurement, **options)
    (tmp_path / "texts.txt").write_text("w1 w2\n")
    changed = open_source(tmp_path / "texts.txt", columns=Columns())
    with pytest.raises(ValueError, match=r"source\.files\.texts\.txt\.bytes was"):
        run_corpus(changed, toy, folder, credits_of())
    assert rows_of(folder) == before


def test_two_runs_at_once_are_refused(toy, source, tmp_path):
    folder = run_folder(source, toy, tmp_path / "out", credits_of())
    with (
        locked(folder),
        pytest.raises(ValueError, match="another run is writing to .*; wait for it"),
    ):
        run_corpus(source, toy, folder, credits_of())
    assert run_corpus(source, toy, folder, credits_of()).is_complete


def test_folders_that_hold_something_else_are_refused(toy, source, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no corpus"):
        run_corpus(source, toy, other, credits_of())
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(ValueError, match="holds no corpus: it has no manifest"):
        read_status(other)
    folder = run_folder(source, toy, tmp_path / "out", credits_of())
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(ValueError, match=r"version 99; this release reads .* version 2"):
        read_status(folder)
    manifest.write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json' cannot be read"):
        run_corpus(source, toy, folder, credits_of())


def test_a_run_that_died_before_its_manifest_is_begun_again(toy, source, tmp_path):
    folder = tmp_path / "out"
    (folder / "parts").mkdir(parents=True)
    (folder / ".manifest-abc.json").write_text('{"format"')
    (folder / ".lock").touch()
    assert run_corpus(source, toy, folder, credits_of()).is_complete
    assert not (folder / ".manifest-abc.json").exists()


def test_a_disk_that_is_full_is_said_and_nothing_is_lost(toy, source, tmp_path, monkeypatch):
    import pyarrow

    write_table, n_written = pq.write_table, []

    def write_until_full(table, path, **options):
        if len(n_written) == 2:
            Path(path).write_bytes(b"PAR1")
            raise pyarrow.ArrowIOError("No space left on device")
        n_written.append(path)
        write_table(table, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", write_until_full)
        with pytest.raises(ValueError, match=r"cannot write .*part-000002.*No space left"):
            run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=2)
    names = sorted(path.name for path in (tmp_path / "out" / "parts").iterdir())
    assert names == ["part-000000.parquet", "part-000001.parquet"]
    expected = run_folder(source, toy, tmp_path / "whole", credits_of(), texts_per_part=2)
    run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=2)
    assert_same_corpus(tmp_path / "out", expected)


def test_ctrl_c_ends_a_run_after_the_part_in_hand(toy, source, tmp_path):
    interrupted = []

    def interrupt(progress):
        if not interrupted:
            interrupted.append(progress)
            signal.raise_signal(signal.SIGINT)

    usual = signal.getsignal(signal.SIGINT)
    options = {"texts_per_part": 2, "report": interrupt}
    done = run_corpus(source, toy, tmp_path / "out", credits_of(), **options)
    assert not done.is_complete and done.texts == 2
    assert signal.getsignal(signal.SIGINT) is usual
    assert read_status(tmp_path / "out").progress.texts == 2
    done = run_corpus(source, toy, tmp_path / "out", credits_of(), **options)
    assert done.is_complete and done.new_texts == len(TEXTS) - 2


def test_a_run_in_a_thread_leaves_signals_alone(toy, source, tmp_path):
    done = []
    thread = threading.Thread(
        target=lambda: done.append(run_corpus(source, toy, tmp_path / "out", credits_of()))
    )
    thread.start()
    thread.join()
    assert done[0].is_complete


def test_the_speed_of_a_run_is_not_counted_from_earlier_ones(toy, source, tmp_path):
    seen = []
    run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=4, limit=12)
    part_path(tmp_path / "out", 2).unlink()
    options = {"texts_per_part": 4, "limit": 12, "report": seen.append}
    run_corpus(source, toy, tmp_path / "out", credits_of(), **options)
    assert [progress.new_texts for progress in seen] == [4]
