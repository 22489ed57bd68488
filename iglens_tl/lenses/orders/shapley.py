"""Shapley values of games that are given as tables (Shapley, "A value for n-person games", 1953).

A game gives every coalition of players a value. A player's Shapley value is the mean, over all
orders in which the players could join, of what the value changes when the player joins. The values
of all players sum to that of all players together minus that of nobody (efficiency), exactly so
also when the orders are sampled, because the changes along one order telescope.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.arguments import Count, resolve_count

MOST_PLAYERS = 14
"""Up to this many players every coalition is valued: 2^14 = 16,384."""

DEFAULT_PERMUTATIONS = 100
"""The number of sampled orders where there are more players and none is asked for."""


@dataclass(frozen=True)
class ShapleyRule:
    """The coalitions of a game that are valued, and the way from them to credits.

    Attributes:
        n_players: Number of players.
        permutations: `[permutation, player]`, sampled orders, each followed by its reverse; None
            where every coalition is valued.
        seed: What the orders were drawn with.
    """

    n_players: int
    permutations: Int[Tensor, "permutation player"] | None = None
    seed: int | None = None

    @property
    def options(self) -> dict[str, int | None]:
        """The options for a result's provenance; 0 permutations are all of them."""
        n_permutations = 0 if self.permutations is None else len(self.permutations)
        return {"n_permutations": n_permutations, "seed": self.seed}

    @property
    def coalitions(self) -> Bool[Tensor, "coalition player"]:
        """The coalitions to value, each once, as binary numbers: nobody first, all last."""
        if self.permutations is None:
            return all_coalitions(self.n_players)
        return self._distinct()[0]

    def credits(
        self, values: Float[Tensor, "target coalition"]
    ) -> tuple[Float[Tensor, "target player"], Float[Tensor, "target player"] | None]:
        """Return the Shapley values and, where orders were sampled, their standard errors.

        Args:
            values: The value of each of `coalitions`.
        """
        if self.permutations is None:
            return shapley_values(values), None
        along_orders = values[:, self._distinct()[1]]
        return estimate_shapley_values(self.permutations, along_orders)

    def describe(self, players: str) -> str:
        """Say in a sentence how the values were found, calling the players by what they are."""
        n_coalitions = f"2^{self.n_players} = {2**self.n_players:,} coalitions"
        if self.permutations is None:
            return f"exact Shapley values over all {n_coalitions} of {players}"
        return (
            f"Shapley values of {players} ({n_coalitions}), sampled with {len(self.permutations)} "
            f"permutations in pairs of opposite order, seed {self.seed}; their standard errors "
            "are in statistics['standard_error']"
        )

    def _distinct(self) -> tuple[Tensor, Tensor]:
        """Return the coalitions, and `[permutation, prefix]` which of them each prefix is."""
        assert self.permutations is not None
        prefixes = prefix_coalitions(self.permutations)
        distinct, places = prefixes.flatten(0, 1).unique(dim=0, return_inverse=True)
        return distinct, places.view(prefixes.shape[:2])


def resolve_shapley_rule(
    n_players: int, *, n_permutations: Count | None, seed: Count
) -> ShapleyRule:
    """Choose between all coalitions and sampled orders.

    Args:
        n_players: Number of players.
        n_permutations: How many orders to sample; 0 values every coalition; None does so for up to
            `MOST_PLAYERS` players, and samples `DEFAULT_PERMUTATIONS` orders beyond.
        seed: Seed of the sampled orders.

    Raises:
        TypeError: For anything but integers.
        ValueError: For a negative number, an odd number of orders or fewer than four, or more
            players than an exact value allows.
    """
    check_sample(n_permutations, seed)
    if n_permutations == 0 and n_players > MOST_PLAYERS:
        raise ValueError(
            f"{n_players} players have 2^{n_players} = {2**n_players:,} coalitions; exact Shapley "
            f"values are computed for at most {MOST_PLAYERS} players. Sample them instead: leave "
            f"out n_permutations, or give their number, such as {DEFAULT_PERMUTATIONS}"
        )
    if n_permutations is None:
        n_permutations = 0 if n_players <= MOST_PLAYERS else DEFAULT_PERMUTATIONS
    if n_permutations == 0:
        return ShapleyRule(n_players)
    return ShapleyRule(n_players, antithetic_permutations(n_players, n_permutations, seed), seed)


