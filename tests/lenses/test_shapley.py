"""Shapley values of tables: the axioms, games solved by hand, and a plain loop over all orders."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.lenses.orders.shapley import (
    ShapleyRule,
    all_coalitions,
    antithetic_permutations,
    estimate_shapley_values,
    prefix_coalitions,
    resolve_shapley_rule,
    shapley_values,
)
from tests.support.closeness import assert_far_from, assert_identical

tables = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2**n, max_size=2**n).map(
        lambda values: torch.tensor([values], dtype=torch.float64)
    )
)


def n_players_of(table):
    return table.shape[1].bit_length() - 1


def number_of(coalition, n_players):
    """Return the row of `all_coalitions` that a set of players has."""
    return sum(2 ** (n_players - 1 - player) for player in coalition)


def brute_force(table):
    """Average the gains over every order of the players, one at a time."""
    n_players = n_players_of(table)
    totals = [0.0] * n_players
    for order in permutations(range(n_players)):
        joined = set()
        for player in order:
            before = table[0, number_of(joined, n_players)].item()
            joined.add(player)
            totals[player] += table[0, number_of(joined, n_players)].item() - before
    return [total / factorial(n_players) for total in totals]


def swapped(table, first, second):
    """Return the game in which two players have changed places."""
    coalitions = all_coalitions(n_players_of(table))
    order = list(range(coalitions.shape[1]))
    order[first], order[second] = order[second], order[first]
    rows = [number_of(c.nonzero().squeeze(-1).tolist(), len(order)) for c in coalitions[:, order]]
    return table[:, rows]


def test_coalitions_are_listed_as_binary_numbers():
    assert all_coalitions(2).tolist() == [
        [False, False],
        [False, True],
        [True, False],
        [True, True],
    ]
    for row, coalition in enumerate(all_coalitions(4)):
        assert number_of(coalition.nonzero().squeeze(-1).tolist(), 4) == row


def test_a_pair_of_gloves_is_shared_as_shapley_shares_it():
    # Players 0 and 1 own a left glove each, player 2 the only right one; a pair is worth 1.
    coalitions = all_coalitions(3)
    table = ((coalitions[:, 0] | coalitions[:, 1]) & coalitions[:, 2]).double()[None]
    torch.testing.assert_close(
        shapley_values(table)[0], torch.tensor([1 / 6, 1 / 6, 4 / 6], dtype=torch.float64)
    )


def test_everybody_has_an_equal_share_of_what_takes_them_all():
    table = torch.zeros(1, 2**6)
    table[0, -1] = 3.0
    torch.testing.assert_close(shapley_values(table)[0], torch.full((6,), 0.5).double())


def test_one_player_gets_everything():
    assert shapley_values(torch.tensor([[2.0, 5.0]])).tolist() == [[3.0]]


@settings(max_examples=60, deadline=None)
@given(tables)
def test_values_agree_with_a_loop_over_all_orders(table):
    np.testing.assert_allclose(shapley_values(table)[0], brute_force(table), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_values_sum_to_what_everybody_has_beyond_nobody(table):
    total = shapley_values(table).sum(1)
    np.testing.assert_allclose(total, table[:, -1] - table[:, 0], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(tables, st.data())
def test_players_who_change_places_change_values(table, data):
    players = st.integers(0, n_players_of(table) - 1)
    first, second = data.draw(players), data.draw(players)
    values, exchanged = shapley_values(table)[0], shapley_values(swapped(table, first, second))[0]
    torch.testing.assert_close(values[first], exchanged[second], atol=1e-12, rtol=0)
    torch.testing.assert_close(values[second], exchanged[first], atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_a_player_who_changes_nothing_gets_nothing(table):
    # The new first player doubles the table without adding to any coalition.
    values = shapley_values(torch.cat([table, table], dim=1))
    torch.testing.assert_close(values[0, 0], torch.tensor(0.0).double())
    torch.testing.assert_close(values[:, 1:], shapley_values(table), atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(tables, st.floats(-3, 3))
def test_values_are_linear_in_the_game(table, factor):
    other = table.sin()
    combined = shapley_values(table + factor * other)
    apart = shapley_values(table) + factor * shapley_values(other)
    torch.testing.assert_close(combined, apart, atol=1e-12, rtol=0)


def test_several_targets_are_solved_as_each_alone():
    table = torch.randn(4, 2**5, dtype=torch.float64)
    alone = torch.cat([shapley_values(row[None]) for row in table])
    torch.testing.assert_close(shapley_values(table), alone, atol=1e-14, rtol=0)


def test_sampled_orders_come_with_their_reverses_and_follow_from_the_seed():
    drawn = antithetic_permutations(6, 10, seed=3)
    assert_identical(drawn.sort(dim=1).values, torch.arange(6).expand(len(drawn), -1))
    assert_identical(drawn[1::2], drawn[::2].flip(1))
    assert_identical(drawn, antithetic_permutations(6, 10, seed=3))
    assert_far_from(drawn, antithetic_permutations(6, 10, seed=4))


def test_prefixes_are_who_has_joined_so_far():
    prefixes = prefix_coalitions(torch.tensor([[2, 0, 1]]))
    assert prefixes.int().tolist() == [[[0, 0, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]]


@pytest.mark.parametrize("n_players", [2, 5, 9])
def test_estimates_are_efficient_exactly_and_true_within_their_errors(n_players):
    generator = torch.Generator().manual_seed(n_players)
    table = torch.randn(3, 2**n_players, generator=generator, dtype=torch.float64)
    rule = resolve_shapley_rule(n_players, n_permutations=400, seed=1)
    every = {tuple(c.tolist()): i for i, c in enumerate(all_coalitions(n_players))}
    of_rule = table[:, [every[tuple(c.tolist())] for c in rule.coalitions]]
    estimates, errors = rule.credits(of_rule)
    exact = shapley_values(table)
    np.testing.assert_allclose(estimates.sum(1), table[:, -1] - table[:, 0], atol=1e-12)
    assert ((estimates - exact).abs() <= 4 * errors + 1e-12).all()
    assert errors.max() < 0.2


def test_standard_errors_describe_the_spread_between_samples():
    table = torch.randn(1, 2**7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prefixes = [antithetic_permutations(7, 40, seed) for seed in range(60)]
    bits = 2 ** torch.arange(7).flip(0)
    found = [
        estimate_shapley_values(p, table[:, (prefix_coalitions(p).long() * bits).sum(2)])
        for p in prefixes
    ]
    estimates, errors = (torch.cat(of_all) for of_all in zip(*found, strict=True))
    ratio = estimates.std(0) / errors.square().mean(0).sqrt()
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_games_without_interaction_are_estimated_without_error():
    weights = torch.tensor([1.0, -2.0, 0.5, 4.0]).double()
    rule = resolve_shapley_rule(4, n_permutations=4, seed=0)
    estimates, errors = rule.credits((rule.coalitions.double() @ weights)[None])
    torch.testing.assert_close(estimates[0], weights)
    np.testing.assert_allclose(errors, 0, atol=1e-15)


def test_coalitions_of_sampled_orders_are_valued_once():
    rule = resolve_shapley_rule(4, n_permutations=200, seed=0)
    assert_identical(rule.coalitions, all_coalitions(4))


def test_exact_values_are_the_default_up_to_fourteen_players():
    assert resolve_shapley_rule(14, n_permutations=None, seed=0) == ShapleyRule(14)
    assert resolve_shapley_rule(3, n_permutations=0, seed=0) == ShapleyRule(3)
    sampled = resolve_shapley_rule(15, n_permutations=None, seed=7)
    assert sampled.permutations is not None and sampled.permutations.shape == (100, 15)
    assert "sampled with 100 permutations in pairs of opposite order, seed 7" in sampled.describe(
        "layers"
    )
    assert ShapleyRule(4).describe("layers") == (
        "exact Shapley values over all 2^4 = 16 coalitions of layers"
    )


@pytest.mark.parametrize(
    ("n_players", "options", "error", "message"),
    [
        (16, {"n_permutations": 0}, ValueError, "16 players have 2\\^16 = 65,536 coalitions.*100"),
        (3, {"n_permutations": 2}, ValueError, "even and at least 4, got 2"),
        (3, {"n_permutations": 7}, ValueError, "even and at least 4, got 7"),
        (3, {"n_permutations": -4}, ValueError, "n_permutations must be at least 0, got -4"),
        (3, {"n_permutations": 4.0}, TypeError, "n_permutations must be an integer, got float"),
        (3, {"n_permutations": True}, TypeError, "n_permutations must be an integer, got bool"),
        (3, {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (3, {"seed": None}, TypeError, "seed must be an integer, got NoneType"),
    ],
)
def test_bad_options_are_named_with_their_remedy(n_players, options, error, message):
    with pytest.raises(error, match=message):
        resolve_shapley_rule(n_players, **{"n_permutations": None, "seed": 0} | options)
