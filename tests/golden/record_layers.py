"""Write layers.json: what fastai's layers, networks and optimisers are and give, for expressions that vizsla.all has too.

Run by a Python that has fastai 2.8.12: ``python tests/golden/record_layers.py``.
"""

# ruff: noqa: S102, S307 (the expressions are those below)

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch

IMAGES = [2, 3, 32, 32]
MAPS = [2, 8, 6, 6]
VECTORS = [4, 6]
LAYERS = {
    "ConvLayer(3, 8)": IMAGES,
    "ConvLayer(3, 8, stride=2, act_cls=None)": IMAGES,
    "ConvLayer(3, 8, ks=5, norm_type=None, bn_1st=False)": IMAGES,
    "ConvLayer(3, 8, bn_1st=False, act_cls=Mish)": IMAGES,
    "ConvLayer(3, 8, norm_type=NormType.Instance, act_cls=nn.Sigmoid)": IMAGES,
    "ConvLayer(8, 4, transpose=True, stride=2)": MAPS,
    "ConvLayer(8, 4, init=nn.init.kaiming_normal_, xtra=nn.Dropout2d(0.1))": MAPS,
    "ResBlock(1, 8, 16, stride=2)": MAPS,
    "ResBlock(1, 8, 8, act_cls=Mish)": MAPS,
    "ResBlock(4, 2, 4, stride=2, pool=MaxPool)": MAPS,
    "ResBlock(4, 2, 2, groups=2, reduction=2)": MAPS,
    "ResBlock(1, 8, 8, sa=True)": MAPS,
    "SimpleCNN([3, 8, 16, 5])": IMAGES,
    "SimpleCNN([3, 8, 5], kernel_szs=[5, 3], strides=[2, 1], bn=False)": IMAGES,
    "LinBnDrop(6, 3, p=0.2, act=nn.ReLU())": VECTORS,
    "LinBnDrop(6, 3, bn=False)": VECTORS,
    "LinBnDrop(6, 3, lin_first=True)": VECTORS,
    "BatchNorm(8)": MAPS,
    "BatchNorm(8, norm_type=NormType.BatchZero)": MAPS,
    "InstanceNorm(8)": MAPS,
    "PoolFlatten(PoolType.Cat)": MAPS,
    "PoolFlatten()": MAPS,
    "AdaptiveConcatPool2d(2)": MAPS,
    "AdaptiveAvgPool()": MAPS,
    "AvgPool(3, stride=2, ceil_mode=True)": MAPS,
    "MaxPool(3, stride=2, padding=1, ceil_mode=True)": MAPS,
    "sequential(nn.Conv2d(8, 2, 1), F.relu, Flatten())": MAPS,
    "SequentialEx(nn.Conv2d(8, 8, 1), MergeLayer())": MAPS,
    "SequentialEx(nn.Conv2d(8, 2, 1), MergeLayer(dense=True))": MAPS,
    "nn.Sequential(Lambda(lambda x: x * 2), View(-1, 36))": MAPS,
    "nn.Sequential(ResizeBatch(4, 72), Mish(), Swish(), SigmoidRange(1, 3))": MAPS,
    "init_default(nn.Linear(6, 3))": VECTORS,
    "create_head(8, 3)": MAPS,
    "xresnet18(n_out=5)": IMAGES,
    "xresnet34(pretrained=False, n_out=5, widen=0.25, act_cls=Mish, p=0.1)": IMAGES,
    "xresnet50(n_out=5, widen=0.25, act_cls=Mish, sa=True)": IMAGES,
    "xresnext50(n_out=5, widen=0.5)": IMAGES,
    "xse_resnext18(n_out=5, widen=0.5)": IMAGES,
    "xse_resnet50(n_out=5, widen=0.25)": IMAGES,
    "create_body(xresnet18(widen=0.25))": IMAGES,
    "create_body(xresnet18(widen=0.25), cut=-5)": IMAGES,
    "nn.Sequential(create_body(xresnet18(widen=0.25)), create_head(128, 3))": IMAGES,
}
STARTED = {
    "create_head(8, 3)",
    "nn.Sequential(create_body(xresnet18(widen=0.25)), create_head(128, 3))",
}
"""With random starts of their own here; all weights are set to the same numbers first."""

