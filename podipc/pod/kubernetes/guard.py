"""Sees to it that a Pod in a cluster goes when this process dies, SIGKILL included."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence

from podipc.pod.children import environment
from podipc.pod.errors import NotHere
from podipc.pod.guardian import Guardian


class Guard:
    """A guardian that deletes a Pod, and removes the paths `at_end`.

    Raises
    ------
    NotHere
        Its process cannot be started.
    """

    def __init__(
        self, at_end: Sequence[str], namespace: str, name: str, instance: str, context: str | None
    ) -> None:
        # While it is there, the Pod may be, too.
        handle, self._mark = tempfile.mkstemp(prefix="podipc-pod-")
        os.close(handle)
        try:
            self._guardian = Guardian()
        except OSError as error:
            os.unlink(self._mark)
            raise NotHere(
                f"the process that clears up after Pod {name!r} does not start: {error}"
            ) from error
        for each in (*at_end, self._mark):
            self._guardian.remove_at_end(each)
        command = [sys.executable, "-m", "podipc.pod.kubernetes.delete", namespace, name, instance]
        command += ["--context", context] if context else []
        if_marked = ["sh", "-c", 'test ! -e "$0" || exec "$@"', self._mark, *command]
        self._guardian.at_end(if_marked, environment())

    def close(self, *, is_gone: bool) -> list[str]:
        """Carry that out now, the deletion unless the Pod `is_gone`; what failed, a line each."""
        if is_gone:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._mark)
        return self._guardian.close()
