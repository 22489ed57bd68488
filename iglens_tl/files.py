"""Writing files so that an interruption leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: str | Path, write: Callable[[Path], object], *, durable: bool = False
) -> Path:
    """Let `write` fill a temporary file beside `path`, then move it there.

    Args:
        path: The file.
        write: Fills the file whose path it is given.
        durable: Whether the file has reached the disk before it is moved, so that it is whole also
            after the power failed.

    Raises:
        ValueError: If the folder does not exist or cannot be written to.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        os.close(handle)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        write(temporary)
        # A temporary file is private; the result gets the permissions of an ordinary new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
