"""Explain faults of the machine: what went wrong, why, what to do. Any other exception is a defect, shown whole."""

from __future__ import annotations

import errno

from engine.errors import DraftbenchError, is_out_of_memory

_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file may not grow more",
}
_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


def explain(error: BaseException) -> DraftbenchError | None:
    """The error as one that a user can act on, or None if it is not the machine's."""
    if isinstance(error, DraftbenchError):
        return error
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_out_of_memory(error):
        return DraftbenchError(
            "out of memory",
            text,
            "lower capture.batch_size or train.micro_batch_tokens (the result stays the same), or use a smaller target",
        )
    if not isinstance(error, OSError):
        return None
    if error.errno in _DISK:
        return DraftbenchError(
            f"{_DISK[error.errno]}: could not write {error.filename or 'a file'}",
            "what was finished before is intact and is not done again",
            "free some space (or point DRAFTBENCH_HOME at a larger disk), then resume",
        )
    if error.errno in _PLACE:
        return DraftbenchError(
            f"cannot use {error.filename or 'a file'}: {error.strerror}",
            "results and fetched files are written there",
            "`draftbench paths` shows the folders; choose others with DRAFTBENCH_HOME and DRAFTBENCH_CACHE",
        )
    return None
