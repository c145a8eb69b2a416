"""Config files of the original detrex: recognised, loaded, overridden by their own keys, rewritten."""

from __future__ import annotations

import builtins
import inspect
import shutil
from pathlib import Path

import pytest
from detectron2.config import instantiate

import detrex.modeling
from detrex.checkpoint.dialects import detect_dialect, to_ours
from detrex.compat.lr_factors import factors_by_name, original_names
from detrex.compat.migration import edits
from detrex.compat.names import NAMES, is_original_config
from detrex.config import ConfigError, ConfigKeyError, get_config, load_config, save_config, validate_config
from detrex.config.instantiation import meta_device
from detrex.solver.param_groups import LRFactors
from tests.checkpoint.layouts import layout, traced_state

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / "configs"
ZOO = "projects/{0}_detr/configs/{0}_detr_{1}.py"
TWO_STAGE, HYBRID = CONFIGS / "two_stage.py", CONFIGS / "hybrid.py"


def rewritten(name: str, *overrides: str):
    return load_config(CONFIGS / f"{name}.py", overrides)


def difference(name: str, ours: str, *sections: str) -> list[str]:
    """How a rewritten config differs from one of ours in these sections."""
    lines = edits(get_config(ours), rewritten(name), set())
    return [line for line in lines if line.removeprefix("del ").split(".")[0].split(" ")[0] in sections]


EPS = "model.transformer.decoder.inverse_sigmoid_eps = 0.001"


@pytest.mark.parametrize(
    ("name", "ours", "expected"),
    [
        ("one_stage", ZOO.format("deformable", "r50_50ep"), [EPS, "model.criterion.weights.class_ = 1.0"]),
        ("box_refinement", ZOO.format("deformable", "r50_with_box_refinement_50ep"), [EPS]),
        ("two_stage", ZOO.format("deformable", "r50_two_stage_50ep"), [EPS]),
        ("hybrid", ZOO.format("h_deformable", "r50_two_stage_12ep"), [EPS]),
        ("hybrid_swin", ZOO.format("h_deformable", "swin_tiny_two_stage_12ep"), [EPS]),
    ],
)
def test_the_model_is_that_of_our_config(name, ours, expected):
    assert sorted(difference(name, ours, "model", "lr_multiplier")) == sorted(expected)
    validate_config(rewritten(name))


def test_the_rest_of_a_run():
    expected = {
        "dataloader.train.dataset.filter_empty = True",
        "dataloader.train.num_workers = 16",
        'train.output_dir = "./output/two_stage"',
        "train.max_iter = 375000",
        "train.eval_period = 5000",
        "train.checkpointer.period = 5000",
        "train.checkpointer.max_to_keep = 100",
    }
    ours = ZOO.format("deformable", "r50_two_stage_50ep")
    assert set(difference("two_stage", ours, "dataloader", "optimizer", "train")) == expected
    changed = rewritten("one_stage", "train.output_dir=elsewhere", "train.amp.enabled=True", "train.device=cpu")
    assert changed.dataloader.evaluator.output_dir is None  # the trainer's
    assert (changed.train.amp.dtype, changed.train.device) == ("float16", "cpu")


@pytest.mark.parametrize(
    ("name", "source", "variant"),
    [
        ("one_stage", "detrex", "multi_scale"),
        ("box_refinement", "detrex", "box_refine"),
        ("two_stage", "detrex", "two_stage"),
        ("hybrid", "hdetr", "r50_300"),
        ("hybrid_swin", "hdetr", "swin_t_300"),
    ],
)
def test_the_published_checkpoint_fits_the_model_wholly(name, source, variant):
    state = traced_state(layout(source, variant))
    cfg = rewritten(name)
    with meta_device():
        model = instantiate(cfg.model)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {k: v.shape for k, v in to_ours(detect_dialect(state), state, num_classes=80).state.items()} == shapes


def test_look_forward_twice_without_refinement_trains():
    """The original cannot run its own base config; here the model is one-stage with a hybrid branch."""
    cfg = rewritten("hybrid_one_stage")
    assert any("look_forward_twice has no effect" in note for note in cfg.rewritten.notes)
    with meta_device():
        model = instantiate(cfg.model)
    assert model.transformer.queries.embedding.weight.shape == (1800, 512)
    assert type(model.criterion).__name__ == "HybridCriterion"


