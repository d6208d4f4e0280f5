"""docs/migrating.md: what it says of ours exists, and nothing of theirs is left out."""

import importlib.util
import re

import pytest

from autoencoder.model import ARCHITECTURES
from configs.commands import COMMANDS
from configs.flags import FLAGS
from configs.schema import SCHEMAS, keys_of
from evals.carla_config import CarlaConfig
from evals.protocol import METRICS
from latent_diffusion import schedule
from latent_diffusion.condition import CONDITIONS
from latent_diffusion.masks import MASKS
from tests.tiny import ROOT
from tools.fetch_data import DATASETS
from tools.sources import SOURCES
from tools.weights import WEIGHTS

TEXT = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
HELP = {flag.name: flag.options["help"] for flags in FLAGS.values() for flag in flags}
OWN_FLAGS = {*HELP, "--exp", "--dry-run", "--config_mod"}
KEYS = {key for schema in (*SCHEMAS.values(), CarlaConfig) for key in keys_of(schema)}
PLUG_INS = {"mask": MASKS, "condition": CONDITIONS, "model.options": ARCHITECTURES, "data.options": SOURCES}
VALUES = {"--exp": COMMANDS, "--data": SOURCES, "--metrics": METRICS, "--name": {*WEIGHTS, *DATASETS, "list"}}
LAUNCHERS = ("torchrun", "python")
FILE = re.compile(r"\.(pth|pt|json|jsonl|ya?ml|npy|npz|md|py|txt|csv|png|gif|mp4)$")


