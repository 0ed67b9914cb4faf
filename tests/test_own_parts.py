"""Parts of one's own, in a folder of one's own: no fork, nothing in the package's."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from esd import UserError
from esd.erasing.edit import read_edit
from esd.files import CONF, read_json
from esd.train.build import trajectories_of
from esd.train.options import check_train_options

PARTS = '''
from dataclasses import dataclass
from typing import ClassVar

from diffusers import StableDiffusionPipeline

from esd.erasing.trajectories import Trajectories
from esd.metrics.counts import mean_figure
from esd.models.stable_diffusion import StableDiffusion
from esd.protocols import Row


@dataclass(eq=False)
class Late(Trajectories):
    """Walks of the frozen model, in strides, and only to the second half of the schedule."""

    name: ClassVar[str] = "late"
    stride: int = 2

    def forwards(self, positions):
        return 2 * 0.75 * positions / self.stride + 2

    def examples(self, draw):
        d = self.denoisers
        draw = draw._replace(position=draw.position.clamp(min=len(d.sampler) // 2))
        return d.teacher_predictions(d.walk_from_noise(draw, d.teacher, self.stride), draw)


@dataclass(frozen=True)
class Largest:
    """The largest weights."""

    name: str
    count: int

    def select(self, denoiser):
        sizes = {name: p.numel() for name, p in denoiser.named_parameters()}
        return sorted(sizes, key=sizes.get)[-self.count :]


class Doubled(StableDiffusion):
    """A family that diffusers has not: a U-Net whose predictions are twice as large."""

    def predict(self, denoiser, x, t, condition):
        return 2 * super().predict(denoiser, x, t, condition)


def load(path, name, dtype):
    return Doubled(StableDiffusionPipeline.from_pretrained(path, safety_checker=None), name)


class Brightness:
    """How bright the pictures of the concept are: a protocol and its judge."""

    name, version, concept_needed, side = "brightness", 1, True, None
    labels, reference = {"bright": "mean of all pixels"}, {}

    def __init__(self, pictures):
        self.pictures = pictures

    def ready(self, device):
        pass

    def record(self):
        return {"judge": "the mean"}

    def rows(self, concepts, erase_from=()):
        return [Row("bright", concept, seed, guidance=2.0) for concept in concepts for seed in range(self.pictures)]

    def measure(self, batches):
        return {"bright": mean_figure([float(picture.mean()) for _, pictures, _ in batches for picture in pictures])}
'''
CONFIG = {
    "trajectories/late.yaml": "_target_: parts.Late\nname: late\nstride: 2\n",
    "layers/largest.yaml": "_target_: parts.Largest\nname: largest\ncount: 2\n",
    "optimizer/rmsprop.yaml": "_target_: torch.optim.RMSprop\n_partial_: true\nlr: ${lr}\n",
    "model/doubled.yaml": "_target_: parts.load\nname: doubled\npath: ???\nprecision: 32-true\ndtype: fp32\nquantize: null\n"
    "guidance: 3.0\nsteps: 9\nbatch: 1\nlr: 1e-3\nkept: [a car]\n",
    "protocol/brightness.yaml": "_target_: parts.Brightness\npictures: 2\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults:\n  - override /layers: largest\n  - override /optimizer: rmsprop\n"
    "  - override /trajectories: late\n  - override /model: doubled\n\nconcept: pizza\nsteps: 2\nbatch: 2\nsampling_steps: 4\n",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder outside of the checkout: classes in parts.py, what names them in mine/."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "parts.py").write_text(PARTS)
    for name, text in CONFIG.items():
        (folder / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name).write_text(text)
    return folder


def test_an_own_source_rule_optimiser_model_and_experiment_train_and_an_own_protocol_judges(own, tiny_folder, esd):
    done = esd(
        "train", "--config-dir=mine", "experiment=mine", f"model.path={tiny_folder}", "trajectories.stride=1", "logger=none",
        "evaluate=false", "hydra.run.dir=run", cwd=own,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "x_t from late, 11 forwards each" in done.stdout and " in 2 tensors" in done.stdout
    edit = read_edit(own / "run")
    assert len(edit.tensors) == 2 and edit.record["layers"] == "largest"
    assert edit.record["trajectories"] == {"name": "late", "_target_": "parts.Late", "stride": 1}
    assert edit.record["optimizer"]["_target_"] == "torch.optim.RMSprop"
    assert edit.record["command"].startswith("python -m esd.train --config-dir=mine experiment=mine model.path=")
    judged = ("protocol=brightness", "edit=run", "sampling_steps=2", "out=judged", "model=doubled")
    done = esd("evaluate", f"hydra.searchpath=[file://{own}/mine]", *judged, f"model.path={tiny_folder}", cwd=own)
    assert done.returncode == 0, done.stderr[-2000:]
    results = read_json(own / "judged/metrics.json")["results"]
    (figures,) = [figures for name, figures in results.items() if name.startswith("run-")]
    assert 0 < figures["edit"]["bright"]["mean"] < 1 and figures["edit"]["bright"]["of"] == 2


@pytest.mark.parametrize(
    ("group", "changed", "said"),
    [
        ("trajectories", {"_target_": "parts.Nowhere"}, "trajectories: .*parts"),
        ("trajectories", {"_target_": "esd.erasing.trajectories.Nothing"}, "trajectories: .*Nothing"),
        ("trajectories", {"_target_": "esd.erasing.layers.LayerRule", "walker": None}, "trajectories: .*walker"),
        ("trajectories", {"_target_": "esd.erasing.trajectories.Trajectories", "walker": None}, "trajectories: "),
        ("trajectories", {"name": "student"}, "trajectories.name=student is unknown: pool"),
        ("trajectories", {"name": None}, "trajectories.name is missing: say what records"),
        ("trajectories", {"size": 3}, "trajectories: .*unexpected keyword argument 'size'"),
        ("layers", {"name": None}, "layers.name is missing"),
    ],
)
def test_a_part_that_there_is_not_is_one_line(group, changed, said):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["concept=pizza"])
    with open_dict(cfg):
        cfg[group] = OmegaConf.merge(cfg[group], changed)
    with pytest.raises(UserError, match=said) as caught:
        check_train_options(cfg)
        trajectories_of(cfg)
    assert "\n" not in str(caught.value)
