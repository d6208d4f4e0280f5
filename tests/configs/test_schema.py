"""One configuration from YAML, flags and dotted keys: what wins, what is refused, and what comes back from a file."""

from dataclasses import FrozenInstanceError, asdict

import pytest
import yaml

from autoencoder.config import FirstStageConfig
from configs.schema import DEFAULTS, FOLDER, SCHEMAS, keys_of, load_config, plain
from latent_diffusion.config import DiffusionStageConfig

FIRST, SECOND = FOLDER / "autoencoder", FOLDER / "latent-diffusion"
FILES = [(FirstStageConfig, path) for path in (*sorted(FIRST.glob("*.yaml")), FOLDER / "demo" / "autoencoder.yaml")] \
    + [(DiffusionStageConfig, path) for path in (*sorted(SECOND.glob("*.yaml")), FOLDER / "demo" / "diffusion.yaml")]


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_every_file_belongs_to_a_schema():
    assert {path for _, path in FILES} == set(FOLDER.glob("*/*.yaml"))
    assert set(DEFAULTS) == set(SCHEMAS)


@pytest.mark.parametrize("schema, file", FILES, ids=[f"{p.parent.name}/{p.stem}" for _, p in FILES])
def test_every_file_loads_and_comes_back_from_a_run_folder(schema, file, tmp_path):
    cfg = load_config(schema, file)
    text = yaml.safe_dump(plain(cfg) | {"run": {"init_from": None}})  # as tools.log.claim writes config.yaml
    assert load_config(schema, write(tmp_path, text, "config.yaml")) == cfg


def test_the_stronger_layer_wins(tmp_path):
    file = write(tmp_path, "optim: {lr: 1e-3, warmup: 5}\nloop: {steps: 7, keep: 3}\n")
    cfg = load_config(FirstStageConfig, file, {"loop.steps": 8, "loop.batch_size": 4, "data.name": None},
                      ["loop.batch_size=2", "optim.lr=2e-3", "optim.lr=3e-3"])
    assert (cfg.optim.lr, cfg.optim.warmup) == (3e-3, 5)                           # dotted key; file
    assert (cfg.loop.steps, cfg.loop.batch_size, cfg.loop.keep) == (8, 2, 3)       # flag; dotted key; file
    assert list(cfg.optim.betas) == list(FirstStageConfig().optim.betas)            # default
    assert cfg.data.name == "UCF101"                                               # a flag that was not given


def test_a_file_builds_on_another(tmp_path):
    write(tmp_path, "optim: {lr: 1e-3, warmup: 5}\ntrain: {flip: 0.5}\n", "base.yaml")
    (tmp_path / "deep").mkdir()
    middle = write(tmp_path, "extends: base.yaml\noptim: {lr: 2e-3}\n", "middle.yaml")
    file = write(tmp_path / "deep", "extends: ../middle.yaml\ntrain: {flip: 0.25}\n")
    assert load_config(FirstStageConfig, middle).optim.lr == 2e-3
    cfg = load_config(FirstStageConfig, file)
    assert (cfg.optim.lr, cfg.optim.warmup, cfg.train.flip) == (2e-3, 5, 0.25)


def test_circles_are_refused(tmp_path):
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    with pytest.raises(ValueError, match="extends itself"):
        load_config(FirstStageConfig, write(tmp_path, "extends: a.yaml\n", "b.yaml"))


@pytest.mark.parametrize("override, message", [
    ("optim.rl=1", r'"optim\.rl" \(did you mean "optim\.lr"\?\)'),
    ("loop.step=1", 'did you mean "loop.steps"'),
    ("optimizer.lr=1", "sections: .*optim"),
    ("optim=3", "OptimConfig.*3"),
    ("loop.steps=many", "loop.steps: .*many"),
    ("loop.steps=1.5", "loop.steps"),
    ("train.flip=null", "train.flip"),
    ("optim.betas=[0.9,1.5]", r"optim\.betas must be two numbers"),
    ("optim.lr=-1", "optim.lr must be positive, got -1"),
    ("data.resolution=[16,16", "cannot be read"),
    ("loop.steps", "is no setting"),
    ("=3", "is no setting"),
    ("loop.steps=", "loop.steps"),
])
def test_wrong_settings_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        load_config(FirstStageConfig, FIRST / "tiny.yaml", {}, [override])