FACTS = (
    "has_pool_type(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2)))",
    "has_pool_type(nn.Conv2d(3, 4, 1))",
    "in_channels(xresnet18(widen=0.25))",
    "num_features_model(create_body(xresnet18(widen=0.25)))",
    "[list(size) for size in model_sizes(create_body(xresnet18(widen=0.25)), (32, 48))]",
    "[len(group) for group in default_split(nn.Sequential(create_body(xresnet18(widen=0.25)), create_head(128, 3)))]",
    "len(params(ConvLayer(3, 8)))",
    "[PoolType.Avg, PoolType.Max, PoolType.Cat]",
    "[each.name for each in NormType]",
    "Mish is nn.Mish",
)
STEPPERS = """
def average(p, mom, grad_avg=None, **kwargs):
    if grad_avg is None: grad_avg = torch.zeros_like(p.grad.data)
    return {'grad_avg': grad_avg * mom + p.grad.data}
def step(p, lr, grad_avg, **kwargs): p.data.add_(grad_avg, alpha=-lr)
average.defaults = dict(mom=0.9)
"""
OPTIMISERS = (
    "RAdam(params, lr=0.1)",
    "RAdam(params, lr=0.1, mom=0.8, sqr_mom=0.9, wd=0.1, eps=1e-4)",
    "RAdam(params, lr=0.1, wd=0.1, decouple_wd=False)",
    "Lookahead(SGD(params, lr=0.1), k=3, alpha=0.25)",
    "Lookahead(Adam(params, lr=0.1))",
    "ranger(params, lr=0.1)",
    "ranger(params, lr=0.1, mom=0.9, wd=0.1, k=4)",
    "OptimWrapper(params, opt=torch.optim.AdamW, lr=0.1)",
    "Optimizer(params, cbs=[average, step], lr=0.1)",
    "Optimizer(params, [average, step], lr=0.1, mom=0.5)",
)
NUM_STEPS = 20


def count_up(shape: list[int] | torch.Size) -> torch.Tensor:
    """Return numbers from -1 to 1 in no simple order, of a shape."""
    number = math.prod(shape)
    return ((torch.arange(number) * 7919 % 1009).float() / 504 - 1).reshape(shape)


def describe(expression: str, shape: list[int], namespace: dict[str, Any]) -> dict[str, Any]:
    """Return types, weights and outputs of a layer."""
    torch.manual_seed(42)
    layer = eval(expression, namespace)
    if expression in STARTED:
        for each in layer.parameters():
            each.data = count_up(each.shape) / 10
    state = layer.state_dict()
    found: dict[str, Any] = {
        "expression": expression,
        "input": shape,
        "types": " ".join(type(part).__name__ for part in layer.modules())[:200],
        "names": hashlib.sha256(" ".join(state).encode()).hexdigest()[:16],
        "weights": float(sum(value.double().abs().sum() for value in state.values())),
    }
    for mode in (False, True):
        layer.train(mode)
        torch.manual_seed(7)
        output = layer(count_up(shape)).detach()
        name = "trained" if mode else "output"
        found[name] = [list(output.shape), float(output.double().mean()), output.flatten()[:6].tolist()]  # fmt: skip
    return found


def optimise(expression: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a small problem after some steps."""
    weights = [count_up([3, 4]).requires_grad_(), count_up([3]).requires_grad_()]
    optimiser = eval(expression, {**namespace, "params": weights})
    inputs, targets = count_up([5, 4]), count_up([5, 3])
    found: list[float] = []
    for _ in range(NUM_STEPS):
        loss = ((inputs @ weights[0].T + weights[1]) - targets).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(loss.item())
    return {"expression": expression, "losses": found, "bias": weights[1].tolist()}


if __name__ == "__main__":
    namespace: dict[str, Any] = {}
    exec("import fastai\nfrom fastai.vision.all import *" + STEPPERS, namespace)
    version = namespace["fastai"].__version__
    record = {
        "_meta": f"Recorded by record_layers.py from fastai {version}, torch {torch.__version__} (CPU).",
        "layers": [describe(*each, namespace) for each in LAYERS.items()],
        "facts": {each: eval(each, namespace) for each in FACTS},
        "optimisers": [optimise(each, namespace) for each in OPTIMISERS],
    }
    Path(__file__).with_name("layers.json").write_text(json.dumps(record) + "\n", "utf-8")
