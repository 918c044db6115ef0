"""Read weights out of torch's first file format without torch, and without running what a pickle may carry."""

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from base.errors import ModelError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Storage:
    """A tensor's numbers, which follow at the end of the file."""

    dtype: np.dtype[Any]
    key: str


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor, copied out of its storage."""
        reach = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if min((self.offset, *self.shape, *self.strides)) < 0 or reach >= len(numbers):
            raise ModelError(f"a tensor of shape {self.shape} reaches outside its storage of {len(numbers)} numbers.")
        step = numbers.itemsize
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, tuple(stride * step for stride in self.strides)
        )
        return np.array(view)


class _Unpickler(pickle.Unpickler):
    """Knows the four names that such a file needs, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise ModelError(
            f"the weights ask for {module}.{name}, which weights have no use for; the file is not trusted."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, _, _ = pid
        return _Storage(dtype, key)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def read_torch_weights(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor of a state dictionary.

    Raises:
        ModelError: it is not such a file, or asks for more than weights need.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (pickle.UnpicklingError, AttributeError, EOFError, LookupError, TypeError, ValueError) as error:
            raise ModelError(f"{path} does not hold weights in torch's first file format: {error!r}") from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC or _Unpickler(file).load() != PROTOCOL:
        raise ValueError("it begins differently")
    _Unpickler(file).load()  # Sizes of C types on the machine that wrote it.
    tensors: dict[str, _Tensor] = _Unpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        numbers = file.read(count * dtypes[key].itemsize)
        storages[key] = np.frombuffer(numbers, dtypes[key], count)
    return {name: tensor.read(storages[tensor.storage.key]) for name, tensor in tensors.items()}
