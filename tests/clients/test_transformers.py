"""Hugging Face's Trainer over our optimizers, with a GPT-2 of two layers that nobody has to download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `clients` is not installed")
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402

from gpu_adam.torch import SGD, Adam, AdamW  # noqa: E402
from tests.support.torch_training import assert_close, assert_same  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402


def language_model(dtype: Any = torch.float32, dropout: float = 0.0) -> Any:
    config = transformers.GPT2Config(
        vocab_size=64,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).to(dtype)


class Sentences(torch.utils.data.Dataset):
    """64 sentences of 16 tokens, each the one after the token before."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = (7 * index + torch.arange(16)) % 64
        return {"input_ids": tokens, "labels": tokens}


def trainer(folder: Path, model: Any, *, max_steps: int = 8, trained_by: dict[str, Any], **arguments: Any) -> Any:
    given = transformers.TrainingArguments(
        str(folder),
        max_steps=max_steps,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        **{"save_strategy": "no", **arguments},
    )
    return transformers.Trainer(model, given, train_dataset=Sentences(), **trained_by)


def with_warmup(cls: Any, model: Any) -> dict[str, Any]:
    optimizer = cls(model.parameters(), lr=1e-3)
    return {"optimizers": (optimizer, transformers.get_cosine_schedule_with_warmup(optimizer, 2, 20))}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_grad_norm": 0.1},
        {"gradient_accumulation_steps": 2},
        {"lr_scheduler_type": "linear", "warmup_steps": 2},
    ],
    ids=str,
)
def test_it_follows_torch_optim(arguments: dict[str, Any], tmp_path: Path) -> None:
    models = []
    for cls in (AdamW, torch.optim.AdamW):
        model = language_model()
        trained_by = {"optimizers": (cls(model.parameters(), lr=1e-3), None)}
        trainer(tmp_path, model, trained_by=trained_by, **arguments).train()
        models.append(model)
    assert_close(*models)


def test_a_compiled_model(tmp_path: Path) -> None:
    compiled, plain = language_model(), language_model()
    options = {"torch_compile": True, "torch_compile_backend": "eager"}
    trainer(tmp_path, compiled, trained_by=with_warmup(AdamW, compiled), **options).train()
    trainer(tmp_path, plain, trained_by=with_warmup(AdamW, plain)).train()
    assert_close(compiled, plain)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (AdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
        (Adam, torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}),
        (SGD, torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
    ],
)
def test_the_trainer_makes_the_optimizer(ours: Any, theirs: Any, options: dict[str, Any], tmp_path: Path) -> None:
    models = []
    for cls in (ours, theirs):
        model = language_model()
        one = trainer(tmp_path, model, trained_by={"optimizer_cls_and_kwargs": (cls, dict(options))})
        one.train()
        # One group decays, the other, of biases and norms, does not.
        assert len(one.optimizer.param_groups) == 2
        models.append(model)
    assert_close(*models)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_is_resumed_from_a_checkpoint(dtype: Any, tmp_path: Path) -> None:
    # With dropout: the Trainer's checkpoint has the random numbers' state as well.
    whole, resumed = language_model(dtype, dropout=0.1), language_model(dtype, dropout=0.1)
    options = {"save_strategy": "steps", "save_steps": 4}
    trainer(tmp_path, whole, trained_by=with_warmup(AdamW, whole), **options).train()
    trainer(tmp_path, resumed, trained_by=with_warmup(AdamW, resumed), **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    assert_same(resumed, whole)


def test_a_model_in_bfloat16_learns(tmp_path: Path) -> None:
    model = language_model(torch.bfloat16)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    one = trainer(
        tmp_path, model, max_steps=32, trained_by={"optimizers": (optimizer, LambdaLR(optimizer, lambda epoch: 1.0))}
    )
    one.train()
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.5


def test_mixed_precision_learns_as_with_torch_optim(tmp_path: Path) -> None:
    losses = []
    for cls in (AdamW, torch.optim.AdamW):
        model = language_model()
        one = trainer(tmp_path, model, trained_by={"optimizers": (cls(model.parameters(), lr=1e-3), None)}, bf16=True)
        one.train()
        losses.append([entry["loss"] for entry in one.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


@on_two_ranks
def test_data_parallelism_in_two_processes(tmp_path: Path) -> None:
    models = []
    for cls in (AdamW, torch.optim.AdamW):
        model = language_model()
        one = trainer(tmp_path, model, trained_by=with_warmup(cls, model), ddp_backend="gloo")
        assert one.args.world_size == 2
        one.train()
        models.append(model)
    assert_close(*models)


@pytest.mark.parametrize("first", [AdamW, torch.optim.AdamW], ids=["from ours", "from torch.optim"])
def test_a_checkpoint_goes_on_with_the_other_optimizer(first: Any, tmp_path: Path) -> None:
    second = torch.optim.AdamW if first is AdamW else AdamW
    whole, resumed = language_model(), language_model()
    trainer(tmp_path, whole, trained_by=with_warmup(first, whole), save_strategy="steps", save_steps=4).train()
    trainer(tmp_path, resumed, trained_by=with_warmup(second, resumed)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    assert_close(resumed, whole)