# -------------------------------------------------------------------------------------------------------- overrides
def test_overrides_go_by_the_keys_of_the_original():
    cfg = rewritten(
        "two_stage",
        "model.num_classes=7",
        "model.num_queries=50",
        "model.transformer.encoder.num_layers=3",
        "model.criterion.matcher.cost_giou=4",
        "model.backbone.freeze_at=2",
        "optimizer.lr=0.0002",
        "train.max_iter=12ep",
        "train.clip_grad.params.max_norm=0.2",
        "dataloader.train.total_batch_size=8",
        "train.wandb.params.name=mine",
    )
    model = cfg.model
    assert (model.num_classes, model.criterion.num_classes, model.transformer.queries.groups.one2one) == (7, 7, 50)
    assert (model.transformer.encoder.num_layers, model.transformer.decoder.num_layers) == (3, 6)
    assert (model.criterion.matcher.cost_giou, model.backbone.freeze_at) == (4, 2)
    assert (cfg.optimizer.lr, cfg.optimizer.params.base_lr, cfg.train.max_iter) == (2e-4, 2e-4, "12ep")
    assert (cfg.train.clip_grad.params.max_norm, cfg.dataloader.train.total_batch_size) == (0.2, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.with_box_refin=True", "did you mean model.with_box_refine?"),
        ("model.transformer.encoder.hidden_dim=512", "unknown key 'model.transformer.encoder.hidden_dim'"),
        ("train.max_iters=10", "did you mean train.max_iter?"),
        ("optimizer.lrr=1", "did you mean optimizer.lr?"),
    ],
)
def test_a_key_that_the_original_does_not_know_is_an_error(override, message):
    with pytest.raises(ConfigKeyError) as error:
        rewritten("two_stage", override)
    assert message in str(error.value)


def test_an_averaged_model_stays_one():
    train = rewritten("two_stage", "train.model_ema.enabled=True", "train.model_ema.decay=0.99").train
    assert (train.ema.enabled, train.ema.decay) == (True, 0.99)
    assert "model_ema" not in train
    assert rewritten("two_stage").train.ema.enabled is False


UNMAPPABLE = [
    ("model.with_box_refine=False", "model.as_two_stage=True needs model.with_box_refine=True"),
    ("model.transformer.as_two_stage=False", "model.transformer.as_two_stage=False has no counterpart"),
    ("model.transformer.encoder.post_norm=True", "model.transformer.encoder.post_norm=True has no counterpart"),
    ("model.transformer.decoder.return_intermediate=False", "model.transformer.decoder.return_intermediate=False"),
    ("model.transformer.encoder.attn_dropout=0.5", "model.transformer.encoder.attn_dropout=0.5 must be equal"),
    ("model.transformer.decoder.embed_dim=128", "model.transformer.decoder.embed_dim=128 and model.embed_dim=256"),
    ("model.neck.num_outs=5", "model.neck.num_outs=5 and model.transformer.num_feature_levels=4 must be equal"),
    ("model.neck.stride=2", "model.neck.stride=2 has no counterpart"),
    ("model.neck.norm_layer.num_groups=16", "only GroupNorm with 32 groups has"),
    ("model.position_embedding.normalize=False", "model.position_embedding.normalize=False has no counterpart"),
    ("model.criterion.loss_class_type=ce_loss", "model.criterion.loss_class_type='ce_loss' has no counterpart"),
    ("model.criterion.matcher.cost_class_type=ce_cost", "model.criterion.matcher.cost_class_type='ce_cost'"),
    ("model.criterion.losses=[class]", "model.criterion.losses=['class'] has no counterpart"),
    ("model.criterion.num_classes=20", "model.num_classes is the only one; set it alone"),
    ("model.criterion.weight_dict.loss_class=2.0", "model.criterion.weight_dict.loss_class_0=1.0 differs from"),
    ("+model.criterion.weight_dict.loss_mask=2.0", "model.criterion.weight_dict.loss_mask: there is no such loss"),
    ("dataloader.train.mapper.mask_on=True", "dataloader.train.mapper.mask_on=True has no counterpart"),
    ("dataloader.evaluator.tasks=[segm]", "dataloader.evaluator.tasks=['segm'] has no counterpart"),
]


@pytest.mark.parametrize(("override", "message"), UNMAPPABLE, ids=[override for override, _ in UNMAPPABLE])
def test_what_has_no_counterpart_is_an_error_that_names_the_key(override, message):
    with pytest.raises(ConfigError) as error:
        rewritten("two_stage", override)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_queries_one2one=900", "model.num_queries_one2one + model.num_queries_one2many=2400 and"),
        ("model.mixed_selection=False", "model.transformer.mixed_selection=True and model.mixed_selection=False"),
    ],
)
def test_numbers_of_a_hybrid_model_that_contradict_each_other(override, message):
    with pytest.raises(ConfigError) as error:
        rewritten("hybrid", override)
    assert message in str(error.value)


