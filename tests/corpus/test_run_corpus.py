"""Runs over a corpus: the rows, what is rejected, and that nothing is lost or done twice."""

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
import torch

from iglens_tl import Components, IGLens, LogitLens, components, ig_lens, logit_lens
from iglens_tl.corpus import (
    Columns,
    Measurement,
    open_source,
    read_status,
    run_corpus,
)
from iglens_tl.corpus import folder as folders
from iglens_tl.corpus.folder import locked, part_path
from iglens_tl.models import adapt
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.corpora import TEXTS, assert_same_corpus, column, rows_of


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return open_source(path, columns=Columns())


def credits_of(**options) -> Measurement:
    return Measurement(lenses={"ig_lens": IGLens(top_k=0)}, **options)


def test_rows_hold_what_the_lenses_say_of_each_text(toy, source, tmp_path):
    lenses = {
        "ig_lens": IGLens(top_k=0),
        "logit_lens": LogitLens(value="logprob", top_k=0),
        "components": Components(by="head"),
    }
    done = run_corpus(source, toy, tmp_path / "out", Measurement(lenses=lenses), texts_per_part=5)
    rows = rows_of(tmp_path / "out")
    assert done.is_complete and done.targets == len(rows) and not done.rejected
    for number, text in enumerate(TEXTS):
        own = [row for row in rows if row["text"] == number]
        result = ig_lens(toy, text)
        model = logit_lens(toy, text, value="logprob")
        targets = result.targets
        assert [row["position"] for row in own] == [target.position for target in targets]
        assert [row["token_id"] for row in own] == [target.token_id for target in targets]
        assert [row["token"] for row in own] == [target.token for target in targets]
        assert [row["rank"] for row in own] == model.ranks[:, -1].tolist()
        for name, expected in (
            ("credits", result.values),
            ("final", result.final),
            ("baseline", result.baseline),
            ("logit_lens", model.values),
            ("logprob", model.final),
            ("entropy", model.statistics["entropy"][:, -1]),
            ("components", components(toy, text, by="head").values),
        ):
            assert_close_to(column(own, name), expected, dtype=torch.float32)
    assert abs(column(rows, "error")).max() < 1e-6
    segments = json.loads((tmp_path / "out" / "manifest.json").read_text())["segments"]
    assert segments["components"] == list(components(toy, TEXTS[0], by="head").segments)
    onset = np.array(ig_lens(toy, TEXTS[3]).onset())
    own = [row for row in rows if row["text"] == 3]
    assert [segments["ig_lens"][row["onset"]] for row in own] == onset.tolist()


def test_long_texts_are_cut_so_that_every_token_is_measured_once(toy, source, tmp_path):
    whole = rows_of(run_folder(source, toy, tmp_path / "whole", credits_of()))
    cut = rows_of(run_folder(source, toy, tmp_path / "cut", credits_of(max_length=5, overlap=2)))
    named = [(row["text"], row["position"], row["token_id"]) for row in cut]
    assert named == [(row["text"], row["position"], row["token_id"]) for row in whole]
    assert max(row["window"] for row in cut) > 0
    first = [row["window"] == 0 for row in cut]
    levels = [column(rows, "final")[first] for rows in (cut, whole)]
    assert_close_to(*levels, dtype=torch.float32)
    # A later window is read as a text of its own, which begins with the text's first token.
    adapter = adapt(toy)
    longest = max(range(len(TEXTS)), key=lambda number: len(TEXTS[number]))
    ids = adapter.model.to_tokens(TEXTS[longest])[0].tolist()
    later = [row for row in cut if row["text"] == longest and row["window"] == 1]
    start = later[0]["position"] - 1
    alone = ig_lens(toy, [*ids[:1], *ids[start : start + 4]]).values[-len(later) :]
    assert_close_to(column(later, "credits"), alone, dtype=torch.float32)


def run_folder(source, model, folder, measurement, **options):
    run_corpus(source, model, folder, measurement, **options)
    return folder


