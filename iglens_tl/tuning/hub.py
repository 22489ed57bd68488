"""Published tuned lenses on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

REPO_ID, REPO_TYPE = "AlignmentResearch/tuned-lens", "space"
"""Where lenses are published, unless TUNED_LENS_REPO_ID and TUNED_LENS_REPO_TYPE say otherwise."""

_PARAMETERS = ("params.pt", "params.safetensors")


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
