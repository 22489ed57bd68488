"""Executing notebooks from top to bottom.

Beside every interactive figure a static picture is kept, because viewers such as GitHub's show no
interactive ones. The pictures are added from outside, so that the notebooks themselves say nothing
about them and show figures in whatever way suits the reader's own Jupyter.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nbformat
import plotly.io
from nbclient import NotebookClient

from experiments.common.pictures import take_pictures

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"

INTERACTIVE = "application/vnd.plotly.v1+json"
"""The type of an interactive figure, which holds the figure's data and no plotly.js."""

STATIC = "image/png"

_TIMEOUT = 600


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook as it is after its cells have run in a fresh kernel, without pictures.

    Args:
        path: The notebook, which is not changed.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=40"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=_environment())
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def add_pictures(notebook: nbformat.NotebookNode) -> None:
    """Add a static picture to every output that holds an interactive figure."""
    outputs = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if INTERACTIVE in output.get("data", {})
    ]
    figures = {
        str(number): plotly.io.from_json(json.dumps(output.data[INTERACTIVE]), skip_invalid=True)
        for number, output in enumerate(outputs)
    }
    with tempfile.TemporaryDirectory() as folder:
        for output, file in zip(outputs, take_pictures(figures, Path(folder)), strict=True):
            output.data[STATIC] = base64.b64encode(file.read_bytes()).decode()
            # Pictures have more pixels than they are wide on the page.
            layout = figures[file.stem].layout
            output.metadata[STATIC] = {"width": layout.width, "height": layout.height}


def _environment() -> Mapping[str, str]:
    """Return the environment of the kernel."""
    return os.environ | {
        "PLOTLY_RENDERER": "plotly_mimetype",
        # This checkout's package, wherever another one may be installed.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Advice to install widgets, for progress bars that are off.
        "PYTHONWARNINGS": "ignore:IProgress not found",
        # Sums are rounded alike whatever the number of cores.
        "OMP_NUM_THREADS": "1",
    }


def main() -> None:
    """Execute notebooks in place."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="by default all of them")
    for path in parser.parse_args().notebooks or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = execute(path.resolve())
        add_pictures(notebook)
        nbformat.write(notebook, path)
        print(f"executed {path.name}")


if __name__ == "__main__":
    main()