def test_a_hybrid_model_by_overrides():
    numbers = {"num_queries_one2one": 900, "transformer.two_stage_num_proposals": 1000, "num_queries_one2many": 100}
    numbers |= {"k_one2many": 3, "lambda_one2many": 0.5}
    model = rewritten("hybrid", *(f"model.{key}={value}" for key, value in numbers.items())).model
    assert dict(model.transformer.queries.groups)["one2one"] == 900
    assert (model.transformer.queries.groups.one2many, model.criterion.num_repeats) == (100, 3)
    assert model.criterion.one2many_weight == 0.5
    plain = ["model.transformer.mixed_selection=False", "model.mixed_selection=False"]
    plain += ["model.transformer.decoder.look_forward_twice=False", "model.k_one2many=0"]
    model = rewritten("hybrid", *plain).model
    assert model.transformer.queries.content == "proposal"
    assert model.transformer.decoder.refinement._target_.__name__ == "IterativeRefinement"
    assert model.criterion._target_.__name__ == "SetCriterion"


@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("train.wandb.enabled=True", "train.wandb: metrics go to metrics.json and TensorBoard alone"),
        (
            "train.model_ema={enabled: true, use_ema_weights_for_eval_only: true}",
            "train.model_ema.use_ema_weights_for_eval_only: model_*.pth always hold the trained weights",
        ),
        ("train.fast_dev_run.enabled=True", "train.fast_dev_run: 8 iterations and an evaluation of 4 batches"),
        ("model.device=cuda:1", "model.device=cuda:1 is not used: train.device decides"),
        ("model.transformer.decoder.num_layers=7", "model.criterion.weight_dict lacks loss_class_5, loss_bbox_5"),
    ],
)
def test_what_differs_is_noted(override, note):
    before, after = rewritten("two_stage").rewritten.notes, rewritten("two_stage", override).rewritten.notes
    (new,) = [line for line in after if line not in before]
    assert note in new


CALLS = {
    "model": "HDeformableDETR",
    "model.transformer": "HDeformableDetrTransformer",
    "model.transformer.encoder": "HDeformableDetrTransformerEncoder",
    "model.transformer.decoder": "HDeformableDetrTransformerDecoder",
    "model.position_embedding": "PositionEmbeddingSine",
    "model.neck": "ChannelMapper",
    "model.criterion": "DeformableCriterion",
    "model.criterion.matcher": "HungarianMatcher",
    "dataloader.train.mapper": "DetrDatasetMapper",
}
# Sections, and what only cross entropy reads.
OTHERS = {"backbone", "position_embedding", "neck", "transformer", "encoder", "decoder", "criterion", "matcher"}
OTHERS |= {"weight_dict", "input_shapes", "norm_layer", "augmentation", "augmentation_with_crop", "eos_coef"}
VALUES = dict.fromkeys(("aux_loss", "as_two_stage", "bias", "is_train", "look_forward_twice", "mixed_selection"), False)
VALUES |= dict.fromkeys(("normalize", "return_intermediate", "with_box_refine"), False)
VALUES |= {"post_norm": True, "mask_on": True, "img_format": "BGR"}
VALUES |= dict.fromkeys(("pixel_mean", "pixel_std", "in_features", "losses"), "[]")
ARGUMENTS = [
    f"{path}.{key}"
    for path, name in CALLS.items()
    for key in inspect.signature(NAMES[name]).parameters
    if key not in OTHERS
]


@pytest.fixture(scope="module")
def hybrid():
    return rewritten("hybrid", "~optimizer.params.lr_factor_func")  # which takes most of the time


@pytest.mark.parametrize("key", ARGUMENTS)
def test_no_argument_is_silently_ignored(key, hybrid):
    value = VALUES.get(key.rpartition(".")[2], 3)
    try:
        changed = rewritten("hybrid", "~optimizer.params.lr_factor_func", f"+{key}={value}")
    except ConfigError:
        return
    assert changed != hybrid, f"{key}={value} changes nothing"


