"""Loads the facts: relations such as country to capital, each with its phrasings."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property

from experiments.demo_model.data_files import read_json, read_table


@dataclass(frozen=True)
class Fact:
    """Holds one fact: a relation holds between a subject and an answer."""

    relation: str
    subject: str
    answer: str


@dataclass(frozen=True)
class Relation:
    """Holds a relation with its facts.

    Attributes:
        name: Name of the relation.
        facts: One fact per subject.
        declarative: Sentence templates; the first is the canonical one.
        questions: Question templates.
    """

    name: str
    facts: tuple[Fact, ...]
    declarative: tuple[str, ...]
    questions: tuple[str, ...]

    @cached_property
    def answers(self) -> dict[str, str]:
        """Map each subject to its answer."""
        return {fact.subject: fact.answer for fact in self.facts}


@cache
def load_relations() -> dict[str, Relation]:
    """Load every relation by its name."""
    return {name: _load_relation(name, entry) for name, entry in read_json("relations").items()}


@cache
def all_facts() -> tuple[Fact, ...]:
    """List the facts of all relations."""
    return tuple(fact for relation in load_relations().values() for fact in relation.facts)


def _load_relation(name: str, entry: dict) -> Relation:
    subject_column = entry.get("subject", "subject")
    answer_column = entry.get("answer", "answer")
    answers = defaultdict(set)
    for row in read_table(entry["table"]):
        if row[subject_column] and row[answer_column]:
            answers[row[subject_column]].add(row[answer_column])
    # A relation read backwards can be ambiguous (a calf is the young of the cow and of the
    # whale): such subjects are left out.
    facts = tuple(Fact(name, s, *found) for s, found in answers.items() if len(found) == 1)
    return Relation(name, facts, tuple(entry["declarative"]), tuple(entry["questions"]))