def check_sample(n_permutations: Count | None, seed: Count) -> None:
    """Check how orders are to be sampled, as far as that can be done without a model.

    Raises:
        TypeError: For anything but integers.
        ValueError: For a negative number, an odd number of orders or fewer than four.
    """
    resolve_count("seed", seed, least=0)
    if n_permutations is None:
        return
    resolve_count("n_permutations", n_permutations, least=0)
    if n_permutations % 2 or 0 < n_permutations < 4:
        raise ValueError(
            f"n_permutations must be even and at least 4, got {n_permutations}: every order comes "
            "with its reverse, and standard errors need two such pairs"
        )


def all_coalitions(n_players: int) -> Bool[Tensor, "coalition player"]:
    """Return every coalition, in the order of binary numbers: the first player is the first bit."""
    return (torch.arange(2**n_players)[:, None] >> torch.arange(n_players).flip(0)) % 2 == 1


def shapley_values(
    values: Float[Tensor, "target coalition"],
) -> Float[Tensor, "target player"]:
    """Compute exact Shapley values.

    Args:
        values: The value of each coalition of `all_coalitions`.

    Returns:
        The values, in float64.
    """
    values = values.double()
    n_players = values.shape[1].bit_length() - 1
    coalitions = all_coalitions(n_players)
    # How often a coalition is what a player finds on joining, in a random order.
    by_size = [factorial(k) * factorial(n_players - k - 1) for k in range(n_players)]
    shares = torch.tensor([n / factorial(n_players) for n in by_size], dtype=torch.float64)
    credits = values.new_zeros(len(values), n_players)
    for player in range(n_players):
        without = (~coalitions[:, player]).nonzero().squeeze(-1)
        gains = values[:, without + 2 ** (n_players - 1 - player)] - values[:, without]
        credits[:, player] = gains @ shares[coalitions[without].sum(1)]
    return credits


def antithetic_permutations(
    n_players: int, n_permutations: int, seed: int
) -> Int[Tensor, "permutation player"]:
    """Draw orders of the players, each followed by its reverse.

    A player who joins early in one joins late in the other, which cancels much of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(n_players, generator=generator) for _ in range(n_permutations // 2)]
    return torch.stack([order for one in drawn for order in (one, one.flip(0))])


def prefix_coalitions(
    permutations: Int[Tensor, "permutation player"],
) -> Bool[Tensor, "permutation prefix player"]:
    """Return who has joined after none, one, …, all steps of each order."""
    n_players = permutations.shape[1]
    joins_at = permutations.argsort(dim=1)
    return joins_at[:, None, :] < torch.arange(n_players + 1)[:, None]


def estimate_shapley_values(
    permutations: Int[Tensor, "permutation player"],
    values: Float[Tensor, "target permutation prefix"],
) -> tuple[Float[Tensor, "target player"], Float[Tensor, "target player"]]:
    """Estimate Shapley values from sampled orders.

    Args:
        permutations: Orders of the players, each followed by its reverse.
        values: The value of every prefix of each order.

    Returns:
        The estimates, and their standard errors from the spread between pairs of opposite orders.
    """
    joins_at = permutations.argsort(dim=1).expand(len(values), -1, -1)
    gains = values.double().diff(dim=2).gather(2, joins_at)
    of_pairs = gains.unflatten(1, (-1, 2)).mean(2)
    return of_pairs.mean(1), of_pairs.std(1) / of_pairs.shape[1] ** 0.5
