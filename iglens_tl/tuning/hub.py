"""Find the tuned lens that a user means: shipped, in a folder, or published on the hub."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.loading import DEMO_FOLDER
from iglens_tl.tuning.evaluation import known_names
from iglens_tl.tuning.storage import CONFIG, read_folder
from iglens_tl.tuning.translators import Translators

DEMO_LENS = Path(__file__).parent / "demo"
"""The tuned lens of the embedded model."""

if TYPE_CHECKING:
    NameOrPath: TypeAlias = str | Path
    LensLike: TypeAlias = NameOrPath | Translators
else:  # anything may arrive here; it is answered with a readable error
    NameOrPath = LensLike = Any

REPO_ID, REPO_TYPE = "AlignmentResearch/tuned-lens", "space"
"""The repository of published lenses, unless TUNED_LENS_REPO_ID and _TYPE say otherwise."""

_PARAMETERS = ("params.pt", "params.safetensors")


def resolve_translators(adapter: ModelAdapter, lens: LensLike = "auto") -> Translators:
    """Return the translators that a user asks for.

    Args:
        adapter: The model.
        lens: Translators, a folder, the name of a published lens, or "auto" for the one that is
            shipped for the embedded model or published for this one.

    Raises:
        TypeError: For anything else.
        NotApplicableError: If "auto" finds none.
        ValueError: If a named lens is missing or damaged.
    """
    if isinstance(lens, Translators):
        return lens
    if not isinstance(lens, str) or lens != "auto":
        return load_translators(lens)
    if _is_demo(adapter):
        return demo_translators()
    reasons = []
    for name in known_names(adapter):
        try:
            return load_translators(name)
        except ValueError as error:
            reasons.append(str(error))
    reason = (
        "; ".join(reasons) or "it was read from a folder, so no published lens can be looked up"
    )
    raise NotApplicableError(
        f"no tuned lens is known for {adapter.name} ({reason}); train one with "
        "iglens_tl.train_tuned_lens(model, texts) or `iglens tuned-lens train` and pass it as lens"
    )


def load_translators(name_or_path: NameOrPath, *, revision: str | None = None) -> Translators:
    """Read a lens from a folder, or from where the published lenses are.

    Parameter files are read as safetensors or with `torch.load(weights_only=True)`: code in them is
    never run.

    Args:
        name_or_path: A folder with `config.json` and the parameters, in today's or the older
            layout, or the name of a model whose published lens is wanted. Published lenses lie in
            the space `AlignmentResearch/tuned-lens` of the Hugging Face hub unless
            TUNED_LENS_REPO_ID and TUNED_LENS_REPO_TYPE name another place.
        revision: Revision of that place, for example "v0.0.4" for lenses in the older layout.

    Raises:
        TypeError: For anything but a string or a path.
        ValueError: For a missing, damaged, truncated or foreign lens.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(
            f"a lens must be a folder, a name or Translators, got {type(name_or_path).__name__}"
        )
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not (name.strip() and folder.is_dir()):
        looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        if not name.strip() or isinstance(name_or_path, Path) or looks_like_a_path:
            raise ValueError(
                f"there is no folder {name!r}; give a folder with {CONFIG} and the parameters, or "
                "the hub name of a model with a published lens"
            )
        folder = download_lens(name, revision=revision)
    return read_folder(folder, name)


@cache
def demo_translators() -> Translators:
    """Return the tuned lens of the embedded model."""
    return load_translators(DEMO_LENS)


def download_lens(model_name: str, *, revision: str | None = None) -> Path:
    """Fetch the published lens of a model into the hub's cache and return its folder.

    Lenses lie under `lens/<name>/`. Most names are full hub names, but the first ones that were
    published lack the organisation, so both are tried.

    Args:
        model_name: The model's name, for example "gpt2" or "EleutherAI/pythia-160m-deduped".
        revision: Revision of the place where the lenses lie.

    Raises:
        ValueError: If there is none, or the hub cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repo_id = os.environ.get("TUNED_LENS_REPO_ID", REPO_ID)
    repo_type = os.environ.get("TUNED_LENS_REPO_TYPE", REPO_TYPE)

    def fetch(resource: str, file: str) -> Any:
        return huggingface_hub.hf_hub_download(
            repo_id=repo_id,
            filename=f"lens/{resource}/{file}",
            repo_type=repo_type,
            revision=revision,
        )

    unreachable: Exception | None = None
    for resource in dict.fromkeys((model_name, model_name.split("/")[-1])):
        try:
            config = Path(fetch(resource, "config.json"))
            for file in _PARAMETERS:
                try:
                    fetch(resource, file)
                except LocalEntryNotFoundError:
                    raise
                except EntryNotFoundError:
                    continue
                return config.parent
        except LocalEntryNotFoundError as error:
            unreachable = error
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            unreachable = error
    where = f"the {repo_type} {repo_id!r} of the Hugging Face hub"
    if unreachable is not None:
        reason = str(unreachable).strip().splitlines()[0]
        raise ValueError(
            f"cannot get the tuned lens of {model_name!r} from {where}: {reason}"
        ) from unreachable
    raise ValueError(f"there is no tuned lens of {model_name!r} in {where}")


def _is_demo(adapter: ModelAdapter) -> bool:
    source = getattr(adapter.tokenizer, "name_or_path", None)
    if adapter.path != "demo" and not (source and Path(str(source)) == DEMO_FOLDER):
        return False
    # A model of that name that somebody else made has another shape.
    shipped = demo_translators()
    return (adapter.n_layers, adapter.readout.d_model) == (shipped.n_layers, shipped.d_model)
