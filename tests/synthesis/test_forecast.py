import pytest
import torch

from vcm import cost as cost_room
from vcm.cost import Cost
from vcm.nets.slabs import SlabDecoding
from vcm.synthesis import forecast as measured
from vcm.synthesis.forecast import NOTHING, Forecast, forecast


def test_a_run_costs_one_encoding_one_cold_step_and_the_rest_per_volume():
    cost = Forecast(Cost(7, 5), Cost(6, 3), Cost(4, 3), Cost(60, 9), NOTHING)
    assert cost.seconds(steps=20, volumes=1) == 7 + 6 + 19 * 4 + 60
    assert cost.seconds(steps=20, volumes=2) == 7 + 6 + 39 * 4 + 2 * 60
    assert cost.memory == 9


def test_the_decoding_is_drawn_as_a_line_through_two_pieces(monkeypatch):
    """A clock and a memory that know the planes decoded: 3 s and 10 bytes each, on top of 100."""
    now, planes = [0.0], [0]

    class Autoencoder(SlabDecoding):
        net = None

        def run_decoder(self, net, z):
            planes[0] = z.shape[2]
            now[0] += 3.0 * z.shape[2]

    monkeypatch.setattr(cost_room.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost_room, "peak_memory", lambda device: 100.0 + 10 * planes[0])
    cost = measured._decoding(Autoencoder(), torch.zeros(1, 3, 20, 28, 20))
    assert cost == Cost(pytest.approx(60), pytest.approx(300))
    assert now[0] < 3 * 10, "the forecast decoded half of the volume or more"


def test_the_pieces_of_a_real_pipeline_are_all_measured(tiny_model):
    from vcm.weights.load import load_pipeline

    pipeline = load_pipeline(tiny_model)
    condition = torch.zeros(1, 8, 80, 112, 80)
    cost = forecast(pipeline, [condition], torch.full((1, 4), 0.5), "float32")
    parts = (cost.encode, cost.first, cost.step, cost.decode)
    assert all(part.seconds > 0 and part.memory > 1e7 for part in parts)


def test_halving_the_voxels_is_counted_where_it_is_done(monkeypatch):
    """A network that takes 2 s a plane and reads four of them together."""
    now, made = [0.0], []

    class Pipeline:
        device = torch.device("cpu")
        volume_grid = type("Grid", (), {"shape": (80, 112, 80)})()

        def halve_voxels(self, image):
            made.append(image.shape)
            now[0] += 2.0 * image.shape[0]

    monkeypatch.setattr(cost_room.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(cost_room, "peak_memory", lambda device: 100.0)
    halve = measured._halving(Pipeline())
    assert halve.seconds == pytest.approx(160)
    assert all(not n % 4 and n <= 20 and rest == [112, 80] for n, *rest in made)
    cost = Forecast(Cost(7, 5), Cost(6, 3), Cost(4, 3), Cost(60, 9), halve)
    assert cost.seconds(steps=20, volumes=2) == 7 + 6 + 39 * 4 + 2 * (60 + 160)
    assert cost.memory == 100


def test_the_embedded_model_is_forecast_with_its_finer_voxels():
    from vcm.weights.load import load_pipeline

    pipeline = load_pipeline("brain2mm")
    condition = torch.zeros(1, 8, *pipeline.volume_grid.shape)
    cost = forecast(pipeline, [condition], torch.full((1, 4), 0.5), "float32", finer=True)
    assert cost.halve.seconds > 0 and cost.decode.seconds > 0
