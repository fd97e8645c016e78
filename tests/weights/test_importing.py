"""Published files become a folder that computes what the release computed, or nothing at all."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from published_files import DATA, NETWORKS, SMALL, published, small_card, stored_vectors
from safetensors.torch import load_file, save_file

from vcm.errors import VCMError
from vcm.files import fingerprint
from vcm.nets.frozen_checksum import check_module_fits, frozen_checksum
from vcm.nets.super_resolution import SuperResolutionNet
from vcm.pipeline import VCMPipeline
from vcm.weights.cards import load_card
from vcm.weights.grid import grid_of
from vcm.weights.importing import import_weights
from vcm.weights.load import load_pipeline
from vcm.weights.names import rename_autoencoder, rename_published, rename_unet
from vcm.weights.verifying import OPTIONAL, verify

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
RENAME = {"autoencoder": rename_autoencoder, "denoiser": rename_unet, "module": rename_published}


@pytest.fixture(scope="module")
def weights():
    return {part: published(part) for part in RENAME}


@pytest.fixture(scope="module")
def files(weights, tmp_path_factory):
    """The three files as released."""
    folder = tmp_path_factory.mktemp("released")
    for part, tensors in weights.items():
        torch.save(tensors, folder / f"{part}.pt")
    return {part: folder / f"{part}.pt" for part in weights}


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "model"
    return out, bring(files, out)


def bring(files, out, card=None):
    return import_weights(
        card or small_card(), files["autoencoder"], files["denoiser"], files.get("module"), out
    )


@torch.no_grad()
def test_the_folder_computes_what_the_release_computed(imported):
    pipeline, stored = load_pipeline(imported[0]), stored_vectors()
    z_t, t = stored["z_t"], stored["timesteps"]
    covariates = stored["covariates"][:, 0]
    raw = pipeline.denoiser(z_t, t, covariates)
    torch.testing.assert_close(raw, stored["frozen_prediction"], **CLOSE)
    features = pipeline.module.encode([stored["labels_onehot"].float()])
    torch.testing.assert_close(features, stored["condition_features"], **CLOSE)
    steered = pipeline.module(pipeline.denoiser, z_t, t, covariates, features).prediction
    torch.testing.assert_close(steered, stored["steered_prediction"], **CLOSE)
    decoded = pipeline.autoencoder.decode(z_t)
    torch.testing.assert_close(decoded, stored["decoded"].clamp(0, 1), **CLOSE)
    mu, _ = pipeline.autoencoder.encode(stored["ae_input"])
    torch.testing.assert_close(mu, stored["ae_mu"] * SMALL["latent_scale"], **CLOSE)
    noise = pipeline.denoiser.add_noise(torch.zeros_like(z_t), torch.ones_like(z_t), t)
    assert noise.isfinite().all() and not pipeline.denoiser.alphas_cumprod.is_meta


@torch.no_grad()
def test_ten_steps_of_the_imported_pipeline(imported):
    pipeline, stored = load_pipeline(imported[0]), stored_vectors()
    result = pipeline(
        stored["labels_onehot"][:1].float(),
        stored["covariates"][:1, 0],
        num_inference_steps=10,
        latents=stored["z_t"][:1],
        output_type="latent",
    ).volumes
    assert pipeline.scheduler.timesteps.tolist() == SMALL["ddim_timesteps"]
    assert (result - stored["ddim10_steered"]).norm() / stored["ddim10_steered"].norm() < 1e-3


def test_what_the_folder_says_of_itself(imported):
    out, report = imported
    pipeline = load_pipeline(out)
    assert pipeline.config.conditions == ["classes"]
    assert pipeline.ranges["age"] == (44, 82)
    assert pipeline.config.grid["shape"] == [32, 64, 32]
    assert pipeline.scheduler.config.timestep_spacing == "leading"
    record = json.loads((out / "import.json").read_text())
    assert record["card"] == "brainldm-vcm" and record["latent_scale"] == 0.896264910697937
    assert record["grid_centre"] == "assumed" and "torch" in record["versions"]
    part = record["parts"]["denoiser"]
    assert part["source"] == "denoiser.pt" and len(part["sha256"]) == 64
    assert part["tensors"] == len(SMALL["keys"]["unet"])
    assert sum(part["rules"].values()) > 0 and part["as_published"] is None
    assert (
        report.frozen_checksum
        == record["frozen_checksum"]
        == frozen_checksum(pipeline.autoencoder, pipeline.denoiser)
    )
    check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)
    assert any("528 of 528 tensors" in line for line in report.lines())


@pytest.mark.slow
def test_every_form_of_the_files_gives_the_same_folder(weights, imported, tmp_path):
    def wrap(tensors):
        return {"state_dict": tensors, "epoch": 7}

    def parallel(tensors):
        return {f"module.{name}": value for name, value in tensors.items()}

    forms = {
        "wrapped": (wrap, ".pt"),
        "parallel": (parallel, ".pth"),
        "both": (lambda tensors: wrap(parallel(tensors)), ".ckpt"),
        "old_safetensors": (dict, ".safetensors"),
        "new": (None, ".pt"),
        "new_safetensors": (None, ".safetensors"),
    }
    for name, (form, suffix) in forms.items():
        files = {}
        for part, tensors in weights.items():
            content = form(tensors) if form else RENAME[part](tensors)
            files[part] = tmp_path / f"{name}_{part}{suffix}"
            save = save_file if suffix == ".safetensors" else torch.save
            save(
                {k: v.contiguous() for k, v in content.items()} if form is None else content,
                files[part],
            )
        report = bring(files, tmp_path / name)
        assert fingerprint(tmp_path / name) == fingerprint(imported[0]), name
        for config in imported[0].rglob("*.json"):
            relative = config.relative_to(imported[0])
            if relative.name != "import.json":
                assert (tmp_path / name / relative).read_text() == config.read_text()
        if form is None:
            assert report.parts["denoiser"].rules == {}


class RunsCode:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def changed(part, change):
    """A file of that part whose tensors went through `change`."""

    def write(weights, path):
        torch.save(change(dict(weights[part])), path)

    return part, write


def without(name):
    return lambda tensors: {n: v for n, v in tensors.items() if n != name}


def renamed(old, new):
    return lambda tensors: {new if n == old else n: v for n, v in tensors.items()}


def set_to(name, value):
    return lambda tensors: tensors | {name: value}


def truncated(weights, path):
    torch.save(weights["denoiser"], path)
    path.write_bytes(path.read_bytes()[:5000])


def trapped(weights, path):
    torch.save(weights["denoiser"] | {"x": RunsCode(path.with_name("it_ran"))}, path)


CONV, OUT_BIAS = "out.2.conv.weight", "out.2.conv.bias"
CORRUPTIONS = {
    "truncated": (("denoiser", truncated), "truncated"),
    "missing": (changed("denoiser", without(CONV)), "1 missing:\n  out.2.conv.weight"),
    "renamed": (changed("denoiser", renamed(CONV, CONV + "s")), "bad.pt, given as denoiser,.* does not fit(.|\n)*is it out.2.conv.weights"),
    "nan": (changed("module", set_to("mlp_beta.conv.bias", torch.full((3,), torch.nan))), "not finite"),
    "shape": (changed("autoencoder", set_to("decoder.blocks.0.conv.bias", torch.ones(5))), r"\[5\] instead"),
    "unexpected": (changed("module", set_to("mlp_delta.weight", torch.ones(5))), "mlp_delta.weight"),
    "too large": (changed("denoiser", set_to(OUT_BIAS, torch.full((3,), 1e300, dtype=torch.float64))), "too large for the network's numbers(.|\n)*out.2.conv.bias"),
    "zeros": (changed("module", lambda tensors: {n: 0 * v for n, v in tensors.items()}), "holds nothing but zeros"),
    "sparse": (changed("denoiser", set_to(OUT_BIAS, torch.ones(3).to_sparse())), "bad.pt holds 'out.2.conv.bias', which is no plain tensor"),
    "complex": (changed("denoiser", set_to(OUT_BIAS, torch.ones(3, dtype=torch.complex64))), "complex64 instead of torch.float32"),
    "code": (("denoiser", trapped), "would run"),
    "swapped": (changed("denoiser", lambda _: published("autoencoder")), "missing"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CORRUPTIONS)
def test_a_corrupted_file_is_refused_and_nothing_is_left(files, weights, tmp_path, fault):
    (part, write), sentence = CORRUPTIONS[fault]
    path = tmp_path / "files" / "bad.pt"
    path.parent.mkdir()
    write(weights, path)
    with pytest.raises(VCMError, match=sentence):
        bring(files | {part: path}, tmp_path / "models" / "out")
    assert not (tmp_path / "models").exists()
    assert not (path.parent / "it_ran").exists()


def test_numbers_of_8_bits_are_taken_and_a_folder_is_not(files, weights, tmp_path):
    small = weights["denoiser"][OUT_BIAS].to(torch.float8_e4m3fn)
    save_file(weights["denoiser"] | {OUT_BIAS: small}, tmp_path / "small.safetensors")
    bring(files | {"denoiser": tmp_path / "small.safetensors"}, tmp_path / "out")
    found = load_pipeline(tmp_path / "out").denoiser.net.out[2].conv.bias
    assert torch.equal(found, small.float())
    with pytest.raises(VCMError, match=r"is a folder, but a checkpoint is one file"):
        bring(files | {"denoiser": tmp_path}, tmp_path / "other")


def test_a_failure_while_writing_leaves_nothing(files, tmp_path, monkeypatch):
    from vcm.weights import importing as module

    monkeypatch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(VCMError, match="full"):
        bring(files, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_an_empty_one_taken(files, tmp_path):
    (tmp_path / "out").mkdir()
    bring(files, tmp_path / "out")
    before = fingerprint(tmp_path / "out")
    with pytest.raises(VCMError, match="is not empty"):
        bring(files, tmp_path / "out")
    assert fingerprint(tmp_path / "out") == before


def test_latent_scales_that_do_not_belong_together_are_refused(files, weights, tmp_path):
    with pytest.raises(VCMError, match="the published VCM belongs to the card brainldm-vcm"):
        bring(files, tmp_path / "out", small_card("brainldm"))
    other = tmp_path / "scaled.pt"
    torch.save({"unet_state_dict": weights["denoiser"], "scale_factor": 1.0}, other)
    with pytest.raises(VCMError, match=r"scale 1, but brainldm-vcm has 0\.896264910697937"):
        bring(files | {"denoiser": other}, tmp_path / "out")
    with pytest.raises(VCMError, match="travels with the package"):
        bring(files, tmp_path / "out", load_card("brain2mm"))
    assert not (tmp_path / "out").exists()


def test_without_a_module_the_frozen_model_alone(files, tmp_path):
    plain = {part: path for part, path in files.items() if part != "module"}
    report = import_weights(
        small_card("brainldm"), plain["autoencoder"], plain["denoiser"], None, tmp_path / "out"
    )
    pipeline = load_pipeline(tmp_path / "out")
    assert pipeline.module is None and pipeline.autoencoder.config.scale == 1.0
    assert "latent scale 1" in "".join(report.lines())
    assert [row.what for row in verify(tmp_path / "out")] == [
        "autoencoder",
        "denoiser",
        "frozen model",
        "files",
    ]


def test_a_module_knows_its_frozen_model(imported, tmp_path):
    pipeline = load_pipeline(imported[0])
    with torch.no_grad():
        pipeline.denoiser.net.out[2].conv.bias.add_(1e-3)
    with pytest.raises(VCMError, match="trained on the frozen model"):
        check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)
    pipeline.record_frozen()
    check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)
    pipeline.save_pretrained(tmp_path / "own")
    again = load_pipeline(tmp_path / "own")
    check_module_fits(again.module, again.autoencoder, again.denoiser)
    pipeline.autoencoder.register_to_config(scale=1.0)
    with pytest.raises(
        VCMError, match=r"latents of scale 0\.896264910697937, but this model has 1"
    ):
        check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)


def test_verify_reports_every_part_and_names_what_is_wrong(imported, tmp_path):
    rows = {row.what: row.found for row in verify(imported[0])}
    assert (
        rows["denoiser"].startswith("528 of 528 tensors")
        and "float32, all finite" in rows["denoiser"]
    )
    assert rows["frozen model"].endswith("as recorded in module and import.json")
    shutil.copytree(imported[0], tmp_path / "copy")
    stored = next((tmp_path / "copy" / "denoiser").glob("*.safetensors"))
    tensors = load_file(stored)
    name = "net.out.2.conv.bias"
    for value, sentence in [
        (tensors[name] + 1, "a file was exchanged"),
        (
            torch.full_like(tensors[name], torch.inf),
            "not finite in denoiser:\n  net.out.2.conv.bias",
        ),
        (tensors[name].half(), "types of numbers, not one in denoiser"),
        (torch.ones(7), r"net.out.2.conv.bias \[7\] instead of \[3\]"),
        (None, "missing in denoiser:\n  net.out.2.conv.bias"),
    ]:
        kept = {n: v.clone() for n, v in tensors.items() if n != name}
        save_file(kept if value is None else kept | {name: value}, stored)
        with pytest.raises(VCMError, match=sentence):
            verify(tmp_path / "copy")
    stored.write_bytes(stored.read_bytes()[:9000])
    with pytest.raises(VCMError, match="truncated or damaged"):
        verify(tmp_path / "copy")
    stored.unlink()
    with pytest.raises(VCMError, match=r"lacks its config\.json or its tensors"):
        verify(tmp_path / "copy")


def test_verify_reads_the_tensors_that_loading_reads(tiny_model, tmp_path):
    """A copy of before beside them would speak for what is loaded."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    stored = tmp_path / "model" / "denoiser" / "diffusion_pytorch_model.safetensors"
    shutil.copyfile(stored, stored.with_name("diffusion_pytorch_model_old.safetensors"))
    tensors = load_file(stored)
    name = "net.conv_in.conv.bias"
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, stored)
    with pytest.raises(VCMError, match=f"not finite in denoiser:\n  {name}"):
        verify(tmp_path / "model")


