"""Where a controller keeps what is not for its store: the cluster's keys, tokens, the audit log."""

from __future__ import annotations

from pathlib import Path

from controller.store.open import folder_of


def key_file(store: str, data_dir: str) -> str:
    """For a controller that is told of no file of cluster keys: in `data_dir`, else beside an SQLite store.

    Empty when neither says where.
    """
    folder = Path(data_dir) if data_dir else folder_of(store)
    return str(folder / "cluster.key") if folder else ""
