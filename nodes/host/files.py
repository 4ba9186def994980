"""Folders and files of the host."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FOLDERS = ("membranes", "loras")  # where files are looked for, the first one by bare names
POLICIES = "membrane_policies"  # the model folder of the firewall's policy files
_POLICY_ENDINGS = {".json", ".toml", ".csv", ".txt"}
ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # of files to load; none is ever unpickled


def register_folders() -> None:
    """Our folders below ``models``; places that a user's settings name for them stay, too."""
    import folder_paths

    for name, own in ((FOLDERS[0], set(ENDINGS)), (POLICIES, _POLICY_ENDINGS)):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name), is_default=True)
        places, endings = folder_paths.folder_names_and_paths[name]
        folder_paths.folder_names_and_paths[name] = (places, set(endings) | own)


def policy_names() -> list[str]:
    """Policy files to choose from, with forward slashes."""
    import folder_paths

    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list(POLICIES))
    return [name for name in names if Path(name).suffix.lower() in _POLICY_ENDINGS]


def policy_path(name: str) -> Path | None:
    """Where a policy file lies; None if there is none of that name."""
    import folder_paths

    if name not in policy_names():
        return None
    return Path(folder_paths.get_full_path_or_raise(POLICIES, name))


def file_names() -> list[str]:
    """Files to choose from, with forward slashes; those in ``loras`` as ``loras/NAME``."""
    return [shown for shown, _, _ in _files()]


def file_path(name: str) -> Path | None:
    """Where the file that is listed as ``name`` lies; None if there is none. Nothing outside the folders is found."""
    import folder_paths

    for shown, kind, listed in _files():
        if shown == name.replace("\\", "/"):
            return Path(folder_paths.get_full_path_or_raise(kind, listed))
    return None


def _files() -> Iterable[tuple[str, str, str]]:
    import folder_paths

    for kind in FOLDERS:
        for listed in folder_paths.get_filename_list(kind):
            if listed.lower().endswith(ENDINGS):
                shown = listed.replace("\\", "/")
                yield (shown if kind == FOLDERS[0] else f"{kind}/{shown}"), kind, listed


def folder_for(kind: str) -> Path:
    """The folder that new files of ``kind`` go into."""
    import folder_paths

    return Path(folder_paths.get_folder_paths(kind)[0])


def save_place(name: str, folder: Path) -> Path:
    """``name`` (subfolders and %date% patterns allowed) inside ``folder``, made if missing; raises outside of it."""
    import folder_paths

    inside, file, *_ = folder_paths.get_save_image_path(name, str(folder))
    return Path(inside) / file