@pytest.mark.parametrize("text, message", [
    ("- a\n- b\n", "holds a list"),
    ("optim: {lr: ]\n", "not readable YAML"),
    ("just text\n", "just text"),
    ("loss:\n", "loss"),
    ("optimm: {lr: 1}\n", r'"optimm\.lr"'),
    ("extends: nowhere.yaml\n", "no configuration file"),
])
def test_wrong_files_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(FirstStageConfig, write(tmp_path, text))


def test_a_missing_file_lists_the_projects_own():
    with pytest.raises(ValueError, match=r"autoencoder/base\.yaml"):
        load_config(FirstStageConfig, "nowhere.yaml")


def test_an_empty_file_is_the_defaults(tmp_path):
    assert plain(load_config(FirstStageConfig, write(tmp_path, ""))) == plain(FirstStageConfig())


def test_options_of_plug_ins_are_their_own():
    cfg = load_config(DiffusionStageConfig, SECOND / "tiny.yaml", {},
                      ["condition.sees=[past,self]", "condition.null_token=true", "data.name=SHAPES",
                       "data.options.size=[16,24]"])
    assert cfg.condition == {"name": "concat", "sees": ["past", "self"], "mask": True, "null_token": True}
    assert cfg.data.options == {"size": [16, 24]}
    assert type(cfg.condition) is dict and type(cfg.condition["sees"]) is list


def test_another_plug_in_comes_without_the_options_of_the_one_before(tmp_path):
    assert load_config(DiffusionStageConfig, SECOND / "base.yaml").mask == {"name": "pvdm", "rate": 0.3}
    for overrides in (["mask.name=prefix"], ["mask={name: prefix}"]):
        assert load_config(DiffusionStageConfig, SECOND / "base.yaml", {}, overrides).mask == {"name": "prefix"}
    for overrides in (["mask.name=ramvid", "mask.p_u=0.1"], ["mask.p_u=0.1", "mask.name=ramvid"]):
        cfg = load_config(DiffusionStageConfig, SECOND / "base.yaml", {}, overrides)
        assert cfg.mask == {"name": "ramvid", "p_u": 0.1}
    assert load_config(DiffusionStageConfig, SECOND / "base.yaml", {}, ["mask.name=pvdm"]).mask["rate"] == 0.3
    file = write(tmp_path, f"extends: {SECOND / 'base.yaml'}\nmask: {{name: none}}\n")
    assert load_config(DiffusionStageConfig, file).mask == {"name": "none"}


def test_a_configuration_is_frozen_and_plain_is_not_part_of_it():
    cfg = load_config(DiffusionStageConfig, SECOND / "base.yaml")
    with pytest.raises(FrozenInstanceError):
        cfg.optim.lr = 1.0
    plain(cfg)["mask"]["name"] = "none"
    assert cfg.mask["name"] == "pvdm"


@pytest.mark.parametrize("schema", SCHEMAS.values())
def test_keys_are_those_of_the_dataclasses(schema):
    def names(value, prefix=""):
        for key, item in value.items():
            yield from names(item, f"{prefix}{key}.") if isinstance(item, dict) and item else [prefix + key]
    keys = keys_of(schema)
    free = tuple(key[:-1] for key in keys if key.endswith(".*"))
    for name in names(asdict(schema())):
        assert name in keys or name.startswith(free) or name + ".*" in keys


def test_contradictions_between_sections_are_refused():
    with pytest.raises(ValueError, match="eps cannot start from pure noise"):
        load_config(DiffusionStageConfig, SECOND / "tiny.yaml", {}, ["process.parametrisation=eps"])
    with pytest.raises(ValueError, match=r"model\.resolution=32 contradicts data\.resolution=16"):
        load_config(FirstStageConfig, FIRST / "tiny.yaml", {}, ["model.resolution=32"])
