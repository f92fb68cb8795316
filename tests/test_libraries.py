"""What docs/guides/libraries.md says of training libraries: models of theirs learn on our layers as on torch.nn's.

The code is that of the page. Lightning and pytorch-forecasting are in the extra `integrations`, which CI does not
install; their tests skip without them. TorchRL is in tests/test_torchrl.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fused_rnn
from tests.test_code_blocks import ROOT, blocks_of

# What libraries warn of is theirs; pytest would make errors of it.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = "docs/guides/libraries.md"


def needs(package: str) -> pytest.MarkDecorator:
    reason = f"{package} is not installed: pip install '.[integrations]'"
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=reason)


def code_of(*sections: str) -> dict[str, Any]:
    """The names that the blocks of some sections of the page define, after those at its head."""
    names: dict[str, Any] = {"__name__": "page"}
    text = (ROOT / PAGE).read_text()
    parts = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    for section in ("# With training libraries", *sections):
        for block in blocks_of(parts[section]):
            exec(compile(block.code, f"{PAGE}, {section}", "exec"), names)  # noqa: S102
    return names


# --- sb3-contrib ---


def agent_of(policy: Any) -> Any:
    """An agent that has learnt two rollouts of 64 steps, in which episodes end."""
    sb3_contrib = importlib.import_module("sb3_contrib")
    options = {"seed": 0, "device": "cpu", "n_steps": 64, "n_epochs": 2, "policy_kwargs": {"lstm_hidden_size": 16}}
    return sb3_contrib.RecurrentPPO(policy, "CartPole-v1", **options).learn(128)


def test_an_sb3_policy_that_takes_resets_learns_as_the_original(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    sb3_contrib = importlib.import_module("sb3_contrib")
    monkeypatch.setattr(sb3_contrib.RecurrentPPO, "learn", lambda agent, _: agent)  # of the page
    policy = code_of("sb3-contrib")["FusedPolicy"]
    monkeypatch.undo()
    theirs, ours = agent_of("MlpLstmPolicy"), agent_of(policy)
    assert isinstance(ours.policy.lstm_actor, fused_rnn.LSTM)
    assert isinstance(ours.policy.lstm_critic, fused_rnn.LSTM)
    expected = theirs.policy.state_dict()
    torch.testing.assert_close(ours.policy.state_dict(), expected, atol=1e-4, rtol=1e-4)
    for agent, given in ((ours, {}), (theirs, {"custom_objects": {"policy_class": policy}})):
        agent.save(tmp_path / "agent")
        again = sb3_contrib.RecurrentPPO.load(tmp_path / "agent", **given)
        assert isinstance(again.policy.lstm_actor, fused_rnn.LSTM)
        torch.testing.assert_close(again.policy.state_dict(), agent.policy.state_dict(), rtol=0, atol=0)


def test_an_sb3_policy_calls_each_layer_once_for_a_whole_batch() -> None:
    agent = agent_of(code_of("sb3-contrib")["FusedPolicy"])
    calls: list[int] = []
    agent.policy.lstm_actor.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    agent.train()
    assert len(calls) == 2  # epochs of one batch of 64 steps
    assert min(calls) > 1


def test_sb3_learns_on_converted_layers_too() -> None:
    theirs = agent_of("MlpLstmPolicy").policy.state_dict()
    with fused_rnn.patch():
        ours = agent_of("MlpLstmPolicy")
    torch.testing.assert_close(ours.policy.state_dict(), theirs, atol=1e-4, rtol=1e-4)
    plain = fused_rnn.restore(ours.policy)
    assert isinstance(fused_rnn.convert(plain).lstm_actor, fused_rnn.LSTM)
    with pytest.raises(TypeError, match="got RecurrentPPO: did you mean its policy"):
        fused_rnn.convert(ours)


# --- skorch ---


def sequences() -> tuple[Any, Any]:
    x = np.random.default_rng(0).standard_normal((64, 10, 3)).astype(np.float32)
    return x, (x[:, :, 0].sum(1) > 0).astype(np.int64)


def fitted(module: Any, fit: str = "fit") -> Any:
    skorch = importlib.import_module("skorch")
    torch.manual_seed(0)
    options = {"criterion": torch.nn.CrossEntropyLoss, "max_epochs": 3, "lr": 0.1, "verbose": 0, "train_split": None}
    net = skorch.NeuralNetClassifier(module, **options)
    if fit == "partial_fit":
        fused_rnn.convert(net.initialize().module_)
    return getattr(net, fit)(*sequences())


def test_skorch_learns_on_a_class_that_converts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    names = code_of("skorch")
    monkeypatch.setitem(sys.modules, "page", SimpleNamespace(**names))  # where pickle looks for the class
    theirs, ours = fitted(names["Net"]), fitted(names["FusedNet"])
    assert isinstance(ours.module_.lstm, fused_rnn.LSTM)
    np.testing.assert_allclose(ours.history[:, "train_loss"], theirs.history[:, "train_loss"], rtol=1e-5)
    again = pickle.loads(pickle.dumps(ours))
    assert isinstance(again.module_.lstm, fused_rnn.LSTM)
    np.testing.assert_array_equal(again.predict_proba(sequences()[0]), ours.predict_proba(sequences()[0]))


def test_skorch_makes_the_module_again_in_fit_and_not_in_partial_fit() -> None:
    net = code_of()["Net"]
    theirs, ours = fitted(net), fitted(net, "partial_fit")
    assert isinstance(ours.module_.lstm, fused_rnn.LSTM)
    np.testing.assert_allclose(ours.history[:, "train_loss"], theirs.history[:, "train_loss"], rtol=1e-5)
    assert type(ours.fit(*sequences()).module_.lstm) is torch.nn.LSTM
    with fused_rnn.patch():
        assert isinstance(ours.fit(*sequences()).module_.lstm, fused_rnn.LSTM)
    with pytest.raises(TypeError, match="got NeuralNetClassifier: did you mean its module_"):
        fused_rnn.quantize(ours)


def test_a_search_of_scikit_learn_keeps_our_layers() -> None:
    skorch, selection = importlib.import_module("skorch"), importlib.import_module("sklearn.model_selection")
    net = skorch.NeuralNetClassifier(
        code_of()["FusedNet"], criterion=torch.nn.CrossEntropyLoss, max_epochs=1, verbose=0, train_split=None
    )
    search = selection.GridSearchCV(net, {"module__units": [4, 8]}, cv=2).fit(*sequences())
    assert isinstance(search.best_estimator_.module_.lstm, fused_rnn.LSTM)


# --- Lightning ---


def trained(model: Any) -> Any:
    lightning = importlib.import_module("lightning")
    pairs = torch.utils.data.TensorDataset(*map(torch.from_numpy, sequences()))
    quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", **quiet)
    trainer.fit(model, torch.utils.data.DataLoader(pairs, batch_size=16))
    return trainer


@needs("lightning")
def test_lightning_trains_as_on_torchs_layers(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = code_of("skorch", "Lightning")
    tagger, losses = names["Tagger"], []
    for kind in ("Net", "FusedNet"):
        torch.manual_seed(0)
        model = tagger()
        model.net = names[kind](units=8)
        trainer = trained(model)
        losses.append(trainer.callback_metrics["loss"])
    torch.testing.assert_close(*losses)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = tagger.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    assert isinstance(again.net.lstm, fused_rnn.LSTM)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@needs("lightning")
def test_layers_of_configure_model_are_not_there_before_fit() -> None:
    names = code_of("skorch", "Lightning")
    tagger: Any = names["Tagger"]

    class Late(tagger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            del self.net

        def configure_model(self) -> None:
            if not hasattr(self, "net"):
                self.net = names["Net"](units=8)
                fused_rnn.convert(self)

    late = Late()
    with pytest.warns(UserWarning, match="found no recurrent layer or cell of torch.nn in Late"):
        fused_rnn.convert(late)
    trained(late)
    assert isinstance(late.net.lstm, fused_rnn.LSTM)


# --- pytorch-forecasting ---

FORECASTS = """
import contextlib, json, sys, warnings
import numpy as np, pandas as pd, torch, fused_rnn
warnings.simplefilter("ignore")
torch.set_num_threads(1)
with fused_rnn.patch() if sys.argv[1] == "patch" else contextlib.nullcontext():
    import pytorch_forecasting as library
