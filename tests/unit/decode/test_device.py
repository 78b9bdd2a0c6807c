"""What comes back from the device comes bit for bit, and at one place a round."""

import inspect

import pytest
import torch

from engine.decode import speculative
from engine.decode.device import Stopwatch, on_device, to_host
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
WAITS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__iter__", "nonzero")
ON_THE_HOST = ("to_host", "<listcomp>", "_judged", "refuse_unknown")


def test_columns_come_back_bit_for_bit():
    floats = torch.tensor([[0.1, 1e-38], [float("inf"), -0.0]])
    ids, none = torch.tensor([[2**31 - 1], [0]]), torch.zeros(2, 0)
    back = to_host(ids, floats, none)
    assert back[0] == [[2**31 - 1], [0]]
    assert torch.equal(torch.tensor(back[1]).view(torch.int32), floats.view(torch.int32))
    assert back[2] == [[], []]


def test_parts_of_a_round_are_timed_and_the_rest_is_what_is_left():
    watch = Stopwatch(torch.device("cpu"))
    watch.mark()
    watch.mark()
    first, second, rest = watch.seconds()
    assert min(first, second, rest) >= 0


def test_on_a_cpu_nothing_is_copied():
    values = torch.ones(3)
    assert on_device(values, torch.device("cpu")) is values


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0, 20, 0.9)], ids=str)
@pytest.mark.parametrize("rows", [1, 4])
def test_a_round_waits_for_the_device_once(sampling, rows, monkeypatch):
    """Counts calls of whatever makes the host wait for a tensor, from the second round on."""
    waits: list[str] = []
    target, draft = tiny_llama(), noisy_copy()
    prompts = [[5, 6, 7], [8] * 9, [9, 10, 11, 12, 13], [200]][:rows]
    decoding = speculative_decode(target, draft, prompts, DecodeSettings(sampling, FixedLength(3), 40, frozenset()))
    rounds = [next(decoding) for _ in range(rows)]
    for name in WAITS:
        own = getattr(torch.Tensor, name)

        def counted(self, *args, name=name, own=own, **kwargs):
            caller = inspect.stack()[1].function
            waits.append(f"{name} in {caller}")
            return own(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    rounds += [next(decoding) for _ in range(rows)]
    monkeypatch.undo()
    fetched = [wait for wait in waits if wait.startswith("cpu in to_host")]
    # What else is looked at lies on the host: what came back, and the draws that were made there.
    others = [
        wait for wait in waits if wait.split(" in ")[1] not in ("to_host", "<listcomp>", "_judged", "refuse_unknown")
    ]
    assert len(fetched) == 1
    assert others == []
    assert speculative.to_host is to_host
