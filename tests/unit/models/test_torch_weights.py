import pickle

import numpy as np
import pytest

from base.errors import ModelError
from models import torch_weights
from models.torch_weights import MAGIC, PROTOCOL, read_torch_weights


class Evil:
    def __reduce__(self):
        return print, ("this was run",)


def test_pickle_that_runs_code_is_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(MAGIC) + pickle.dumps(PROTOCOL) + pickle.dumps({}) + pickle.dumps(Evil()))

    with pytest.raises(ModelError, match="print"):
        read_torch_weights(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(7), pickle.dumps(MAGIC)])
def test_file_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)

    with pytest.raises(ModelError, match="does not hold weights"):
        read_torch_weights(path)


def test_strides_are_honoured():
    storage = torch_weights._Storage(np.dtype("<f4"), "0")
    transposed = torch_weights._Tensor(storage, 1, (3, 2), (1, 3))

    assert transposed.read(np.arange(7, dtype="<f4")).tolist() == [[1, 4], [2, 5], [3, 6]]


@pytest.mark.parametrize(("offset", "strides"), [(2, (2, 1)), (0, (4, 1)), (-1, (2, 1))])
def test_tensor_beyond_its_storage_is_refused(offset, strides):
    tensor = torch_weights._Tensor(torch_weights._Storage(np.dtype("<f4"), "0"), offset, (3, 2), strides)

    with pytest.raises(ModelError, match="outside its storage"):
        tensor.read(np.zeros(7, "<f4"))
