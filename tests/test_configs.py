"""Every option of every config group composes, and says what its name promises."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import esd.evaluate.options  # noqa: F401  (registers its options' types)
from esd.command.entry import CONF
from esd.train.build import trajectories_of
from esd.train.options import check_train_options

GROUPS = {
    group: sorted(str(p.relative_to(CONF / group).with_suffix("")) for p in (CONF / group).rglob("*.yaml"))
    for group in ("model", "layers", "trajectories", "trainer", "logger", "optimizer", "schedule", "experiment")
}
OTHERS = {"protocol": "evaluate", "pretrain": "pretrain"}  # groups of other commands
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", ["concept=pizza", *overrides])


def test_how_many_options_there_are():
    counts = {group: len(options) for group, options in GROUPS.items()}
    assert counts == {
        "model": 8, "layers": 12, "trajectories": 4, "trainer": 3, "logger": 3, "optimizer": 3, "schedule": 2, "experiment": 12,
    }  # fmt: skip


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_passes_the_check(group, option, tmp_path):
    (tmp_path / "a.png").touch()
    needed = {"sd21": ["model.path=x"], "pictures": [f"trajectories.images='{tmp_path}'"]}
    cfg = composed(f"{group}={option}", *needed.get(option, []))
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_train_options(cfg)
    trajectories_of(cfg)
    if group in ("layers", "trajectories", "model", "logger"):
        named = {"emoji-twin": "emoji", "default": "kv"} if group in ("model", "layers") else {}
        assert cfg[group].name == named.get(option, option)  # the twin has the model's words and judge


@pytest.mark.parametrize(("group", "command"), OTHERS.items())
def test_every_option_of_the_other_commands_composes(group, command):
    for file in (CONF / group).glob("*.yaml"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(command, [f"{group}={file.stem}", *(["edit=x"] if command == "evaluate" else [])])
        assert cfg[group]


@pytest.mark.parametrize("optimizer", GROUPS["optimizer"])
@pytest.mark.parametrize("schedule", GROUPS["schedule"])
def test_optimisers_and_schedules_are_torchs(optimizer, schedule):
    import torch

    cfg = composed(f"optimizer={optimizer}", f"schedule={schedule}", "lr=0.5")
    made = instantiate(cfg.optimizer)([torch.nn.Parameter(torch.ones(1))])
    assert made.param_groups[0]["lr"] == 0.5
    assert instantiate(cfg.schedule)(made).get_last_lr() == [0.5]


def test_a_models_defaults_give_way_to_the_command_line():
    assert composed("model=sd14").lr == 1e-5 and composed("lr=3").lr == 3
    assert composed("layers=esd-x").lr == composed("layers=esd-x-strict").lr == 2e-4
    assert composed().lr == 6e-3 and composed("model=sd14", "layers=esd-u").lr == 1e-5
    assert composed("layers=esd-u").lr == composed("experiment=sweep", "layers=esd-u").lr == 1e-4  # in a plain sweep, too
    assert composed("layers=esd-u", "lr=3").lr == composed("layers=esd-u", "model.lr=3").lr == 3
    assert composed("model=sd14").batch == 1 and composed("model=sd14", "steps=7").steps == 7


def test_the_long_verdict_is_the_long_protocol():
    from esd.erasing.concepts import Concept
    from esd.train.verdict import short_protocol

    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("evaluate", ["protocol=emoji", "edit=x"]).protocol
    made = {long: short_protocol(composed(f"evaluate={long}"), [Concept("pizza")]) for long in ("long", "true", "false")}
    assert vars(made["long"]) == {key: value for key, value in whole.items() if not key.startswith("_")}
    assert made["true"].pictures < made["long"].pictures and made["false"] is None


def test_steps_grow_with_the_concepts_and_a_style_takes_more():
    assert [composed(f"concept={it}").steps for it in ("pizza", "[pizza,cat]", "noto", "fluent style", "kitten")] == [
        30, 54, 60, 60, 30,
    ]  # fmt: skip
    assert composed("concept=[a,b,c]", "model=sd14").steps == 3000 and composed("concept=[pizza,cat]", "steps=7").steps == 7
    assert composed("concept=a pizza in the style of noto").steps == 30, "an object in a style is an object"
    assert composed("layers=esd-x").steps == 60 and composed("layers=esd-x", "concept=noto").steps == 120
    assert [composed(f"concept={it}").eta for it in ("pizza", "noto", "[pizza,fluent]")] == [1, 3, 3]
    assert composed("concept=noto", "eta=1").eta == 1 and composed("concept=noto", "model=sd14").eta == 1


def test_the_default_layers_are_the_models_but_for_what_they_were_not_tried_with():
    def chosen(*overrides):
        cfg = composed(*overrides)
        return cfg.layers.name, cfg.spare

    assert chosen() == chosen("model=emoji-twin") == ("kv", 0.015) and chosen("spare=0") == ("kv", 0)
    assert chosen("model=sd14") == chosen("lora.rank=4") == chosen("model.path=x") == ("esd-x", 0)
    assert chosen("layers=esd-u") == ("esd-u", 0) and chosen("layers=kv", "lora.rank=4") == ("kv", 0)
    assert chosen("experiment=paper/nudity") == ("noxattn", 0)


def test_auto_preserves_what_is_shipped_but_for_what_shares_a_word_with_the_concept():
    from esd.protocols.everyday import SHIPPED
    from esd.train.run_prompts import concepts_of

    def kept(*overrides):
        return [concept.text for concept in concepts_of(composed("preserve=auto", "preserve_weight=3", *overrides))[1]]

    every = SHIPPED.read_text().splitlines()
    assert len(every) == len({line.lower() for line in every}) > 100
    assert kept("model=sd14", "concept=nudity") == every
    assert set(every) - set(kept("model=sdxl", "concept='Hokusai style'")) == {"a painting by Katsushika Hokusai"}
    assert set(every) - set(kept("model=flux", "concept=[Van Gogh,CAR]")) == {
        "a painting by Vincent van Gogh", "a photo of a car",
    }  # fmt: skip
    assert set(every) - set(kept("model=sd3", "concept=portrait")) == {line for line in every if "portrait" in line}
    assert "a cat" in kept("concept=pizza") and "a pizza" not in kept("concept=pizza")  # the embedded model's own


def test_the_grid_does_not_show_as_kept_what_is_erased():
    """Nor does a part of a word count: 'car' is not in 'a carrot'."""
    from esd.train.run_prompts import concepts_of, grid_prompts

    def shown(*overrides):
        cfg = composed(*overrides)
        return grid_prompts(cfg, concepts_of(cfg)[0])

    other = ("model=sd14", "model.kept=[a carrot,an owl,a Cat]")  # of a model whose look-alikes are not known
    assert shown(*other, "concept=[car]", "grid=5") == ["car"] * 3 + ["a carrot", "an owl"]
    assert shown(*other, "concept=[car]", "grid=2") == ["car", "a carrot"] and shown(*other, "concept=[car]", "grid=0") == []
    assert shown(*other, "concept=[car]", "grid=1") == ["car"] and len(shown(*other, "concept=[car]", "grid=20")) == 20
    assert shown(*other, "concept=[Cat,pizza]", "templates=['{}','a {}']", "grid=6") == [
        "Cat",
        "a Cat",
        "pizza",
        "a pizza",
        "a carrot",
        "an owl",
    ]
    near = shown("concept=[cat]", "grid=8")  # the embedded model's: its look-alikes, and one from far off
    assert near[:4] == ["cat"] * 4 and "a fox" in near[4:7] and "a cat" not in near


def test_the_models_steps_are_the_protocols():
    from esd.protocols import emoji

    model = OmegaConf.load(CONF / "model" / "emoji.yaml")
    assert (model.picture_steps, model.picture_sampler) == (emoji.STEPS, emoji.SAMPLER)


def test_the_twin_is_made_beside_the_model():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        full, twin = (compose("pretrain", list(asked)).out for asked in ((), ("pretrain=twin",)))
    assert (full, twin) == ("outputs/pretrain", "outputs/pretrain-twin")
