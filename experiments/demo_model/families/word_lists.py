"""Gives the families their words."""

from experiments.demo_model.data_files import read_json


def words(name: str) -> list:
    """List the words of one kind, such as "female_names"."""
    return read_json("words")[name]


def all_names() -> list[str]:
    """List the given names of both genders."""
    return words("female_names") + words("male_names")
