"""Checkpoints: the state of a training run on disk, replaced atomically after every epoch.

In: a dict of tensors, numbers and strings. Out: an equal dict, loaded with `weights_only=True`. The
file is written under another name and then renamed, so a process that is killed while it writes
leaves the previous checkpoint.
"""

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from embedlab.datasets.cache import DAMAGED_ARRAY, cache_folder, working_folder
from embedlab.distributed.collectives import broadcast
from embedlab.distributed.env import is_main_process
from embedlab.errors import DataError, DivergedError, LostProcessError

STATE_FILE, RESUMED_FILE = "last.pt", "resumed.txt"
DAMAGED_CHECKPOINT = (*DAMAGED_ARRAY, pickle.UnpicklingError)


class Checkpoints:
    """The checkpoints of one training, in the cache folder of this machine, by the run's id.

    resumed_id  id of the run that this one continues; "" for none.
    """

    def __init__(self, run_id: str, resumed_id: str = ""):
        self.folder = cache_folder() / "checkpoints" / run_id
        self.file = self.folder / STATE_FILE
        self.resumed_id = resumed_id

    def save(self, state: dict) -> None:
        """Write the state at rank 0; do nothing at the other ranks.

        Raises DataError if the disk is full or not writable.
        """
        if not is_main_process():
            return
        try:
            with working_folder(self.folder) as work:
                if self.resumed_id:
                    (work / RESUMED_FILE).write_text(self.resumed_id, encoding="utf-8")
                    os.replace(work / RESUMED_FILE, self.folder / RESUMED_FILE)
                with open(work / STATE_FILE, "wb") as out:
                    torch.save(state, out)
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(work / STATE_FILE, self.file)
        except (OSError, RuntimeError) as error:  # torch's zip writer has errors of its own
            raise DataError(
                f"The checkpoint {self.file} cannot be written ({error}); make room, or set "
                "EMBEDLAB_CACHE to a folder with room."
            ) from error

    def load(self) -> dict:
        """The saved state. Raises DataError if there is no checkpoint or the file is damaged."""
        if not self.file.is_file():
            raise DataError(
                f"resume: run {self.folder.name} has no checkpoint in {self.folder.parent}: "
                "expected the id of a finetune run that was stopped on this machine, with the same "
                "EMBEDLAB_CACHE (a run that has finished keeps none)."
            )
        try:
            with zipfile.ZipFile(self.file) as archive:  # torch does not check its own checksums
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            return torch.load(self.file, map_location="cpu", weights_only=True)
        except DAMAGED_CHECKPOINT as error:
            raise DataError(
                f"resume: {self.file} is damaged ({type(error).__name__}); start anew without "
                "resume."
            ) from error

    def load_resumed(self) -> dict:
        """The state of the run that this one continues, at every rank; {} if it continues none."""
        return broadcast(Checkpoints(self.resumed_id).load) if self.resumed_id else {}

    @contextmanager
    def hint_at_resume(self, notify: Callable[[str], object]) -> Iterator["Checkpoints"]:
        """Yield these checkpoints; if the block is stopped, `notify` the user how to resume it.

        If the training diverged, its checkpoint is not kept but deleted.
        """
        try:
            yield self
        except DivergedError:
            self.delete()  # resuming it would end the same way
            raise
        except (KeyboardInterrupt, SystemExit, LostProcessError):
            if self.file.is_file():
                notify(f"Continue after the last complete epoch with -P resume={self.folder.name}")
            raise

    def delete(self) -> None:
        """Delete the checkpoint of this run and of those that it resumed."""
        with suppress(OSError, ValueError):
            # A power failure may leave the file empty; an empty id names the folder of all runs.
            if resumed_id := (self.folder / RESUMED_FILE).read_text(encoding="utf-8"):
                Checkpoints(resumed_id).delete()
        shutil.rmtree(self.folder, ignore_errors=True)
