"""What a test may not write when it compares numbers, read off its syntax tree.

The rules follow `tests/support/closeness.py`: floats that two kernels computed are compared
relative to the size of their tensor, and what has to be identical says so. A syntax tree knows
no types, so the rules go by what can be seen: the functions that compare bit by bit, tolerances
that are zero, and `==` beside an attribute or a call that only ever gives floats.
"""

from __future__ import annotations

import ast

BIT_BY_BIT = (
    "torch.equal",
    "np.array_equal",
    "np.testing.assert_array_equal",
    "np.testing.assert_equal",
)
"""Functions that compare bit by bit without saying why the bits are the same."""

NEED_ATOL = {
    "np.testing.assert_allclose": "atol",
    "np.allclose": "atol",
    "np.isclose": "atol",
    "torch.allclose": "atol",
    "torch.isclose": "atol",
    "math.isclose": "abs_tol",
    "pd.testing.assert_frame_equal": "atol",
    "pd.testing.assert_series_equal": "atol",
}
"""Functions whose absolute tolerance is zero, or next to it, unless it is given."""

FLOATS = {
    *("values", "levels", "changes", "sums", "final", "baseline", "recovered"),
    *("clean_value", "corrupted_value", "embed_value", "completeness_error", "segment_error"),
    *("probs", "logits", "gradients", "slopes", "entropies", "log_normalizers", "target_logits"),
    *("grad", "weight", "bias"),
}
"""Attributes of results, readings and modules that hold computed floats."""

FLOAT_CALLS = {"item", "mean", "std", "norm"}
"""Methods whose result is a float, or is compared with a written whole number."""

UNWRAPPED_CALLS = {"tolist", "numpy", "to_numpy", "all", "detach", "reshape"}


def find_exact_comparisons(source: str) -> list[tuple[int, str]]:
    """Return the line and the fault of every comparison of floats that allows no rounding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) in BIT_BY_BIT or node.attr == "equals":
                found.append((node.lineno, f"{ast.unparse(node)}: use assert_identical"))
        elif isinstance(node, ast.Call):
            found.extend((node.lineno, fault) for fault in _faults_of_call(node))
        elif isinstance(node, ast.Compare) and _compares_floats(node):
            found.append((node.lineno, f"{ast.unparse(node)}: use assert_close_to"))
    return sorted(found)


def _faults_of_call(node: ast.Call) -> list[str]:
    """Return what is wrong with the tolerances of a call."""
    name = ast.unparse(node.func)
    options = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in NEED_ATOL and not _is_positive(options.get(NEED_ATOL[name])):
        return [f"{name} without {NEED_ATOL[name]}: use assert_close_to"]
    if name == "torch.testing.assert_close" and options.keys() & {"atol", "rtol"}:
        # Without either, PyTorch takes an absolute tolerance of its own.
        return [] if _is_positive(options.get("atol")) else [f"{name} without atol"]
    if name == "pytest.approx":
        if "abs" in options and not _is_positive(options["abs"]):
            return ["pytest.approx with abs=0"]
        if not options and not (node.args and _is_written_out(node.args[0])):
            return ["pytest.approx of a computed number states neither abs nor rel"]
    return []


def _is_positive(value: ast.expr | None) -> bool:
    if value is None:
        return False
    return not (isinstance(value, ast.Constant) and value.value == 0)


def _is_written_out(node: ast.expr) -> bool:
    """Return whether an expression consists of literals and arithmetic."""
    allowed = (ast.Constant, ast.BinOp, ast.UnaryOp, ast.List, ast.Tuple, ast.Dict)
    marks = (ast.operator, ast.unaryop, ast.expr_context)
    return all(isinstance(part, (*allowed, *marks)) for part in ast.walk(node))


def _compares_floats(node: ast.Compare) -> bool:
    """Return whether `==` or `!=` stands beside computed floats."""
    if not all(isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops):
        return False
    sides = [node.left, *node.comparators]
    if any(_is_approx(side) or _is_whole(side) for side in sides):
        return False
    return any(_is_float(side) for side in sides)


def _is_approx(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Call) and ast.unparse(part.func) == "pytest.approx"
        for part in ast.walk(node)
    )


def _is_whole(node: ast.expr) -> bool:
    """Return whether everything in an expression is a written number, text, truth or None.

    Comparing with 0, 1 or 3.0 asks for an exact zero, a count or an exact sum of whole numbers.
    """
    if not _is_written_out(node):
        return False
    numbers = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return not any(isinstance(each, float) and not each.is_integer() for each in numbers)


def _is_float(node: ast.expr) -> bool:
    """Return whether an expression ends in what only computed floats have."""
    if isinstance(node, ast.Subscript):
        return _is_float(node.value)
    if isinstance(node, ast.UnaryOp):
        return _is_float(node.operand)
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(map(_is_float, node.elts))
    if isinstance(node, ast.BinOp):
        return _is_float(node.left) or _is_float(node.right)
    if isinstance(node, ast.Attribute):
        return node.attr in FLOATS
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in UNWRAPPED_CALLS:
            return _is_float(node.func.value)
        return node.func.attr in FLOAT_CALLS
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "float"
