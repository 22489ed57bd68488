from collections import Counter

from experiments.demo_model.data_files import read_json, read_table
from experiments.demo_model.facts import all_facts, load_relations
from experiments.demo_model.families.two_hop import all_compositions
from experiments.demo_model.phrasing import phrase


def test_there_are_more_than_a_thousand_facts_over_more_than_ten_relations():
    assert len(all_facts()) >= 1000
    assert len(load_relations()) >= 10
    assert all(relation.facts for relation in load_relations().values())


def test_no_table_lists_a_subject_twice():
    for name in {entry["table"] for entry in read_json("relations").values()}:
        rows = read_table(name)
        subjects = Counter(next(iter(row.values())) for row in rows)
        assert len(subjects) == len(rows), [s for s, count in subjects.items() if count > 1]


def test_no_cell_has_stray_white_space():
    for fact in all_facts():
        assert fact.subject == fact.subject.strip()
        assert fact.answer == fact.answer.strip()


def test_no_two_facts_of_a_relation_contradict_each_other():
    for relation in load_relations().values():
        assert len(relation.answers) == len(relation.facts)


def test_every_relation_has_five_statements_and_three_questions():
    for relation in load_relations().values():
        assert len(set(relation.declarative)) >= 5
        assert len(set(relation.questions)) >= 3


def test_every_template_names_its_subject_and_answer_once():
    for relation in load_relations().values():
        for template in relation.declarative:
            assert template.count("{subject}") == template.count("{answer}") == 1, template
            assert template.index("{subject}") < template.index("{answer}"), template
        for template in relation.questions:
            assert template.count("{subject}") == 1, template
            assert "{answer}" not in template, template


def test_a_statement_starts_with_a_capital_and_ends_with_a_full_stop():
    for fact in all_facts():
        for template in load_relations()[fact.relation].declarative:
            text = phrase(template, fact.subject, fact.answer).sentence
            assert not text[0].islower()
            assert text.endswith(".")
            assert not set("{}()") & set(text)


def test_articles_fit_the_word_that_follows():
    assert phrase("A(n) {subject} lives in a(n) {answer}.", "eagle", "eyrie") == (
        "An eagle lives in an",
        " eyrie",
        ".",
    )


def test_a_composition_follows_the_answer_of_its_first_fact():
    assert len(all_compositions()) >= 1000
    for composition in all_compositions():
        assert composition.first.answer == composition.second.subject
        second = load_relations()[composition.second.relation]
        assert second.answers[composition.second.subject] == composition.second.answer


def test_the_elements_are_in_order():
    rows = read_table("elements")
    assert [int(row["number"]) for row in rows] == list(range(1, 119))
    assert len({row["symbol"] for row in rows}) == 118
