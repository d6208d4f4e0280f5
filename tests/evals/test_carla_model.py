"""The networks of CARLA: FDM's layout by its names, and what is told of a frame."""

import urllib.error

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from evals.carla_map import TOWN01
from evals.carla_model import CarlaNet, Locator, arch_of, load_carla, start_from, to_images
from tools import checkpoint
from tools.rng import fork

CELLS = 100


def frames(count=3, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def small(seed=0):
    with fork(seed, "net"):
        return CarlaNet("small")


def put_run(folder, net, name="model_best.pth", **changed):
    folder.mkdir(parents=True, exist_ok=True)
    payload = {"kind": "carla", "config": {"arch": net.arch, "size": [16, 16]}, "state": net.state_dict(), "step": 3,
               "weights": "best", "extra": {}}
    checkpoint.save(folder / name, payload | changed)
    return folder


def fdm(draw):
    """What FDM's training saves, on a ResNet-18: torchvision's own network with 100 classes, and one with 100 heads."""
    classifier, trunk = torchvision.models.resnet18(num_classes=CELLS), torchvision.models.resnet18()
    for net in (classifier, trunk):
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(generator=draw)
                module.running_var.uniform_(0.5, 2, generator=draw)
    trunk.fc = torch.nn.Identity()
    heads = [torch.nn.Linear(512, 2) for _ in range(CELLS)]
    regressor = {f"resnet.{key}": value for key, value in trunk.state_dict().items()}
    regressor |= {f"regressors.{i}.{key}": value for i, head in enumerate(heads) for key, value in head.state_dict().items()}
    return classifier.eval(), trunk.eval(), heads, regressor


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder with two generated files under the names of the weights folder, and the networks that they are of."""
    folder = tmp_path_factory.mktemp("weights")
    with fork(0, "fdm"):
        classifier, trunk, heads, regressor = fdm(torch.Generator().manual_seed(0))
    torch.save(classifier.state_dict(), folder / "carla_classifier_checkpoint.pth")
    torch.save(regressor, folder / "carla_regressor_checkpoint.pth")
    return folder, classifier, trunk, heads


def test_released_files_tell_what_their_networks_do(released, monkeypatch):
    folder, classifier, trunk, heads = released
    given = frames(4, 128)
    with torch.no_grad():
        pixels = (torch.from_numpy(given).permute(0, 3, 1, 2).double() / 255).float()
        pixels = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(pixels)
        cells = classifier(pixels).argmax(1).tolist()
        wanted = torch.stack([heads[cell](feature) for cell, feature in zip(cells, trunk(pixels))]).numpy()
    monkeypatch.setenv("VIDEO_WEIGHTS", str(folder))
    by_name, by_folder = load_carla("released"), load_carla(folder)
    np.testing.assert_allclose(by_name.coordinates(given), wanted, rtol=1e-4, atol=1e-4)
    assert by_name.size == (128, 128) and by_name.settings["arch"] == "resnet18"
    assert by_name.settings["weights_hash"] == by_folder.settings["weights_hash"]


def test_networks_of_resnet152_have_the_names_and_shapes_of_the_released_ones():
    with torch.device("meta"):
        net, trunk = CarlaNet("resnet152"), torchvision.models.resnet152()
    shapes = {key: tuple(value.shape) for key, value in trunk.state_dict().items() if not key.startswith("fc.")}
    heads = {f"regressors.{i}.{key}": shape for i in range(CELLS) for key, shape in (("weight", (2, 2048)), ("bias", (2,)))}
    own = {part: {key: tuple(value.shape) for key, value in net.get_submodule(part).state_dict().items()}
           for part in ("classifier", "regressor")}
    assert own["classifier"] == shapes | {"fc.weight": (CELLS, 2048), "fc.bias": (CELLS,)}
    assert own["regressor"] == {f"resnet.{key}": shape for key, shape in shapes.items()} | heads
    assert arch_of(net.classifier.state_dict(), "", "x") == arch_of(net.regressor.state_dict(), "resnet.", "x") == "resnet152"


@pytest.mark.parametrize("files, error", [
    ({"classifier.pth": "classifier"}, r"one file whose name says regressor, found none"),
    ({"classifier.pth": "classifier", "classifier2.pth": "classifier", "regressor.pth": "regressor"},
     r"says classifier, found classifier.pth, classifier2.pth"),
    ({"classifier.pth": "regressor", "regressor.pth": "classifier"}, r"classifier.pth holds no ResNet"),
])
def test_a_folder_without_the_two_files_is_told(released, tmp_path, files, error):
    for name, part in files.items():
        (tmp_path / name).symlink_to(released[0] / f"carla_{part}_checkpoint.pth")
    with pytest.raises(ValueError, match=error):
        load_carla(tmp_path)


def test_weights_that_are_not_here_say_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"--exp download --name carla-classifier"):
        load_carla("released")


# --- what is told of a frame ---------------------------------------------------------------------------------

def test_the_likeliest_cells_head_tells_the_place():
    net = small().eval()
    with torch.no_grad():
        net.classifier.fc.weight.zero_()
        net.classifier.fc.bias.zero_()[37] = 1
        for head in net.regressor.regressors:
            head.weight.zero_()
    told = Locator(net, (16, 16), "x").coordinates(frames())
    np.testing.assert_allclose(told, TOWN01.centres()[[37] * 3])


def test_untrained_heads_are_near_the_middle_of_their_cells():
    images = to_images(torch.from_numpy(frames(CELLS)))
    told = small().eval().regressor(images, torch.arange(CELLS))
    assert torch.equal(TOWN01.cells(told.detach()), torch.arange(CELLS))


def test_each_frame_is_told_alike_in_any_batch():
    locator = Locator(small(), (16, 16), "x")
    one, all_ = (locator.coordinates(frames(7), batch_size=size) for size in (1, 7))
    np.testing.assert_allclose(one, all_, atol=1e-3)
    assert one.shape == (7, 2) and len(np.unique(one)) > 7


def test_frames_of_another_size_are_brought_to_it_only_if_asked_for():
    locator = Locator(small(), (16, 16), "x")
    large = np.repeat(np.repeat(frames(), 2, axis=1), 2, axis=2)
    with pytest.raises(ValueError, match=r"drive is 32x32, the networks take 16x16 .*--resize"):
        locator.coordinates(large, name="drive")
    halved = F.interpolate(torch.from_numpy(large).permute(0, 3, 1, 2), (16, 16), mode="bilinear", antialias=True)
    np.testing.assert_allclose(locator.coordinates(large, resize=True), locator.coordinates(halved.permute(0, 2, 3, 1).numpy()))


def test_floats_are_normalised_as_bytes_are():
    given = torch.from_numpy(frames())
    torch.testing.assert_close(to_images(given), to_images(given / 255))


# --- files ---------------------------------------------------------------------------------------------------

def test_a_run_stands_for_its_best_weights_unless_told(tmp_path):
    best, last = small(1), small(2)
    put_run(tmp_path / "run", best)
    put_run(tmp_path / "run", last, "model_last.pth")
    hashes = [load_carla(tmp_path / "run", weights).settings["weights_hash"] for weights in (None, "best", "raw")]
    assert hashes == [checkpoint.state_hash(net.state_dict()) for net in (best, best, last)]
    assert load_carla(tmp_path / "run" / "model_last.pth").settings["weights_hash"] == hashes[2]
    with pytest.raises(ValueError, match=r"holds no ema_model_last.pth; use --weights raw"):
        load_carla(tmp_path / "run", "ema")


def test_another_model_is_refused(tmp_path):
    run = put_run(tmp_path, small(), kind="diffusion")
    with pytest.raises(ValueError, match=r"is a model of kind diffusion, wanted one of --exp carla"):
        load_carla(run)


def test_an_unknown_architecture_has_the_nearest_name():
    with pytest.raises(ValueError, match=r'model.arch "resnet153" is unknown \(did you mean "resnet152"\?\)'):
        CarlaNet("resnet153")


# --- beginnings ----------------------------------------------------------------------------------------------

def test_a_run_may_start_from_another(tmp_path):
    net = small(1)
    assert start_from(net, str(put_run(tmp_path, small(2)))) == str(tmp_path)
    assert checkpoint.state_hash(net.state_dict()) == checkpoint.state_hash(small(2).state_dict())


def test_trunks_start_from_a_classifier_of_images_and_keep_their_own_last_layers(tmp_path):
    net, before = small(1), small(1)
    trunk = small(2).classifier
    trunk.fc = torch.nn.Linear(trunk.fc.in_features, 1000)  # ImageNet's classes
    torch.save(trunk.state_dict(), tmp_path / "imagenet.pth")
    start_from(net, str(tmp_path / "imagenet.pth"))
    for name, value in net.state_dict().items():
        layer = name.removeprefix("classifier.").removeprefix("regressor.resnet.")
        mine = layer.startswith(("fc.", "regressor."))
        assert torch.equal(value, before.state_dict()[name] if mine else trunk.state_dict()[layer])


def test_without_a_network_the_file_to_fetch_is_told(monkeypatch):
    def offline(*args, **options):
        raise urllib.error.URLError("no route")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    net = small()
    net.arch = "resnet152"
    with pytest.raises(ValueError, match=r"resnet152 cannot be fetched .*resnet152-\w+.pth elsewhere .*--init_from FILE"):
        start_from(net, "imagenet")
    net.arch = "small"
    with pytest.raises(ValueError, match=r"--init_from imagenet is for model.arch=resnet18"):
        start_from(net, "imagenet")