def test_verify_looks_at_every_part_of_a_model(tiny_model, tmp_path):
    assert {"module", *OPTIONAL} == {*VCMPipeline._optional_components}
    pipeline = load_pipeline(tiny_model)
    pipeline.register_modules(super_resolution=SuperResolutionNet([8, 8], [1, 1], 2.0))
    pipeline.save_pretrained(tmp_path / "model")
    assert "super_resolution" in [row.what for row in verify(tmp_path / "model")]
    (tmp_path / "model" / "checksums.json").unlink()
    stored = tmp_path / "model" / "super_resolution" / "diffusion_pytorch_model.safetensors"
    save_file({n: t * torch.nan for n, t in load_file(stored).items()}, stored)
    with pytest.raises(VCMError, match="not finite in super_resolution"):
        verify(tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model_index.json", "{", "model_index.json is damaged"),
        ("model_index.json", '{"_class_name": "Other"}', "hold classes of vcm alone"),
        ("denoiser/config.json", "{", "config.json is damaged"),
        ("import.json", "[]", "import.json is damaged"),
    ],
)
def test_a_damaged_table_of_a_model_is_one_sentence(tiny_model, tmp_path, name, content, said):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / name).write_text(content)
    with pytest.raises(VCMError, match=said):
        verify(tmp_path / "model")
    if name == "model_index.json":
        with pytest.raises(VCMError, match="says nothing of the model's voxels"):
            grid_of(tmp_path / "model")


