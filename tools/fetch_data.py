"""Datasets that their owners publish: fetched, unpacked and laid out as the data sources read them."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from tools.checkpoint import file_hash
from tools.fetch import fetch
from tools.files import write_text
from tools.weights import DRIVE

if TYPE_CHECKING:
    import requests

GB = 10**9
RAR_TOOLS = {"unrar": ["x", "-idq", "-o+"], "unar": ["-quiet", "-force-overwrite", "-no-directory", "-o", "."],
             "7z": ["x", "-y", "-bso0"], "bsdtar": ["-xf"]}
DONE = ".downloaded.json"  # in a dataset's folder: the parts that are there whole


@dataclass(frozen=True)
class Part:
    """One file of a dataset."""
    url: str
    file: str            # its name while it is fetched
    folder: str = "."    # where it goes below the dataset's folder
    sha256: str = ""
    size: int | None = None  # bytes, where known


@dataclass(frozen=True)
class Dataset:
    """A dataset that can be fetched without a form."""
    what: str
    data: str            # the --data that reads it
    folder: str          # below --out
    page: str
    licence: str
    parts: tuple[Part, ...]
    needs: int = 0       # bytes of disk, archives and content, where known
    login: str = ""      # the site that asks for a user and a password


PAGES = "see its page"
MCVD = "https://github.com/voletiv/mcvd-pytorch"
KTH = "https://www.csc.kth.se/cvap/actions/"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CLEVRER = "http://data.csail.mit.edu/clevrer/videos/"
UCF = "https://www.crcv.ucf.edu/data/UCF101/"
CITYSCAPES = "https://www.cityscapes-dataset.com"
DIGITS = (("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
          ("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
          ("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
          ("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542))
ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")


def _of_mcvd(what: str, data: str, folder: str, drive: str, needs: int = 0) -> Dataset:
    return Dataset(f"{what}, HDF5 of MCVD", data, folder, MCVD, PAGES, (Part(DRIVE + drive, f"{folder}.archive"),), needs)


DATASETS: dict[str, Dataset] = {
    "mnist": Dataset("MNIST digits, which moving MNIST is drawn from", "SMMNIST", "MNIST", "https://yann.lecun.org/exdb/mnist",
                     PAGES, tuple(Part(MNIST + name, name, "raw", digest, size) for name, digest, size in DIGITS)),
    "kth": Dataset("KTH actions, 600 videos of 160x120", "KTH", "KTH", KTH, "non-commercial use",
                   (*(Part(f"{KTH}{action}.zip", f"{action}.zip", action) for action in ACTIONS),
                    Part(f"{KTH}00sequences.txt", "00sequences.txt")), needs=3 * GB),
    "bair": Dataset("BAIR robot pushing, TFRecords of 64x64", "BAIR", "BAIR",
                    "https://sites.google.com/berkeley.edu/robotic-interaction-datasets", PAGES,
                    (Part("http://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar", "bair.tar"),),
                    needs=60 * GB),
    "ucf101": Dataset("UCF-101, 13,320 videos of 320x240, and its split lists", "UCF101", "UCF101",
                      "https://www.crcv.ucf.edu/data/UCF101.php", PAGES,
                      (Part(UCF + "UCF101TrainTestSplits-RecognitionTask.zip", "splits.zip"),
                       Part(UCF + "UCF101.rar", "UCF101.rar")), needs=20 * GB),
    "clevrer": Dataset("CLEVRER, 20,000 videos of 480x320", "CLEVRER", "CLEVRER", "http://clevrer.csail.mit.edu", PAGES,
                       tuple(Part(f"{CLEVRER}{side}/video_{side}.zip", f"video_{side}.zip", folder)
                             for side, folder in (("train", "train"), ("validation", "val"), ("test", "test"))), needs=36 * GB),
    "carla": Dataset("FDM's CARLA Town01 without traffic, 128x128, with coordinates", "CARLA", "CARLA",
                     "https://github.com/plai-group/flexible-video-diffusion-modeling", PAGES,
                     (Part("https://www.cs.ubc.ca/~wsgh/fdm/carla/no-traffic.tar.gz", "no-traffic.tar.gz"),)),
    "cityscapes": Dataset("Cityscapes, sequences of 30 frames of 2048x1024", "CITYSCAPES", "Cityscapes", CITYSCAPES,
                          "non-commercial use, see its page",
                          (Part(CITYSCAPES + "/file-handling/?packageID=14", "leftImg8bit_sequence_trainvaltest.zip"),),
                          needs=657 * GB, login=CITYSCAPES),
    "mcvd-kth": _of_mcvd("KTH 64x64", "KTH", "KTH64_h5", "1d2UfHV6RhSrwdDAlCFY3GymtFPpmh_8X"),
    "mcvd-bair": _of_mcvd("BAIR 64x64", "BAIR", "BAIR_h5", "1-R_srAOy5ZcylGXVernqE4WLCe6N4_wq"),
    "mcvd-cityscapes64": _of_mcvd("Cityscapes 64x64", "CITYSCAPES", "Cityscapes64_h5", "1oP7n-FUfa9ifsMn6JHNS9depZfftvrXx"),
    "mcvd-cityscapes128": _of_mcvd("Cityscapes 128x128", "CITYSCAPES", "Cityscapes128_h5", "13yaJkKtmDsgtaEvuXKSvbix5usea6TJy"),
    "mcvd-ucf101": _of_mcvd("UCF-101 64x64", "UCF101", "UCF101_64_h5", "1bDqhhfKYrdbIIOZeJcWHWjSyFQwmO1t-"),
}


def fetch_data(name: str, out: Path) -> Path:
    """Fetch a dataset into its folder below `out`; parts that are there are not fetched again.

    Raises:
        ValueError: too small a disk, no tool that unpacks, a login refused, or what `fetch` raises.
    """
    dataset = DATASETS[name]
    root = out / dataset.folder
    done = _read_done(root)
    wanted = [part for part in dataset.parts if part.file not in done]
    if not wanted:
        return root
    check_disk(name, dataset, root)
    if any(part.file.endswith(".rar") for part in wanted):
        rar_tool()  # before the hours of fetching
    session, sums = _login(dataset) if dataset.login else (None, {})
    for part in wanted:
        archive = root / part.file
        if not archive.is_file():
            fetch(part.url, archive, check=_checker(part, sums.get(part.url)), size=part.size, session=session,
                  advice=f"or fetch it elsewhere, put it at {archive} and run this again")
        digest = file_hash(archive)
        place(archive, root / part.folder)
        done[part.file] = {"sha256": digest, "url": part.url}
        write_text(root / DONE, json.dumps(done, indent=1) + "\n")
    return root


def is_whole(name: str, out: Path) -> bool:
    """Whether all parts of a dataset were fetched into its folder below `out`."""
    dataset = DATASETS[name]
    return {part.file for part in dataset.parts} <= _read_done(out / dataset.folder).keys()


def _read_done(root: Path) -> dict[str, dict[str, str]]:
    try:
        return json.loads((root / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{root / DONE} is damaged ({error}); remove it to fetch the dataset again") from None


def check_disk(name: str, dataset: Dataset, root: Path) -> None:
    """Refuse to begin what the disk cannot hold; what an earlier call fetched already lies there."""
    here = root
    while not here.exists():
        here = here.parent
    there = sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) if root.is_dir() else 0
    missing = dataset.needs - there - shutil.disk_usage(here).free
    if missing > 0:
        raise ValueError(f"{name} needs {dataset.needs / GB:.0f} GB (its archives and their content), {root} is short of "
                         f"{missing / GB:.1f} GB; free them or give --out DIR on a larger disk")


def _checker(part: Part, md5: str | None) -> Callable[[Path], None]:
    def check(file: Path) -> None:
        if part.sha256 and (got := file_hash(file)) != part.sha256:
            raise ValueError(f"{part.url} gave a damaged or another file: its SHA-256 starts with {got[:12]}, wanted "
                             f"{part.sha256[:12]}; run the same command again")
        if md5 and (got := file_hash(file, "md5")) != md5:
            raise ValueError(f"{part.url} gave a damaged file: its MD5 is {got}, its owner tells {md5}; run the same command "
                             "again")
    return check


# --- unpacking -----------------------------------------------------------------------------------------------

def place(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder and remove it; another file is only moved there. Told by content, not by name."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = kind_of(archive)
    if kind in ("zip", "tar", "rar"):
        {"zip": _unzip, "tar": _untar, "rar": _unrar}[kind](archive, folder)
        archive.unlink()
    elif kind == "hdf5":
        os.replace(archive, folder / f"{archive.stem}.hdf5")
    elif archive.suffix in (".gz", ".txt"):
        os.replace(archive, folder / archive.name)
    else:
        raise ValueError(f"{archive} is neither a zip, tar, rar nor HDF5 file; remove it and run the same command again")


def kind_of(file: Path) -> str:
    """What a file is by its content: zip, tar, rar, hdf5 or other."""
    with open(file, "rb") as stream:
        head = stream.read(8)
    if head.startswith(b"Rar!"):
        return "rar"
    if head == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if zipfile.is_zipfile(file):
        return "zip"
    return "tar" if tarfile.is_tarfile(file) else "other"


def _unzip(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as source:
            members = source.infolist()
            total = sum(member.file_size for member in members)
            if (free := shutil.disk_usage(folder).free) < total:
                raise ValueError(f"no room to unpack {archive}: {total / GB:.1f} GB come out of it, {folder} has "
                                 f"{free / GB:.1f} GB free; free the place and run the same command again")
            with tqdm(total=total, desc=f"unpack {archive.name}", unit="B", unit_scale=True) as bar:
                for member in members:
                    source.extract(member, folder)  # which strips absolute paths and ".."
                    bar.update(member.file_size)
    except zipfile.BadZipFile as error:
        raise _torn(archive, error) from None


def _untar(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as source:
            for member in tqdm(source, desc=f"unpack {archive.name}", unit=" files"):
                source.extract(member, folder, filter="data")  # refuses what would leave the folder
    except (tarfile.TarError, EOFError) as error:
        raise _torn(archive, error) from None


def _unrar(archive: Path, folder: Path) -> None:
    tool = rar_tool()
    done = subprocess.run([tool, *RAR_TOOLS[Path(tool).stem], str(archive.absolute())], cwd=folder, capture_output=True,
                          text=True, errors="replace", check=False)
    if done.returncode:
        raise _torn(archive, (done.stderr.strip().splitlines() or [f"{tool} returned {done.returncode}"])[-1])


def rar_tool() -> str:
    """The program here that unpacks rar archives; Python has none of its own."""
    for name in RAR_TOOLS:
        if found := shutil.which(name):
            return found
    raise ValueError(f"this dataset is a rar archive and none of {', '.join(RAR_TOOLS)} is here to unpack it; install one "
                     "(such as apt-get install unrar, or brew install unar)")


def _torn(archive: Path, error: object) -> ValueError:
    return ValueError(f"{archive} does not unpack ({error}); remove it and run the same command again")


# --- owners that ask who fetches -----------------------------------------------------------------------------

def _login(dataset: Dataset) -> tuple[requests.Session, dict[str, str]]:
    """A session that may fetch the parts, and the MD5 that the owner tells of each."""
    import requests
    user, password = _credentials(dataset)
    session, refused = requests.Session(), f"{dataset.login} does not accept the user and the password"
    try:
        session.get(f"{dataset.login}/login", timeout=30)
        answer = session.post(f"{dataset.login}/login", timeout=30, allow_redirects=False,
                              data={"username": user, "password": password, "submit": "Login"})
        if not answer.is_redirect:
            raise ValueError(f"{refused} (HTTP {answer.status_code}); check them, or register at {dataset.login}/register")
        sums = {}
        for part in dataset.parts:
            told = session.get(part.url.replace("/file-handling/", "/md5-sum/"), timeout=30, allow_redirects=False)
            if told.ok and told.text.split():
                sums[part.url] = told.text.split()[0]
    except requests.RequestException as error:
        raise ValueError(f"could not log in to {dataset.login}: {type(error).__name__}; try again later, or fetch "
                         f"{dataset.parts[0].file} in a browser") from None
    return session, sums


def _credentials(dataset: Dataset) -> tuple[str, str]:
    """From the environment, or asked for where a person sits at a terminal."""
    user, password = (os.environ.get(f"CITYSCAPES_{word}") for word in ("USERNAME", "PASSWORD"))
    if user and password:
        return user, password
    if not sys.stdin.isatty():
        raise ValueError(f"{dataset.login} asks for an account: register at {dataset.login}/register and set "
                         "CITYSCAPES_USERNAME and CITYSCAPES_PASSWORD, or run this in a terminal")
    print(f"account at {dataset.login}", file=sys.stderr)
    if not user:
        print("user: ", end="", file=sys.stderr, flush=True)  # stdout is for the path
        user = sys.stdin.readline().strip()
    return user, password or getpass.getpass("password: ", stream=sys.stderr)
