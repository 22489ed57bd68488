"""Prompts that are read from files."""

from __future__ import annotations

import doctest
import json

import pandas as pd
import pytest

from iglens_tl.models import adapt
from iglens_tl.prompts import build_requests, files, read_prompts

CHAT = [{"role": "user", "content": "Who is it?"}]


def test_a_text_file_has_a_prompt_in_each_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffOnce upon\r\n\r\n  two  \nthe\u2028last".encode())
    assert read_prompts(path) == ["Once upon", "  two  ", "the\u2028last"]
    assert read_prompts(str(path)) == read_prompts(path)


def test_a_file_of_json_lines_holds_texts_chats_or_ids(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('"a\\nb"\n\n[1, 5]\n' + json.dumps(CHAT) + "\n")
    assert read_prompts(path) == ["a\nb", [1, 5], CHAT]
    lines = [{"prompt": "w5", "answer": " w9"}, {"prompt": [1, 5], "answer": " w7", "note": 3}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_prompts(path, column="prompt") == ["w5", [1, 5]]
    assert read_prompts(path, column="answer") == [" w9", " w7"]
    path.write_text('{"text": "w5"}\n')
    assert read_prompts(path) == ["w5"]


def test_tables_are_read_by_column(tmp_path):
    table = pd.DataFrame({"prompt": ['say "a,\nb"', "w9", "w5"], "answer": [" x", " y", " z"]})
    for name, write in {
        "a.csv": lambda path: table.to_csv(path, index=False),
        "a.tsv": lambda path: table.to_csv(path, index=False, sep="\t"),
        "a.PARQUET": lambda path: table.to_parquet(path),
    }.items():
        path = tmp_path / name
        write(path)
        assert read_prompts(path, column="prompt") == table["prompt"].tolist()
        assert read_prompts(path, column="answer") == table["answer"].tolist()
    pd.DataFrame({"messages": [CHAT, CHAT]}).to_parquet(tmp_path / "chats.parquet")
    assert read_prompts(tmp_path / "chats.parquet") == [CHAT, CHAT]


def test_what_was_read_is_a_batch_with_answers(tmp_path, toy):
    path = tmp_path / "prompts.csv"
    path.write_text("prompt,answer\nw5 w17, w9\nw42, w4 w7\n")
    prompts, answers = (read_prompts(path, column=name) for name in ("prompt", "answer"))
    requests = build_requests(adapt(toy), prompts, answer=answers)
    assert [request.target_ids for request in requests] == [(9,), (4, 7)]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("a.txt", "\n \n", None, "holds no prompt"),
        ("a.txt", "w5\n", "prompt", "plain text, which has no column 'prompt'"),
        ("a.doc", "w5\n", None, r"of no known kind; give a file that ends with \.txt, \.jsonl"),
        ("a.jsonl", '"w5"\n{"prompt": \n', None, "line 2 is not valid JSON"),
        (
            "a.jsonl",
            '\n{"a": "w5", "b": "w9"}\n',
            None,
            "line 2 .*choose one with column=: 'a', 'b'",
        ),
        ("a.jsonl", '{"a": "w5"}\n{"b": "w5"}\n', "a", "line 2 has no column 'a'; it has 'b'"),
        ("a.jsonl", '{"a": "w5"}\n"w5"\n', "a", "line 2 holds no object with an entry 'a'"),
        ("a.jsonl", '{"a": "w5"}\n{"a": null}\n', "a", "line 2 is empty"),
        ("a.jsonl", '{"a": "w5"}\n{"a": 3.5}\n', "a", "line 2 must be a text, .* got float 3.5"),
        ("a.csv", "prompt,answer\nw5,w9\n", None, "choose one with column=: 'prompt', 'answer'"),
        ("a.csv", "prompt,answer\nw5,w9\n", "text", "no column 'text'; it has 'prompt', 'answer'"),
        ("a.csv", 'prompt,answer\n"w5\nw6",w9\nw5\n', "answer", "line 4 is empty"),
        ("a.csv", "prompt,answer\nw5,w9\n,w9\n", "prompt", "line 3 is empty"),
        ("a.csv", "", "prompt", "has no column 'prompt'; it has none"),
        ("a.csv", "prompt\n", "prompt", "holds no prompt"),
        ("a.parquet", "no table", "prompt", "is no Parquet file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, content, column, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(path, column=column)
    assert name in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for suffix in (".txt", ".jsonl", ".csv", ".parquet"):
        with pytest.raises(ValueError, match=r"cannot read '.*none"):
            read_prompts(tmp_path / f"none{suffix}", column=None)
    path = tmp_path / "latin.csv"
    path.write_bytes("prompt\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin.csv' is not valid UTF-8"):
        read_prompts(path)
    with pytest.raises(TypeError, match="path must be a string or a path, got int"):
        read_prompts(5)


def test_the_example_runs():
    outcome = doctest.testmod(files)
    assert outcome.attempted and not outcome.failed