def test_texts_that_cannot_be_measured_are_listed_with_the_reason(toy, tmp_path):
    lines = [
        {"text": "w1 w2 w3"},
        {"text": ""},
        {"text": [1, 5, 9000]},
        {"text": 7},
        {"text": [5]},
        {"other": "w1"},
        {"text": "w1 " * 30},
        {"text": [1, 5, 9]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_source(path, columns=Columns())
    done = run_corpus(source, toy, tmp_path / "out", credits_of(max_length=12, long="reject"))
    assert (done.texts, done.rejected, done.is_complete) == (8, 6, True)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["text"] for row in rejected] == [1, 2, 3, 4, 5, 6]
    assert rejected[0]["where"] == "a.jsonl, line 2"
    for row, reason in zip(
        rejected,
        ("it is empty", "token id 9000", "got int", "single token", "is empty", "more than 12"),
        strict=True,
    ):
        assert reason in row["reason"]
    assert {row["text"] for row in rows_of(tmp_path / "out")} == {0, 7}


def test_a_text_that_overflows_takes_no_other_with_it(toy_model, source, tmp_path):
    model = toy_model("llama", "bridge")
    ids = [adapt(model).model.to_tokens(text)[0].tolist() for text in TEXTS]

    def break_one(states, hook):
        # As a text does whose activations overflow: its own rows alone.
        rows = states.clone()
        for row in range(len(rows)):
            if seen[0][row, : len(ids[4])].tolist() == ids[4]:
                rows[row] = float("nan")
        return rows

    seen = []
    remember = model.embed.register_forward_pre_hook(
        lambda module, inputs: seen.__setitem__(slice(None), [inputs[0]])
    )
    try:
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", break_one)]):
            done = run_corpus(source, model, tmp_path / "out", credits_of())
    finally:
        remember.remove()
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert done.rejected == 1 and rejected[0]["text"] == 4 and "NaN" in rejected[0]["reason"]
    rows = rows_of(tmp_path / "out")
    assert {row["text"] for row in rows} == set(range(len(TEXTS))) - {4}
    own = column([row for row in rows if row["text"] == 3], "credits")
    assert_close_to(own, ig_lens(model, TEXTS[3]).values, dtype=torch.float32)


def test_columns_are_carried_along(toy, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("body,year,who\nw1 w2,1990,x\nw3 w4 w5,1991,\n")
    source = open_source(path, columns=Columns(text="body", keep=("who", "year")))
    rows = rows_of(run_folder(source, toy, tmp_path / "out", credits_of()))
    assert {(row["text"], row["who"], row["year"]) for row in rows} == {
        (0, "x", "1990"),
        (1, "", "1991"),
    }


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
    with pytest.raises(ValueError, match=r"version 99; this release reads .* version 1"):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lenses": {"logit_lens": LogitLens()}}, "first lens of a corpus has to be additive"),
        ({"lenses": {"ig_lens": IGLens(), "text": LogitLens()}}, "cannot be called 'text'"),
        ({"long": "cut"}, "unknown long 'cut'; choose one of split, truncate, reject"),
        ({"max_length": 1}, "max_length must be an integer of at least 2, got 1"),
        ({"overlap": True}, "overlap must be an integer of at least 1, got True"),
    ],
)
def test_measurements_that_do_not_exist_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Measurement(**{"lenses": {"ig_lens": IGLens()}, **options})


def test_options_that_do_not_fit_the_model_are_errors_before_a_text_is_read(toy, source, tmp_path):
    for measurement, message in (
        (credits_of(max_length=10**6), "max_length is 1000000, but .* takes at most"),
        (credits_of(max_length=6, overlap=5), "an overlap of 5 leaves windows of 6 tokens no"),
    ):
        with pytest.raises(ValueError, match=message):
            run_corpus(source, toy, tmp_path / "out", measurement)
    by_source = Measurement(
        lenses={"ig_lens": IGLens(), "components": Components(by="head_source")}
    )
    with pytest.raises(ValueError, match="'components' has other segments for every text"):
        run_corpus(source, toy, tmp_path / "out", by_source)
    with pytest.raises(ValueError, match="texts_per_part must be at least 1, got 0"):
        run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=0)


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