def rows(section):
    """The cells of every row of a section's tables but for their heads."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines
            if not line.startswith(("| there", "|---"))]


def backticks(text):
    return re.findall(r"`([^`\n]+)`", text)


def exists(key):
    """Whether this is a key of a schema, an option of a plug-in, or a setting that the help of a flag tells."""
    section, _, option = key.rpartition(".")
    if section in PLUG_INS:
        return option == "name" or any(option in PLUG_INS[section].options(name) for name in PLUG_INS[section])
    return key in KEYS or any(re.search(rf"\b{re.escape(key)}\b", text) for text in HELP.values())


def ours():
    """Everything in backticks that is about this project: the prose, and the second column of the tables."""
    prose = "\n".join(line for line in TEXT.splitlines() if not line.startswith("|"))
    cells = [row[1] for section in SECTIONS for row in rows(section)]
    return sorted({token for text in (prose, *cells) for token in backticks(text) if not token.startswith(LAUNCHERS)})


@pytest.mark.parametrize("token", ours())
def test_flags_and_keys_of_ours_exist(token):
    for flag in re.findall(r"(?<!\S)--[\w-]+", token):
        assert flag in OWN_FLAGS
    for word in token.split():
        key = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)+)(?:=.*)?", word)
        if key and not FILE.search(key[1]):
            assert exists(key[1])


@pytest.mark.parametrize("token", [token for token in ours() if "--" in token])
def test_what_flags_of_ours_are_given_exists(token):
    for flag, value in re.findall(r"(--\w+) (?!-)(\S+)", token):
        for name in value.split(",") if flag in VALUES else ():
            assert name in VALUES[flag]


def test_modules_of_ours_exist():
    modules = set(re.findall(r"python -m ([\w.]+)", TEXT))
    assert modules and all(map(importlib.util.find_spec, modules))


def test_names_of_ours_exist():
    datasets = {token for token in ours() if re.fullmatch(r"[A-Z]+\d*", token)}
    fetched = {token for token in ours() if re.fullmatch(r"[a-z]\w*(-\w+)+|i3d|c3d", token)}
    assert {"KTH", "SMMNIST"} <= datasets <= {*SOURCES}
    assert {"pvdm-sky", "carla-classifier"} <= fetched <= {*WEIGHTS, *DATASETS}


def test_what_does_not_exist_would_be_noticed():
    assert not any(map(exists, ("optim.rl", "mask.p_pst", "condition.see", "rollout.one_fram", "optimizer.lr",
                                "data.options.digit_count")))
    assert all(map(exists, ("optim.lr", "mask.p_past", "condition.sees", "model.options.time_patch", "mask.name",
                            "data.options.number", "train.augment")))


@pytest.mark.parametrize("token", [token for token in ours() if "name=" in token])
def test_plug_ins_of_ours_exist(token):
    key, _, name = token.partition("=")
    valid = {"mask.name": MASKS, "condition.name": CONDITIONS, "schedule.name": schedule.NAMES}
    assert name in valid[key]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_tells_what_it_became_or_why_it_is_gone(section):
    for row in rows(section):
        assert len(row) == 2 and all(row), row
        gone = re.search(r"\bgone\b", row[1])
        assert backticks(row[1]) or gone or row[1].startswith("always")
        if gone:
            assert re.search(r"\bgone(: | in training: )\w+|are gone: \w+", row[1]), row


# Every flag and key of the published code, by where it is read.
MODEL_FLAGS = """image_size num_channels num_res_blocks num_heads num_heads_upsample attention_resolutions dropout learn_sigma
sigma_small class_cond diffusion_steps noise_schedule timestep_respacing use_kl predict_xstart rescale_timesteps
rescale_learned_sigmas use_checkpoint use_scale_shift_norm"""
TRAIN_FLAGS = """schedule_sampler lr weight_decay lr_anneal_steps batch_size microbatch ema_rate log_interval save_interval
resume_checkpoint use_fp16 fp16_scale_growth"""


def named(names, prefix=""):
    return {prefix + name for name in names.split()}


def flags(names):
    return named(names, "--")


def keys(section, names):
    return named(names, f"{section}.")


THEIRS = {
    "PVDM": flags("exp seed id data batch_size ds pretrain_config diffusion_config first_stage_folder first_model scale_lr")
    | keys("model", "resume amp base_learning_rate")
    | named("""embed_dim disc_start double_z channels resolution timesteps skip in_channels out_ch num_res_blocks
        attn_resolutions splits base_learning_rate cond_model linear_start linear_end num_timesteps_cond log_every_t
        loss_type first_stage_key cond_stage_key image_size cond_stage_trainable concat_mode scale_by_std w
        warm_up_steps cycle_lengths f_start f_max f_min out_channels model_channels attention_resolutions channel_mult
        num_heads use_scale_shift_norm resblock_updown"""),
    "MCVD": flags("""config data_path seed exp comment verbose resume_training test feats_dir stats_dir stats_download fast_fid
        fid_batch_size no_pr fid_num_samples pr_nn_k sample image_folder final_only end_ckpt freq no_ema ni interact video_gen
        video_folder subsample ckpt config_mod start_at""") | {"-i", "-v"}
    | keys("training", "L1 batch_size n_epochs n_iters snapshot_freq snapshot_sampling sample_freq val_freq log_freq "
                       "log_all_sigmas loss_type")
    | keys("sampling", """batch_size data_init ckpt_id final_only fid ssim fvd denoise subsample num_samples4fid num_samples4fvd
        inpainting interpolation n_interpolations consistent step_lr n_steps_each train num_frames_pred clip_before
        max_data_iter init_prev_t one_frame_at_a_time preds_per_test""")
    | keys("fast_fid", "batch_size num_samples begin_ckpt freq end_ckpt pr_nn_k verbose ensemble step_lr n_steps_each")
    | keys("test", "begin_ckpt end_ckpt batch_size")
    | keys("data", """dataset image_size channels logit_transform uniform_dequantization gaussian_dequantization random_flip
        rescaled num_workers num_digits step_length num_frames num_frames_cond num_frames_future prob_mask_cond
        prob_mask_future prob_mask_sync color_jitter subset test_subset classes""")
    | keys("model", """depth version gamma arch type time_conditional dropout sigma_dist sigma_begin sigma_end num_classes ema
        ema_rate spec_norm normalization nonlinearity ngf ch_mult num_res_blocks attn_resolutions n_head_channels conditional
        noise_in_cond output_all_frames cond_emb spade spade_dim""")
    | keys("optim", "weight_decay optimizer lr warmup beta1 amsgrad eps grad_clip"),
    "RaMViD": flags(MODEL_FLAGS + " " + TRAIN_FLAGS) | flags("""scale_time_dim rgb data_dir clip seed
        anneal_type steps_drop drop decay seq_len max_num_mask_frames mask_range uncondition_rate exclude_conditional
        clip_denoised num_samples use_ddim model_path sampling_type cond_frames cond_generation resample_steps save_gt save_gif
        prediction_step max_cond_frames""") | {"OPENAI_LOGDIR", "OPENAI_LOG_FORMAT", "DIFFUSION_BLOB_LOGDIR",
                                               "DIFFUSION_TRAINING_TEST"},
    "FDM": flags(MODEL_FLAGS + " " + TRAIN_FLAGS) | flags("""use_rpe_net dataset resume_id wandb_id num_workers
        pad_with_random_frames max_frames T sample_interval unobserve eval_dir sampling_scheme n_obs max_latent_frames
        start_index stop_index use_ddim clip_denoised sample_idx just_visualise optimality device num_videos out_dir add_gt
        do_n n_seeds obs_length format classifier_path regressor_path dataset_dir model is_classifier data_dir with_transforms
        num_epochs model_path num_samples""") | {"checkpoint_path", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_DIR_DRYRUN",
                                                 "DATA_ROOT", "SLURM_ARRAY_TASK_ID"},
    "VIDM": flags("""resolution seed gpu world-size rank dist-url dist-backend multiprocessing-distributed workers batch-size
        total-iters start-iters print-freq test-freq save-freq resume""") | {"-dir1", "-dir2", "-b", "-r", "-n", "-ns", "-i3d",
                                                                             "-c3d", "DATASETS", "EXPERIMENTS"}
    | named("""nframes video_timesteps diffusion_timesteps xflip return_vid use_labels interpolate time_saliency model_channels
        channel_mult num_res_blocks attention_resolutions num_heads num_head_channels in_channels out_channels image_size
        resblock_updown use_scale_shift_norm dropout use_checkpoint use_fp16 spynet_pretrained steps noise_schedule learn_sigma
        use_kl rescale_learned_sigmas predict_xstart rescale_timesteps p2_gamma p2_k timestep_respacing"""),
}


@pytest.mark.parametrize("section", THEIRS)
def test_nothing_of_theirs_is_left_out(section):
    told = {token for row in rows(section) for token in backticks(row[0])}
    assert not THEIRS[section] - told


def test_each_system_has_a_section():
    assert set(SECTIONS) == set(THEIRS)