# --------------------------------------------------------------------------------------------- learning-rate factors
FUNCTIONS = {
    "the zoo's": (lambda name: 0.1 if "backbone" in name else 1, {"backbone": 0.1}),
    "the authors'": (
        lambda name: 0.1 if any(part in name for part in ("backbone", "sampling_offsets", "reference_points")) else 1,
        {"backbone": 0.1, "reference_points": 0.1, "sampling_offsets": 0.1},
    ),
    "always the same, as of an early config": (
        lambda name: 0.1,
        {"backbone": 0.1, "neck": 0.1, "transformer": 0.1},
    ),
    "by a name of the original": (lambda name: 0.5 if "attentions.1" in name else 1, {"cross_attn": 0.5}),
    "of heads, which hang in the decoder as well": (
        lambda name: 2 if name.startswith("transformer.decoder.bbox_embed") else 1,
        {"bbox_embed": 2.0},
    ),
    "nothing": (lambda name: 1, {}),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_of_names_becomes_data(kind):
    function, expected = FUNCTIONS[kind]
    refine = "heads" in kind
    names = original_names(rewritten("box_refinement" if refine else "one_stage").model, refine=refine, two_stage=False)
    factors = factors_by_name(function, names)
    assert factors == expected
    assert all(LRFactors(factors=factors)(ours) == function(name) for ours, name in names.items())


def test_the_rewritten_config_survives_being_saved(tmp_path):
    cfg = rewritten("hybrid_swin")
    save_config(cfg, tmp_path / "config.yaml")
    save_config(load_config(tmp_path / "config.yaml"), tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "config.yaml").read_text()


# ------------------------------------------------------------------------------------------------- files and imports
def test_our_own_configs_are_not_taken_for_the_originals():
    ours = [*ROOT.glob("projects/*/configs/**/*.py"), *ROOT.glob("configs/**/*.py")]
    assert not [path for path in ours if is_original_config(path)]
    assert all(is_original_config(path) for path in CONFIGS.rglob("*.py"))


def test_a_checkout_of_the_original_lends_its_own_shared_configs(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "projects/mine/configs")
    (tmp_path / "configs/common").mkdir(parents=True)
    (tmp_path / "configs/common/optim.py").write_text(
        "from detectron2.config import LazyCall as L\n"
        "from detectron2.solver.build import get_default_optimizer_params\n"
        "import torch\n"
        "AdamW = L(torch.optim.AdamW)(params=L(get_default_optimizer_params)(base_lr='${..lr}'), lr=0.5)\n"
    )
    path = tmp_path / "projects/mine/configs/one_stage.py"
    assert load_config(path).optimizer.lr == 1e-4  # some configs/ folder, but not of the original
    (tmp_path / "detrex/config").mkdir(parents=True)
    (tmp_path / "detrex/config/config.py").touch()
    assert load_config(path).optimizer.lr == 0.5


def edited(folder: Path, text: str) -> Path:
    """The two-stage config, copied alone into a user's folder, with a line at its end."""
    shutil.copytree(CONFIGS, folder / "mine")
    path = folder / "mine/two_stage.py"
    path.write_text(f"{path.read_text()}\n{text}\n")
    return path


def test_a_name_that_is_not_known_here(tmp_path):
    path = edited(tmp_path, "from detrex.modeling.backbone import FocalNet")
    before = builtins.__import__
    with pytest.raises(
        ConfigError, match=r"two_stage\.py: from detrex\.modeling\.backbone import FocalNet: has no counter"
    ):
        load_config(path)
    assert builtins.__import__ is before


def test_a_shared_config_that_is_not_known_here(tmp_path):
    path = edited(tmp_path, 'from detrex.config import get_config\nx = get_config("common/data/custom.py").dataloader')
    with pytest.raises(ConfigError, match=r"get_config\('common/data/custom\.py'\): of the original's shared configs"):
        load_config(path)


def test_what_modules_import_stays_what_it_is(tmp_path, monkeypatch):
    (tmp_path / "helper_of_a_config.py").write_text("from detrex.modeling import HungarianMatcher\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = edited(tmp_path, "from helper_of_a_config import HungarianMatcher as _real\nmine = {'matcher': _real}")
    assert load_config(path).mine.matcher is detrex.modeling.HungarianMatcher


def test_a_class_of_the_users_own_is_named(tmp_path):
    path = edited(tmp_path, "from torch import nn\nmodel.criterion._target_ = nn.Identity")
    with pytest.raises(ConfigError, match=r"unknown key 'model\.criterion\.\w+'|model\.criterion is a Identity; only"):
        load_config(path)


def test_a_file_of_the_model_alone_is_not_the_config_of_a_run():
    with pytest.raises(ConfigError, match=r"one_stage\.py does not define dataloader, optimizer, lr_multiplier, train"):
        load_config(CONFIGS / "models/one_stage.py")


def test_schedules_without_a_counterpart_stay_as_they_are(tmp_path):
    path = edited(
        tmp_path,
        'from detrex.config import get_config\nlr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x',
    )
    scheduler = instantiate(load_config(path).lr_multiplier)
    assert [scheduler(x) for x in (0.0, 0.5, 0.7, 0.95)] == pytest.approx([0.001, 1.0, 0.1, 0.01])
