"""The texts of a corpus, out of files of every kind, from any place on."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iglens_tl.corpus import Columns, open_source
from iglens_tl.corpus.readers import CSVReader, JSONLinesReader, TextReader

TEXTS = ["Hanoi is hot.", 'She said "no",\nand left.', "  x", "über Zürich", "a\tb", "last"]
ROWS = [{"text": text, "year": 1990 + i, "source": f"s{i % 2}"} for i, text in enumerate(TEXTS)]


def write(folder, kind):
    """Write `ROWS` in some format and return what opens them."""
    frame, path = pd.DataFrame(ROWS), folder / f"texts.{kind}"
    if kind == "jsonl":
        lines = (json.dumps(row, ensure_ascii=False) for row in ROWS)
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    elif kind == "parquet":
        frame.to_parquet(path, row_group_size=2)
    elif kind == "datasets":
        from datasets import Dataset

        Dataset.from_list(ROWS).save_to_disk(str(path))
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "datasets"])
@pytest.mark.parametrize("texts_per_part", [1, 2, 4, 100])
def test_parts_hold_all_texts_of_every_kind_of_file_in_order(tmp_path, kind, texts_per_part):
    source = open_source(write(tmp_path, kind), columns=Columns(keep=("year",)))
    parts = source.plan(texts_per_part)
    entries = [list(source.read(part)) for part in parts]
    assert [len(own) for own in entries[:-1]] == [texts_per_part] * (len(parts) - 1)
    found = [entry for own in entries for entry in own]
    assert [entry.text for entry in found] == list(range(len(TEXTS)))
    assert [entry.content for entry in found] == TEXTS
    assert [int(entry.kept[0]) for entry in found] == [row["year"] for row in ROWS]
    # A part is read alone just so, whatever was read before.
    again = open_source(source.readers[0].path, columns=Columns(keep=("year",)))
    assert list(again.read(again.plan(texts_per_part)[-1])) == entries[-1]


def test_a_folder_is_read_in_the_order_of_its_names_and_parts_go_over_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b" / "c.jsonl").write_text('"three"\n{"text": "four"}\n')
    (tmp_path / "notes.md").write_text("no text of the corpus")
    source = open_source(tmp_path, columns=Columns())
    parts = source.plan(3)
    assert [[e.content for e in source.read(part)] for part in parts] == [
        ["one", "two", "three"],
        ["four"],
    ]
    places = [entry.where for part in parts for entry in source.read(part)]
    assert places == ["a.txt, line 1", "a.txt, line 3", "c.jsonl, line 1", "c.jsonl, line 2"]
    globbed = open_source(f"{tmp_path}/**/*.txt", columns=Columns())
    assert [entry.content for entry in globbed.read(globbed.plan(9)[0])] == ["one", "two"]


def test_documents_are_whole_files(tmp_path):
    for name, text in (("a.txt", "one\ntwo\n"), ("b.txt", " \n"), ("c.txt", "three")):
        (tmp_path / name).write_text(text)
    source = open_source(tmp_path, columns=Columns(), document=True)
    (part,) = source.plan(10)
    assert [entry.content for entry in source.read(part)] == ["one\ntwo\n", "three"]


def test_a_limit_takes_the_first_texts(tmp_path):
    source = open_source(write(tmp_path, "csv"), columns=Columns())
    parts = source.plan(2, limit=3)
    assert [part.n_texts for part in parts] == [2, 1]


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8))


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.data())
def test_lines_are_found_again_from_their_places(tmp_path_factory, lines, ending, has_mark, data):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes((("\ufeff" if has_mark else "") + ending.join(lines)).encode())
    reader = TextReader(path)
    whole = path.read_bytes().decode("utf-8-sig").split("\n")
    expected = [line.removesuffix("\r") for line in whole if line.strip()]
    check_places(reader, [{"text": line} for line in expected], data)


@given(st.lists(st.lists(st.text(max_size=6), min_size=2, max_size=2)), st.data())
def test_rows_of_csv_are_found_again_from_their_places(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["text", "b"], *rows])
    if "\x00" in file.getvalue():
        return  # Python's csv refuses them on some versions
    path.write_bytes(file.getvalue().encode("utf-8", "replace"))
    with path.open(encoding="utf-8", newline="") as again:
        expected = list(csv.DictReader(again))
    check_places(CSVReader(path), expected, data)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(), min_size=1)), st.data())
def test_objects_are_found_again_from_their_places(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("objects") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    check_places(JSONLinesReader(path), rows, data)


def check_places(reader, expected, data):
    """Read some records from any place on and compare them with all of them."""
    places = list(reader.places())
    assert len(places) == len(expected)
    if not places:
        return
    first = data.draw(st.integers(0, len(places) - 1), label="first")
    number = data.draw(st.integers(1, len(places) - first), label="number")
    found = [record for record, _ in reader.read(places[first], number)]
    assert found == expected[first : first + number]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', {}, r"a\.jsonl', line 2 is not valid JSON"),
        ("a.txt", b"ok\n\xff\n", {}, r"a\.txt', line 2 is not valid UTF-8"),
        ("a.csv", "a,b\n1,2\n", {}, r"has no one column of texts; choose one of 'a', 'b'"),
        ("a.csv", "a,b\n1,2\n", {"text": "c"}, r"has no column 'c'; it has 'a', 'b'"),
        ("a.csv", "text\nx\n", {"keep": ("y",)}, r"has no column 'y'; it has 'text'"),
        ("a.csv", 'text\n"x\n', {}, r"a\.csv', line 2 cannot be read: unexpected end of data"),
        ("a.parquet", b"PAR1", {}, r"a\.parquet' is no Parquet file"),
        ("a.txt", " \n\n", {}, r"the source holds no text: .*a\.txt"),
        ("a.pdf", "x", {}, r"is of no known kind; give files that end with \.txt"),
    ],
)
def test_what_is_no_source_is_said_in_one_sentence(tmp_path, name, content, columns, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        open_source(path, columns=Columns(**columns)).plan(4)
    assert "\n" not in str(error.value)


def test_paths_that_lead_nowhere_are_errors(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        open_source(tmp_path / "a.txt", columns=Columns())
    with pytest.raises(ValueError, match="no file matches"):
        open_source(f"{tmp_path}/*.txt", columns=Columns())
    with pytest.raises(ValueError, match=r"holds no file that ends with \.txt"):
        open_source(tmp_path, columns=Columns())
    (tmp_path / "dataset_dict.json").write_text("{}")
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="several splits; give the folder of one: train"):
        open_source(tmp_path, columns=Columns())
    (tmp_path / "a.csv").write_text("text\nx\n")
    with pytest.raises(ValueError, match="only .txt files are documents"):
        open_source(tmp_path / "a.csv", columns=Columns(), document=True)


def test_a_source_that_changes_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    source = open_source(path, columns=Columns())
    first, second = source.plan(1)
    assert [entry.content for entry in source.read(first)] == ["one"]
    path.write_text("one\nthree\n")
    with pytest.raises(ValueError, match="has changed since the run began"):
        list(source.read(second))