def test_maisi_takes_its_scale_from_the_denoiser(tmp_path):
    from vcm.nets.maisi import MaisiAutoencoder, MaisiDenoiser

    card = load_card("maisi-mr-brain")
    networks = {
        "autoencoder": {"channels": [8, 8, 8], "res_blocks": [1, 1, 1], "groups": 4, "latent_shape": [8, 8, 8]},
        "denoiser": {"channels": [8, 8, 8, 8], "head_channels": [0, 0, 4, 4], "groups": 4, "res_blocks": 1},
    }  # fmt: skip
    card = replace(card, networks=networks, grid=replace(card.grid, shape=[32, 32, 32]))
    torch.manual_seed(0)
    files = {part: tmp_path / f"{part}.pt" for part in networks}
    torch.save(MaisiAutoencoder(**networks["autoencoder"]).net.state_dict(), files["autoencoder"])
    tensors = MaisiDenoiser(**networks["denoiser"]).net.state_dict()
    torch.save(tensors, files["denoiser"])
    with pytest.raises(VCMError, match="holds no scale_factor"):
        bring(files, tmp_path / "out", card)
    torch.save({"unet_state_dict": tensors, "scale_factor": torch.tensor(1.25)}, files["denoiser"])
    report = bring(files, tmp_path / "out", card)
    pipeline = load_pipeline(tmp_path / "out")
    assert report.latent_scale == pipeline.autoencoder.scale == 1.25
    assert pipeline.scheduler.config.shift == pipeline.denoiser.shift == 0.25
    assert pipeline.config.inputs == ["spacing_x", "spacing_y", "spacing_z", "contrast"]
    assert pipeline.config.population["contrasts"]["mri_flair_skull_stripped"] == 31
    verify(tmp_path / "out")


