"""Where the files needed at run time lie: weights, reference face, landmark scheme, sample scan."""

from __future__ import annotations

from pathlib import Path


def resource_path(name: str) -> Path:
    """Return the path of a bundled file.

    Inside Slicer and in a checkout ``Resources`` stands beside the library folder (Slicer's convention for scripted
    modules); ``pip install`` puts it inside the package.

    Parameters
    ----------
    name : path below ``Resources``, for example ``"ReferenceFace.npz"``.

    Raises
    ------
    FileNotFoundError
        If the installation lacks the file.
    """
    library = Path(__file__).resolve().parent
    for folder in (library / "Resources", library.parent / "Resources"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"The PALNetLandmarks installation lacks '{name}'; install it again.")
