"""Weights that others published: what they are, where they lie, and whether a file is what its name says."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tools.checkpoint import file_hash
from tools.files import write_text
from tools.registry import nearest

RECORD = ".sha256.json"  # beside a file: its checksum when it was last looked at
DRIVE = "https://drive.google.com/uc?id="
TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Weights:
    """One file of weights that others published."""
    what: str
    file: str            # its name in the weights folder
    url: str
    page: str            # who says so
    licence: str
    sha256: str = ""     # of the file, or its first digits; "" where nobody published it: recorded at first use
    size: int | None = None  # bytes, where known

    def __post_init__(self):
        assert Path(self.file).name == self.file, f"{self.file} is no bare file name"


UNSTATED = "see its page"  # none that we know of comes with the file
PVDM = "https://github.com/sihyun-yu/PVDM"
STYLEGAN_V = "https://github.com/universome/stylegan-v"
FDM = "https://github.com/plai-group/flexible-video-diffusion-modeling"

WEIGHTS: dict[str, Weights] = {
    "pvdm-ucf101": Weights("PVDM's diffusion U-Net, UCF-101 256x256", "pvdm_ucf101_diffusion.pth",
                           DRIVE + "11EDh97-lq07xgvAx3P5KURQfrPtrcX0G", PVDM, UNSTATED),
    "pvdm-ucf101-autoencoder": Weights("PVDM's autoencoder, UCF-101 256x256", "pvdm_ucf101_autoencoder.pth",
                                       DRIVE + "1L8l8h_SKN1BPm1P9cUhUmTsVZN0SCmqe", PVDM, UNSTATED),
    "pvdm-sky": Weights("PVDM's diffusion U-Net, SkyTimelapse 256x256", "pvdm_sky_diffusion.pth",
                        DRIVE + "10ffoqZ9Zu0jVKZHFmrQQCiX9dM7FISj9", PVDM, UNSTATED),
    "pvdm-sky-autoencoder": Weights("PVDM's autoencoder, SkyTimelapse 256x256", "pvdm_sky_autoencoder.pth",
                                    DRIVE + "1fC_mUTZnxktR8GKfUnpB6L41sI5BsDxc", PVDM, UNSTATED),
    "i3d": Weights("I3D on Kinetics-400 for FVD, VideoGPT's port (state dict)", "i3d_pretrained_400.pt",
                   DRIVE + "1fBNl3TS0LA5FEhZv5nMGJs2_7qQmvTmh", "https://github.com/wilson1yan/VideoGPT", UNSTATED),
    "i3d-styleganv": Weights("I3D on Kinetics-400 for FVD, the port of StyleGAN-V (TorchScript)", "i3d_torchscript.pt",
                             "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1", STYLEGAN_V, UNSTATED,
                             sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2", size=51235320),
    "c3d": Weights("C3D on UCF-101 for the inception score (TorchScript)", "c3d_ucf101.pt",
                   "https://www.dropbox.com/s/jxpu7avzdc9n97q/c3d_ucf101.pt?dl=1", STYLEGAN_V, UNSTATED),
    "videomae": Weights("VideoMAE-v2 ViT-g fine-tuned on SSv2, for content-debiased FVD", "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
                        "https://pjlab-gvm-data.oss-cn-shanghai.aliyuncs.com/internvideo/videomaev2/"
                        "vit_g_hybrid_pt_1200e_ssv2_ft.pth", "https://github.com/songweige/content-debiased-fvd", UNSTATED,
                        sha256="5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70", size=2023804201),
    "lpips-vgg": Weights("VGG16 on ImageNet, the backbone of LPIPS-VGG", "vgg16-397923af.pth",
                         TORCHVISION + "vgg16-397923af.pth", "https://github.com/pytorch/vision", "BSD-3-Clause",
                         sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0", size=553433881),
    "lpips-alex": Weights("AlexNet on ImageNet, the backbone of LPIPS-Alex", "alexnet-owt-7be5be79.pth",
                          TORCHVISION + "alexnet-owt-7be5be79.pth", "https://github.com/pytorch/vision", "BSD-3-Clause",
                          sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02", size=244408911),
    "carla-classifier": Weights("FDM's classifier of 100 map cells, CARLA Town01", "carla_classifier_checkpoint.pth",
                                "https://www.cs.ubc.ca/~wsgh/fdm/carla-regressor-ckpts/classifier_checkpoint.pth",
                                FDM, UNSTATED),
    "carla-regressor": Weights("FDM's regressor to world coordinates, CARLA Town01", "carla_regressor_checkpoint.pth",
                               "https://www.cs.ubc.ca/~wsgh/fdm/carla-regressor-ckpts/regressor_checkpoint.pth",
                               FDM, UNSTATED),
}


def find(name: str) -> Weights:
    """Return the entry of a name; an unknown one is a ValueError with the nearest."""
    if name not in WEIGHTS:
        raise ValueError(f'no weights are called "{name}"{nearest(name, WEIGHTS)}; known: {", ".join(WEIGHTS)}')
    return WEIGHTS[name]


def weights_folder() -> Path:
    """Where weights lie: $VIDEO_WEIGHTS, or else a folder of the user's cache."""
    if os.environ.get("VIDEO_WEIGHTS"):
        return Path(os.environ["VIDEO_WEIGHTS"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "triplane-video" / "weights"


def places(name: str) -> list[Path]:
    """Where a file of this name is looked for: the weights folder, then torch's cache for what torchvision fetches too."""
    entry = find(name)
    found = [weights_folder() / entry.file]
    if entry.url.startswith(TORCHVISION):
        import torch
        found.append(Path(torch.hub.get_dir()) / "checkpoints" / entry.file)
    return found


def present(name: str) -> Path | None:
    """The file of a name where there is one, unread."""
    return next((place for place in places(name) if place.is_file()), None)


def weights_path(name: str, *, verify: bool = True) -> Path:
    """Return the file of named weights on this machine; nothing is downloaded.

    Args:
        name: one of WEIGHTS, such as "i3d" or "lpips-vgg".
        verify: compare the file with its known SHA-256, or with the one that was recorded at its first use.

    Raises:
        ValueError: unknown name, no such file (says what to fetch, from where, and where to put it), or another file.
    """
    path = present(name)
    if path is None:
        raise ValueError(missing(name))
    if verify:
        check(path, find(name), remedy(name, path))
    return path


def missing(name: str) -> str:
    """One line on weights that are not here."""
    return f"the weights {name} ({find(name).what}) are not at {' or '.join(map(str, places(name)))}; {remedy(name)}"


def remedy(name: str, path: Path | None = None) -> str:
    """What to do to have weights, with and without a network."""
    return (f"run python main.py --exp download --name {name}, or fetch {find(name).url} elsewhere and put it at "
            f"{path or places(name)[0]}")


def check(path: Path, entry: Weights, advice: str) -> str:
    """Return the SHA-256 of a file that is what its entry says; a file that was checked before is not read again.

    What nobody published a checksum of is recorded beside the file at its first use, and held to that from then on.

    Raises:
        ValueError: a file of another size or content, a web page in its place, or one that changed since it was recorded.
    """
    record, stat = read_record(path), path.stat()
    seen = (record.get("size"), record.get("mtime_ns")) == (stat.st_size, stat.st_mtime_ns)
    digest = identify(path, entry, advice, record, record["sha256"] if seen else None)
    if not seen:
        write_record(path, digest, entry.url)
    return digest


def identify(file: Path, entry: Weights, advice: str, record: dict, digest: str | None = None) -> str:
    """Return the SHA-256 of a file, or raise ValueError if what is known of its entry speaks against it.

    Args:
        record: what was written down of the entry's file earlier, or nothing.
        digest: of the file, where it is known already.
    """
    size = file.stat().st_size
    if is_web_page(file):
        raise ValueError(f"{file} is a web page, not {entry.file}; {advice}")
    if entry.size is not None and size != entry.size:
        raise ValueError(f"{file} is cut short or another file: it has {size} bytes, {entry.file} has {entry.size}; {advice}")
    digest = digest or file_hash(file)
    if not digest.startswith(entry.sha256):
        raise ValueError(f"{file} is damaged or another file: its SHA-256 starts with {digest[:12]}, that of {entry.file} with "
                         f"{entry.sha256[:12]}; {advice}")
    if not entry.sha256 and digest != record.get("sha256", digest):
        raise ValueError(f"{file} is not the {entry.file} that was first used here: its SHA-256 starts with {digest[:12]}, "
                         f"recorded is {record['sha256'][:12]}; {advice}; or remove {entry.file}{RECORD} beside it to trust it "
                         "anew")
    return digest


def record_path(path: Path) -> Path:
    return path.with_name(path.name + RECORD)


def read_record(path: Path) -> dict:
    """What was written down when a file was last checked, or nothing."""
    try:
        return json.loads(record_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{record_path(path)} is damaged ({error}); remove it to record the checksum again") from None


def write_record(path: Path, digest: str, source: str) -> None:
    """Write down a checksum; where that is impossible (a shared folder may be read-only) files are read whole each time."""
    stat = path.stat()
    record = {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "source": source}
    with contextlib.suppress(OSError):  # also: another process of this run wrote it at the same moment
        write_text(record_path(path), json.dumps(record, indent=1) + "\n")


def is_web_page(path: Path) -> bool:
    """Whether a file is HTML, which is what a browser or a naive download saves of a notice."""
    with open(path, "rb") as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
