"""The package's public names and version, each of which stands in one place."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import iglens_tl

PACKAGE = Path(iglens_tl.__file__).parent
STUB = PACKAGE / "__init__.pyi"


def names_of_the_stub() -> list[str]:
    tree = ast.parse(STUB.read_text())
    return [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]


def public_objects() -> dict[str, object]:
    """Return what the package defines under names without an underscore, by these names."""
    found = {}
    for module in pkgutil.walk_packages([str(PACKAGE)], "iglens_tl."):
        if module.name.startswith("iglens_tl.cli") or "._" in module.name:
            continue
        for name, entry in vars(importlib.import_module(module.name)).items():
            if getattr(entry, "__module__", None) == module.name and not name.startswith("_"):
                found[name] = entry
    return found


def test_every_name_of_the_stub_is_there_once_and_is_no_module():
    names = names_of_the_stub()
    assert names == list(dict.fromkeys(names))
    assert sorted(names) == sorted(iglens_tl.__all__)
    for name in names:
        assert not isinstance(getattr(iglens_tl, name), types.ModuleType)
        assert name in dir(iglens_tl)
    with pytest.raises(AttributeError, match="ig_lenz"):
        _ = iglens_tl.ig_lenz


def test_the_stub_names_every_lens_warning_and_result():
    from iglens_tl.lenses import LENSES, ORDERS, Lens

    needed = {lens.__name__ for lens in (*LENSES.values(), *ORDERS.values())} | set(LENSES)
    for name, entry in public_objects().items():
        if inspect.isclass(entry) and not inspect.isabstract(entry):
            is_result = hasattr(entry, "to_frame") and hasattr(entry, "figure")
            if is_result or issubclass(entry, (Warning, Lens)):
                needed.add(name)
    assert needed <= {*iglens_tl.__all__, *INNER}


INNER = {"LayerParts", "UnitAblation", "EarlyExit"}
"""What public lenses are made of, which nobody makes by themselves."""


def test_a_tree_that_is_not_installed_knows_its_version():
    # Without the site's packages there is no metadata to ask; the loader is put in its place.
    loader = Path(importlib.import_module("lazy_loader").__file__ or "").parent.parent
    code = (
        f"import sys; sys.path[:0] = [{str(PACKAGE.parent)!r}]; sys.path.append({str(loader)!r});"
        "import iglens_tl; print(iglens_tl.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == iglens_tl.__version__


def test_the_version_stands_in_the_package_alone():
    pyproject = (PACKAGE.parent / "pyproject.toml").read_text()
    assert iglens_tl.__version__ not in pyproject
    assert 'attr = "iglens_tl.__version__"' in pyproject
