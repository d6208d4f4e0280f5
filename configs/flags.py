"""The flags of the command line, in groups by what they are for; the help of each says which experiments read it."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from configs.commands import COMMANDS, given, readers
from tools.sources import SOURCES


class Flag(NamedTuple):
    name: str
    options: dict[str, Any]


class Given(argparse.Action):
    """Stores a flag's value and remembers that the line says it, which a default does not tell."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        namespace.given = [*given(namespace), self.dest]


def flag(name: str, help: str, type: Callable = str, **options) -> Flag:
    """A flag with a value; its help ends in the experiments that read it."""
    metavar = "FILE" if "config" in name else type.__name__.upper()
    return Flag(name, {"help": f"{help} {shown_readers(name)}", "action": Given, "type": type, "metavar": metavar, **options})


def switch(name: str, help: str) -> Flag:
    """A flag without a value."""
    return Flag(name, {"help": f"{help} {shown_readers(name)}", "action": Given, "nargs": 0, "default": False})


def shown_readers(name: str) -> str:
    found = readers(name.removeprefix("--"))
    return "[every --exp]" if len(found) == len(COMMANDS) else f"[--exp {', '.join(found)}]"


FLAGS: dict[str, list[Flag]] = {
    "runs": [
        flag("--id", "name of the run (default main)", default="main"),
        flag("--seed", "all randomness follows from it (default 42)", int, default=42),
        flag("--results", "where run folders go (default results)", default="results", metavar="DIR"),
        flag("--resume", "continue from a checkpoint file (the same command continues its own run anyway)", metavar="FILE"),
        flag("--init_from", "start a new run from a model's weights (fine-tuning; carla: also imagenet, or a file of "
                            "torchvision's)", metavar="MODEL"),
    ],
    "data": [
        flag("--data", "dataset: " + ", ".join(SOURCES)),
        flag("--data_path", "the dataset's folder or its parent (default $VIDEO_DATA, or else /data)", metavar="DIR"),
        flag("--resolution", "pixels of a frame's side (default: training, of the YAML; sampling, of the model; evaluation, "
                             "as the videos are)", int),
        flag("--frames", "training: frames of a clip (default: of the YAML); sampling: of a video (default: of the task); "
                         "plan: of the video (default: of --input)", int),
        flag("--workers", "loading processes (default 2 where the YAML says nothing)", int),
    ],
    "training": [
        flag("--batch_size", "training: clips an update over all processes (default: of the YAML); sampling, "
                             "reconstruction, encode: videos or clips at once (default 4); evaluation: pairs at once (default "
                             "8); bench: clips that the U-Net takes at once (default 1); carla: frames an update (default "
                             "32), or at once (default 8)", int),
        flag("--steps", "training: optimizer updates (default: of the YAML); sampling: steps of the sampler (default 20 of "
                        "deis, 50 of any other), or 400/20 (first clip/others)"),
        switch("--scale_lr", "multiply the learning rate by the batch size"),
        flag("--pretrain_config", "settings of the autoencoder (first_stage: default configs/autoencoder/base.yaml; ddpm: must "
                                  "agree with --first_model)"),
        flag("--diffusion_config", "settings of the diffusion (default configs/latent-diffusion/base.yaml)"),
        flag("--first_model", "autoencoder: run folder or model file, ours or PVDM's (default in sampling: the one that "
                              "--model was trained on)", metavar="MODEL"),
        flag("--first_stage_folder", "run of the first stage that an adversarial run continues", metavar="RUN"),
        flag("--latents", "where --exp encode wrote the latents of the training videos, or none (default auto: what it wrote "
                          "beside --first_model with the same settings, if anything)", default="auto", metavar="DIR"),
        flag("--windows_per_video", "encode so many windows of each video, drawn by --seed (default: all, see --stride)", int,
             default=0),
        flag("--draws", "masks that are drawn for each window (default 4)", int, default=4),
        flag("--dtype", "how latents are kept, float32 or float16 (default float32)", default="float32"),
    ],
    "sampling and evaluation": [
        flag("--model", "diffusion model: run folder or model file, ours or PVDM's; info: any model; carla: a run of "
                        "it, a folder of FDM's classifier and regressor, or released (what download fetched)", metavar="MODEL"),
        flag("--weights", "of a run folder: ema, raw or best (default ema; carla: best)", default="ema"),
        flag("--task", "generate, predict, predict_backward, interpolate or infill (default predict, generate where there is "
                       "neither --data nor --input)"),
        flag("--known", "given frames, like 0-3,12 or -4--1, the last four (default: those of the task)", metavar="SPEC"),
        flag("--num_videos", "how many videos (default 4; of real ones, one window of each video or all of --starts); "
                             "report: shown of a folder (default 4); export: the first ones (default all, of a grid 16)", int),
        flag("--samples_per_video", "samples of each (default 1)", int, default=1),
        flag("--input", "a video, an image or a folder of them, in place of --data; plan: the video that an adaptive scheme "
                        "looks at; export: videos, what sample wrote, or a model; carla: videos or what sample wrote",
             metavar="PATH"),
        switch("--resize", "bring --input to the model's frame size"),
        flag("--scheme", "how a long video is cut into windows (default autoreg); rollout.one_frame=true keeps one frame of "
                         "each clip, rollout.init_prev_t=0.5 starts a clip from the one before, rollout.carry=false encodes "
                         "what was decoded, rollout.history_noise=0.1 shows made clips with noise", default="autoreg"),
        flag("--window", "clips the network sees at once (default 2; condition window: as it was trained); plan: frames "
                         "(default 20)", int),
        flag("--stride", "clips made at once (default 1; condition window: half of its window); plan: frames (default half of "
                         "--window); encode: frames from one window to the next (default: all windows, or those of "
                         "data.windows)", int),
        flag("--schedule", "windows in place of --scheme, as plan prints them (sampling counts in clips)", metavar="FILE"),
        switch("--just_visualise", "draw who observes whom to --out as well"),
        flag("--overlap", "frames that neighbouring clips share (default 0; 1 for a model that sees the clip itself)", int),
        flag("--sampler", "ddpm, ddim, deis, dpmpp_2m, heun, pndm, flow_euler (default deis, or ddim with --eta and for "
                          "models whose schedule is a table, as PVDM's); noise.temperature and noise.shared (between the clips "
                          "of a video) change the noise that it starts from"),
        flag("--eta", "randomness of ddim, 0 to 1 (default 0)", float),
        flag("--guidance", "w of (1 + w) eps(c) - w eps(0) (default 0); guidance.low and guidance.high bound the sigma / alpha "
                           "where it acts, guidance.history=W guides by a share, guidance.fraction, of what is seen, or by it "
                           "with noise, guidance.sigma", float,
             default=0.0),
        flag("--guide", "a weaker model in the place of eps(0): an earlier or smaller one on the same autoencoder",
             metavar="MODEL"),
        flag("--content", "another model for a first clip around which nothing is known", metavar="MODEL"),
        flag("--starts", "where in each video the windows begin: 0,8,16, or centre, or every-8 (a window each 8 frames and the "
                         "last one) (default: drawn by --seed, of --input 0)"),
        flag("--windows", "the windows of an earlier comparison in place of --starts: its windows.json, so that two models see "
                          "the same frames", metavar="FILE"),
        flag("--baseline", "sample: repeat_last, nearest or blend, from the --known frames in place of --model; reconstruct: "
                           "linear"),
        switch("--no_border", "paste given frames without mending the made ones beside them"),
        switch("--npz", "also write samples.npz"),
        flag("--runs", "run folders, sample folders, JSON files of evaluate, or folders of these", nargs="+", metavar="PATH"),
        flag("--format", "mp4, gif, npy, npz, png (a folder of frames each), grid (one mp4, gif or png of many), safetensors "
                         "(of a model) or i3d (TensorFlow's weights, of an npz, for FVD); without it the end of --out says so"),
        flag("--fps", "frames a second of mp4 and gif (default 10)", float, default=10.0),
        flag("--out", "where the results go (a folder; encode: default latents/ beside --first_model; evaluate: a JSON file; "
                      "plan: a PNG, default plan.png; report: a page, default report.html in the run or --results; export: a "
                      "file, or a folder for several; download: default $VIDEO_WEIGHTS or a cache, of datasets $VIDEO_DATA or "
                      "/data; carla: a folder for coords/, default --input where it has samples/, or the JSON of a comparison; "
                      "bench: a JSON file)",
             metavar="PATH"),
        flag("--name", "what to download: weights such as i3d, lpips-vgg, pvdm-ucf101, or a dataset such as mnist, kth; list "
                       "shows all"),
        flag("--only", "parts to measure, comma-separated: encode, decode, unet, train_autoencoder, train_unet, sample, "
                       "context, data, evals, latents, long_video (of tiny.yaml where no YAML is given), samplers (also on "
                       "--model; draws a PNG beside --out) (default all)", metavar="NAMES"),
        flag("--real", "folder of real videos (export: shown beside the made ones of a grid; carla: of coordinates)",
             metavar="DIR"),
        flag("--fake", "folder of made videos (carla: of coordinates)", metavar="DIR"),
        flag("--metrics", "comma-separated (default psnr,psnr_pooled,ssim, or those of --protocol); an option of one: "
                          "lpips.size=128", default="psnr,psnr_pooled,ssim"),
        flag("--protocol", "styleganv-16f, styleganv-128f, styleganv-128f-s8, styleganv-sorted, pvdm, mcvd, ramvid, fdm, or "
                           "custom (default custom); protocol.KEY=VALUE changes one of its settings, and the metrics' names",
             default="custom"),
        flag("--known_frames", "exclude or include given frames in paired metrics (default exclude), and in FVD (default: of "
                               "--protocol, which includes them)", default="exclude"),
        flag("--i3d", "weights of I3D for fvd: i3d_pretrained_400.pt or i3d_torchscript.pt (default: what download fetched)",
             metavar="FILE"),
        switch("--selfcheck", "what the metrics say of videos of which the answer is known (of --real, or generated ones)"),
    ],
}