@pytest.mark.huge
def test_brainldm_at_full_size(tmp_path, request):
    """Random weights of the published size (2.4 GB of files, again as folder, 8 GB of memory)."""
    if "huge" not in (request.config.option.markexpr or ""):
        pytest.skip("writes 5 GB and takes minutes: run with -m huge")
    files = {}
    for part, table in [
        ("autoencoder", "brainldm_autoencoder_generative"),
        ("denoiser", "brainldm_unet_generative"),
        ("module", "vcm"),
    ]:
        generator = torch.Generator().manual_seed(len(files))
        shapes = json.loads((DATA / f"{table}_keys.json").read_text())
        tensors = {n: 0.02 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}
        files[part] = tmp_path / f"{part}.pt"
        torch.save({"state_dict": tensors}, files[part])
        del tensors
    report = bring(files, tmp_path / "model", load_card("brainldm-vcm"))
    assert {part: c.tensors for part, c in report.parts.items()}["denoiser"] == 528
    verify(tmp_path / "model")
    pipeline = load_pipeline(tmp_path / "model")
    check_module_fits(pipeline.module, pipeline.autoencoder, pipeline.denoiser)
    pipeline.autoencoder.enable_tiling()
    volumes = pipeline(
        torch.zeros(1, 8, 160, 224, 160),
        torch.full((1, 4), 0.5),
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).volumes
    assert volumes.shape == (1, 1, 160, 224, 160) and volumes.isfinite().all()
    assert NETWORKS.keys() == report.parts.keys()
