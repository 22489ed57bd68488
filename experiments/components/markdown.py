"""The experiment's tables as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments.common.markdown import markdown_table
from experiments.components.ablation import EFFECTS, KINDS, SCOPES
from experiments.components.outcomes import Outcome
from experiments.components.tables import NUMBERS

_SHOWN_HEADS = 10
_HEADER = """# Components of the embedded model's answers, and ablations

Written by `python -m experiments.components.show`; explained in [README.md](README.md). Numbers
are means over cases ± their standard errors.
"""


def tables_page(outcomes: Sequence[Outcome]) -> str:
    """Return all tables as one page."""
    return "\n".join([_HEADER, *(part for outcome in outcomes for part in _family(outcome))])


def _family(outcome: Outcome) -> list[str]:
    p, log_p, difference = outcome.clean
    return [
        f"## {outcome.family.title}\n",
        f"{outcome.n_cases} held-out prompts that the model answers right, of {outcome.n_asked} "
        f"asked. Mean p {p:.4f}, mean log p {log_p:.4f}, mean logit difference from the wrong "
        f"answer {difference:.2f}.\n",
        "### The heads with the largest mean credit\n",
        "Δp: by how much the probability falls when this head alone is ablated.\n",
        _heads(outcome.heads),
        "### What they read\n",
        "Mean credit of p, by the role of the token that was read. (All MLPs together: "
        f"{_with_error(*outcome.mlp_credit)}.)\n",
        _roles(outcome.roles),
        "### Probability after ablating several heads\n",
        f"Without ablation {p:.4f}. Every prompt has its own order of heads.\n",
        _ablations(outcome.ablations, "p"),
        "### Log-probability after ablating several heads\n",
        f"Without ablation {log_p:.4f}.\n",
        _ablations(outcome.ablations, "log p"),
        "### Rank correlation with ablating single heads\n",
        "Spearman's, over all heads, of the means over prompts, with its 95 % bootstrap interval "
        "over prompts; in brackets the mean over prompts of the correlation within each.\n",
        *(
            part
            for effect in EFFECTS
            for part in (f"Effect on {effect}:\n", _correlations(outcome.correlations, effect))
        ),
    ]


def _heads(table: pd.DataFrame) -> str:
    names = [name for name in table.columns if not name.startswith("±")]
    shown = table.head(_SHOWN_HEADS)
    rows = [
        [str(head), *(_with_error(row[name], row[f"±{name}"]) for name in names)]
        for head, row in shown.iterrows()
    ]
    rest = table.iloc[_SHOWN_HEADS:]
    rows.append([f"{len(rest)} others, sum", *(f"{rest[name].sum():+.3f}" for name in names)])
    return markdown_table(["head", *names], rows)


def _roles(table: pd.DataFrame) -> str:
    names = [name for name in table.columns if not name.startswith("±")]
    rows = [
        [str(head), *(_with_error(row[name], row[f"±{name}"]) for name in names)]
        for head, row in table.iterrows()
    ]
    return markdown_table(["head", *names], rows)


def _ablations(table: pd.DataFrame, effect: str) -> str:
    rows = []
    for kind in KINDS:
        for scope in SCOPES:
            here = table[(table["kind"] == kind) & (table["scope"] == scope)]
            for order in here["order"].unique():
                row = here[here["order"] == order].set_index("heads")
                cells = [
                    f"{row.loc[k, effect]:.3f} ± {row.loc[k, f'±{effect}']:.3f}" for k in NUMBERS
                ]
                rows.append([f"{kind}, {scope}", order, *cells])
    names = [f"{k} head{'s' if k > 1 else ''}" for k in NUMBERS]
    return markdown_table(["ablation", "heads ablated", *names], rows)


def _correlations(table: pd.DataFrame, effect: str) -> str:
    here = table[table["effect"] == effect]
    rows = []
    for measure in here["measure"].unique():
        cells = []
        for kind in KINDS:
            for scope in SCOPES:
                found = here[
                    (here["measure"] == measure) & (here["kind"] == kind) & (here["scope"] == scope)
                ].iloc[0]
                cells.append(
                    f"{found['of means']:.2f} [{found['low']:.2f}, {found['high']:.2f}] "
                    f"({found['of cases']:.2f})"
                )
        rows.append([measure, *cells])
    return markdown_table(
        ["measure", *(f"{kind}, {scope}" for kind in KINDS for scope in SCOPES)], rows
    )


def _with_error(mean: float, error: float) -> str:
    return f"{mean:+.3f} ± {error:.3f}"