import lightning

noise, steps = np.random.default_rng(0), np.arange(60)
frames = [pd.DataFrame({"step": steps, "series": str(i), "y": np.sin(steps / 5 + i) + 0.1 * noise.standard_normal(60)})
          for i in range(6)]
data = library.TimeSeriesDataSet(
    pd.concat(frames, ignore_index=True), time_idx="step", target="y", group_ids=["series"], min_encoder_length=6,
    max_encoder_length=24, max_prediction_length=6, time_varying_unknown_reals=["y"],
    time_varying_known_reals=["step"] if sys.argv[2] == "TemporalFusionTransformer" else [],
)
torch.manual_seed(0)
options = {"DeepAR": {"rnn_layers": 2}, "RecurrentNetwork": {"cell_type": "GRU"}}.get(sys.argv[2], {})
model = getattr(library, sys.argv[2]).from_dataset(data, hidden_size=8, **options)
quiet = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False)
trainer = lightning.Trainer(max_steps=20, accelerator="cpu", **quiet)
torch.manual_seed(0)
trainer.fit(model, data.to_dataloader(train=True, batch_size=32, num_workers=0))
layers = [each for each in model.modules() if isinstance(each, torch.nn.RNNBase)]
ours = [isinstance(each, (fused_rnn.LSTM, fused_rnn.GRU)) for each in layers]
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    fused_rnn.convert(model)
print(json.dumps({
    "ours": ours, "told": [str(each.message) for each in told],
    "sums": [float(each.detach().abs().sum()) for each in model.parameters()],
}))
"""


@needs("pytorch_forecasting")
@pytest.mark.parametrize("kind", ["DeepAR", "RecurrentNetwork", "TemporalFusionTransformer"])
def test_pytorch_forecasting_that_is_imported_inside_of_patch_learns_the_same(kind: str) -> None:
    found = {}
    for way in ("plain", "patch"):
        command = [sys.executable, "-c", FORECASTS, way, kind]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found[way] = json.loads(result.stdout.splitlines()[-1])
    assert found["patch"]["ours"]
    assert all(found["patch"]["ours"])
    assert not any(found["plain"]["ours"])
    np.testing.assert_allclose(found["patch"]["sums"], found["plain"]["sums"], rtol=1e-4, atol=1e-4)
    assert found["patch"]["told"] == []
    (told,) = found["plain"]["told"]
    name = "GRU" if kind == "RecurrentNetwork" else "LSTM"
    assert f"(pytorch_forecasting.models.nn.rnn.{name} has its own forward, handle_no_encoding, " in told
    assert told.endswith("import the library that has them inside of `with fused_rnn.patch():`")


@needs("pytorch_forecasting")
def test_the_import_of_the_page_gives_classes_of_ours() -> None:
    text = (ROOT / PAGE).read_text()
    (block,) = blocks_of(text[text.index("\n## pytorch-forecasting") :])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", block.code], env=environment, cwd=ROOT, check=True)
