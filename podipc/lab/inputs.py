"""Real tensors for `podipc compare --input`: .npy, .npz and .safetensors."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from podipc.lab.methods import Array

SUFFIXES = (".npy", ".npz", ".safetensors")


class InputError(ValueError):
    """The file cannot be used; the text says why."""


def check(path: Path) -> None:
    """That a file can be read, and has the name of one of tensors. Raises `InputError`."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: the name must end in {', '.join(SUFFIXES)}")
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is not a regular file")
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def read(path: Path) -> dict[str, Array]:
    """All tensors of a file by name, C-contiguous. Raises `InputError`."""
    check(path)
    try:
        if path.suffix == ".safetensors":
            found = _safetensors(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            if path.suffix == ".npy":
                found = {path.stem: loaded}
            else:
                with loaded:
                    found = {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # each format has its own ways to be malformed
        if "pickle" in str(error):  # what numpy says of whatever it does not know
            raise InputError(
                f"{path}: not a {path.suffix} file, or one that holds Python objects, "
                "which are not sent"
            ) from error
        raise InputError(f"{path}: {error}") from error
    if not found:
        raise InputError(f"{path}: there is no tensor in it")
    for name, array in found.items():
        if array.dtype.hasobject:
            raise InputError(f"{path}: {name!r} holds Python objects, which are not sent")
    return {name: np.asarray(array, order="C") for name, array in found.items()}


def size(path: Path) -> int:
    """Bytes of all its tensors, about. Raises `InputError`."""
    try:
        if path.suffix == ".npz":  # may be compressed
            with zipfile.ZipFile(path) as archive:
                return sum(member.file_size for member in archive.infolist())
        return path.stat().st_size
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: {error}") from error


def _safetensors(path: Path) -> dict[str, Array]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise InputError(
            f'{path}: safetensors is not installed: pip install "podipc[input]"'
        ) from None
    return load_file(path)


def flat(array: Array) -> Array:
    """The bytes of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8)


def digest(array: Array) -> str:
    """BLAKE2b of the bytes in C order, 128 bits, hexadecimal."""
    return hashlib.blake2b(flat(np.ascontiguousarray(array)).data, digest_size=16).hexdigest()


def describe(tensors: dict[str, Array]) -> list[dict[str, Any]]:
    """What the other side needs to know to check them."""
    return [
        {
            "name": name,
            "dtype": np.lib.format.dtype_to_descr(array.dtype),
            "shape": list(array.shape),
            "nbytes": array.nbytes,
            "digest": digest(array),
        }
        for name, array in tensors.items()
    ]


class Tensors:
    """The messages of a file: number `seq` is its tensor `seq` modulo their number.

    A whole check is one of dtype and shape, where the method carries them, and of
    a digest of all bytes. What was found to be right is kept, and a sampled check
    compares four places with it.
    """

    dtype = "|u1"

    def __init__(
        self, arrays: list[Array] | None, about: list[dict[str, Any]], *, typed: bool
    ) -> None:
        self.count = len(about)
        self._about = about
        self._typed = typed
        self._arrays = arrays or []
        self._right: dict[int, Array] = {}
        rng = np.random.default_rng(0)
        self._places = [rng.integers(0, max(1, t["nbytes"]), 64).tolist() for t in about]

    @classmethod
    def load(cls, path: str | None, about: list[dict[str, Any]], *, typed: bool) -> Tensors:
        """With `path` for the side that sends, without for the side that receives."""
        arrays = None
        if path is not None:
            found = read(Path(path))
            arrays = [found[t["name"]] for t in about]
        return cls(arrays, about, typed=typed)

    def nbytes(self, seq: int) -> int:
        """Bytes of message `seq`."""
        return int(self._about[seq % self.count]["nbytes"])

    def own(self, seq: int) -> Array:
        """Message `seq` as it is to be sent where no memory is lent for it."""
        array = self._arrays[seq % self.count]
        return array if self._typed else flat(array)

    def fill(self, out: Array, seq: int) -> None:
        """Write the whole of message `seq`, unless `out` is it."""
        array = self._arrays[seq % self.count]
        if not np.shares_memory(out, array):
            flat(out)[:] = flat(array)

    stamp = fill

    def whole(self, x: Array, seq: int) -> bool:
        """Whether `x` is message `seq`, by digest of every byte."""
        number = seq % self.count
        about = self._about[number]
        if x.nbytes != about["nbytes"] or digest(x) != about["digest"]:
            return False
        if number not in self._right:
            self._right[number] = flat(np.array(x, order="C"))
        return not self._typed or (
            list(x.shape) == about["shape"]
            and np.lib.format.dtype_to_descr(x.dtype) == _descr(about["dtype"])
        )

    def sampled(self, x: Array, seq: int) -> bool:
        """Whether `x` has the size of message `seq` and its bytes at four places."""
        number = seq % self.count
        right, places = self._right.get(number), self._places[number]
        if right is None or x.nbytes != right.size:
            return False
        if not right.size:
            return True
        got, want = flat(x).item, right.item
        a, b = places[seq & 63], places[(seq >> 1) & 63]
        return bool(
            got(0) == want(0) and got(a) == want(a) and got(b) == want(b) and got(-1) == want(-1)
        )


def _descr(descr: Any) -> Any:
    """A dtype's description as it was before it went through JSON."""
    if isinstance(descr, list):
        return [
            tuple(
                _descr(x) if i == 1 else tuple(x) if isinstance(x, list) else x
                for i, x in enumerate(field)
            )
            for field in descr
        ]
    return descr
