"""Lightning's Trainer and Fabric over our optimizers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
lightning = pytest.importorskip("lightning", reason="the extra `clients` is not installed")
from lightning.pytorch.callbacks import StochasticWeightAveraging  # noqa: E402
from torch.optim.lr_scheduler import CosineAnnealingLR  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from gpu_adam.torch import SGD, Adam  # noqa: E402
from tests.support.torch_training import assert_close, assert_same, batch, loss_of, network  # noqa: E402
from tests.support.two_ranks import on_two_ranks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(autouse=True)
def quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    """The network, trained by an optimizer of this class whose rate falls with every step."""

    def __init__(self, cls: Any, scheduled: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.net, self.cls, self.scheduled = network(seed), cls, scheduled

    def training_step(self, data: tuple[Any, Any], index: int) -> Any:
        loss = loss_of(self.net, data)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.cls(self.parameters(), lr=0.01)
        if not self.scheduled:
            return optimizer
        return [optimizer], [{"scheduler": CosineAnnealingLR(optimizer, 20), "interval": "step"}]


class ByHand(Module):
    """Two optimizers, which the module steps itself."""

    def __init__(self, cls: Any) -> None:
        super().__init__(cls)
        self.automatic_optimization = False

    def training_step(self, data: tuple[Any, Any], index: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(loss_of(self.net, data))
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return self.cls(self.net[0].parameters(), lr=0.01), self.cls(self.net[2].parameters(), lr=0.02)


def loader() -> Any:
    """Eight batches."""
    return DataLoader(TensorDataset(*batch()), batch_size=4)


def trainer(folder: Path, **options: Any) -> Any:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"devices": 1, "max_epochs": 2, **options},
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"accumulate_grad_batches": 3},
        {"precision": "64-true"},
    ],
    ids=str,
)
@pytest.mark.parametrize("scheduled", [False, True], ids=["", "scheduled"])
def test_it_follows_torch_optim(options: dict[str, Any], scheduled: bool, tmp_path: Path) -> None:
    modules = [Module(cls, scheduled) for cls in (Adam, torch.optim.Adam)]
    for module in modules:
        trainer(tmp_path, **options).fit(module, loader())
    assert_close(*modules)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_learns_as_with_torch_optim(precision: str, tmp_path: Path) -> None:
    losses = []
    for cls in (Adam, torch.optim.Adam):
        module = Module(cls)
        one = trainer(tmp_path, precision=precision, gradient_clip_val=1.0)
        one.fit(module, loader())
        losses.append(float(one.callback_metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_averaged_weights(tmp_path: Path) -> None:
    modules = [Module(cls, scheduled=False) for cls in (Adam, torch.optim.Adam)]
    for module in modules:
        average = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
        trainer(tmp_path, max_epochs=4, callbacks=[average]).fit(module, loader())
    assert_close(*modules)


@on_two_ranks
def test_data_parallelism_in_two_processes(tmp_path: Path) -> None:
    # As torchrun starts them; the address is not asked for, since the processes know each other already.
    started = {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    modules = [Module(cls) for cls in (Adam, torch.optim.Adam)]
    with pytest.MonkeyPatch.context() as patched:
        for name, value in started.items():
            patched.setenv(name, value)
        for module in modules:
            one = trainer(tmp_path, devices=2, strategy="ddp")
            assert one.world_size == 2
            one.fit(module, loader())
    assert_close(*modules)


def test_optimization_by_hand(tmp_path: Path) -> None:
    modules = [ByHand(cls) for cls in (Adam, torch.optim.Adam)]
    for module in modules:
        trainer(tmp_path).fit(module, loader())
    assert_close(*modules)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_run_is_resumed_from_a_checkpoint(precision: str, tmp_path: Path) -> None:
    whole, started, resumed = Module(Adam), Module(Adam), Module(Adam, seed=1)
    trainer(tmp_path, precision=precision).fit(whole, loader())
    first = trainer(tmp_path, precision=precision, max_epochs=1)
    first.fit(started, loader())
    first.save_checkpoint(tmp_path / "after one epoch.ckpt")
    trainer(tmp_path, precision=precision).fit(resumed, loader(), ckpt_path=tmp_path / "after one epoch.ckpt")
    assert_same(resumed, whole)


@pytest.mark.parametrize("first", [Adam, torch.optim.Adam], ids=["from ours", "from torch.optim"])
def test_a_checkpoint_goes_on_with_the_other_optimizer(first: Any, tmp_path: Path) -> None:
    whole, started = Module(first), Module(first)
    resumed = Module(torch.optim.Adam if first is Adam else Adam, seed=1)
    trainer(tmp_path).fit(whole, loader())
    one = trainer(tmp_path, max_epochs=1)
    one.fit(started, loader())
    one.save_checkpoint(tmp_path / "after one epoch.ckpt")
    trainer(tmp_path).fit(resumed, loader(), ckpt_path=tmp_path / "after one epoch.ckpt")
    assert_close(resumed, whole)


@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (SGD, torch.optim.SGD)])
@pytest.mark.parametrize("clip", [{"max_norm": 0.1}, {"clip_val": 0.01}], ids=str)
def test_fabric(ours: Any, theirs: Any, clip: dict[str, float]) -> None:
    models = []
    for cls in (ours, theirs):
        fabric = lightning.Fabric(accelerator="cpu", devices=1)
        model = network()
        wrapped, optimizer = fabric.setup(model, cls(model.parameters(), lr=0.01))
        for data in fabric.setup_dataloaders(loader()):
            optimizer.zero_grad()
            fabric.backward(loss_of(wrapped, data))
            fabric.clip_gradients(wrapped, optimizer, **clip)
            optimizer.step()
        models.append(model)
    assert_close(*models)


def test_fabric_saves_and_loads(tmp_path: Path) -> None:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)

    def made(seed: int) -> dict[str, Any]:
        model = network(seed)
        wrapped, optimizer = fabric.setup(model, Adam(model.parameters(), lr=0.01))
        return {"model": wrapped, "optimizer": optimizer}

    def train(model: Any, optimizer: Any) -> None:
        for data in loader():
            optimizer.zero_grad()
            fabric.backward(loss_of(model, data))
            optimizer.step()

    first, second = made(seed=0), made(seed=1)
    train(**first)
    fabric.save(tmp_path / "state.ckpt", first)
    train(**first)
    fabric.load(tmp_path / "state.ckpt", second)
    train(**second)
    assert_same(second["model"], first["model"])
