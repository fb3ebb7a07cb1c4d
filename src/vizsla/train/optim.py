"""Optimisers: ``Adam`` and ``SGD`` as notebooks know them, and any other of torch or timm by name.

AdamW: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019 (arXiv 1711.05101). Frozen parameters are not
given to an optimiser, so weight decay cannot touch them; biases and norms take no decay.

``Adam`` and ``SGD`` run torch's fused kernels, on a CPU too. A step of AdamW there (torch 2.14, one thread of two shared
cores, best of 25) takes 3.3 ms fused, 7.9 ms in a loop and 11.8 ms with foreach for the 147 tensors of efficientnet_lite0;
6.3, 45 and 28 ms for the 62 of resnet18. SGD with momentum: 1.3, 3.1 and 3.3 ms; 4.0, 9.0 and 17 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vizsla.errors import ConfigError, TrainingError
from vizsla.models.groups import Group, decay_split
from vizsla.models.names import nearest_names

if TYPE_CHECKING:
    from torch import nn

OptimiserFactory = str | Callable[..., torch.optim.Optimizer]
"""``Adam``, ``SGD``, a partial of one, a class of ``torch.optim``, any function ``(params, lr=)``, or a name."""

WEIGHT_DECAY = 0.01
MOMENTUM = 0.9
SQUARED_MOMENTUM = 0.99
EPSILON = 1e-5
"""fastai's values: a shorter memory of squares than torch's 0.999 suits runs of a few hundred steps."""

# Some optimisers refuse 0; a schedule sets the rate before every step.
_INITIAL_RATE = 1e-3

_REFUSALS = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What libraries raise for settings, parameters or missing packages that make an optimiser impossible."""

_NOT_FOR_THIS_LOOP = {
    "lbfgs": "it computes the loss several times per step, but the training loop computes it once",
    "sparseadam": "it takes only sparse gradients, but those of image classifiers are dense",
    "adahessian": "it needs second derivatives of the loss, which the training loop does not compute",
}

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
"""What torch's optimisers take: parameters, or groups of them with settings of their own."""


def Adam(  # noqa: N802 (the notebooks' name for it)
    params: Parameters,
    lr: float,
    mom: float = MOMENTUM,
    sqr_mom: float = SQUARED_MOMENTUM,
    eps: float = EPSILON,
    wd: float = WEIGHT_DECAY,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Return Adam with the notebooks' constants; with decoupled weight decay it is AdamW.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        mom: Memory of gradients, 0 to below 1.
        sqr_mom: Memory of squared gradients, 0 to below 1.
        eps: Added to the root of the squares.
        wd: Weight decay.
        decouple_wd: Shrink weights by ``lr * wd`` in each step; else add ``wd`` times the weight to its gradient.

    Examples:
        >>> optimiser = Adam(torch.nn.Linear(2, 2).parameters(), 1e-3)
        >>> optimiser.defaults["betas"]
        (0.9, 0.99)
    """
    make = torch.optim.AdamW if decouple_wd else torch.optim.Adam
    return _fused(make, params, lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd)


def SGD(  # noqa: N802 (the notebooks' name for it)
    params: Parameters, lr: float, mom: float = 0.0, wd: float = 0.0, decouple_wd: bool = False
) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with momentum, without dampening.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        mom: Momentum, 0 to below 1; 0 for none, which a schedule of momentum does not change.
        wd: Weight decay.
        decouple_wd: Shrink weights by ``lr * wd`` in each step; else add ``wd`` times the weight to its gradient.
    """
    if decouple_wd:
        return _timm_optim().SGDW(params, lr=lr, momentum=mom, weight_decay=wd)
    return _fused(torch.optim.SGD, params, lr=lr, momentum=mom, weight_decay=wd)


def RAdam(  # noqa: N802 (the notebooks' name for it)
    params: Parameters,
    lr: float,
    mom: float = MOMENTUM,
    sqr_mom: float = SQUARED_MOMENTUM,
    eps: float = EPSILON,
    wd: float = 0.0,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Return rectified Adam, which needs no warm-up (Liu et al., 2020, arXiv 1908.03265); see ``Adam``."""
    return torch.optim.RAdam(
        params,
        lr=lr,
        betas=(mom, sqr_mom),
        eps=eps,
        weight_decay=wd,
        decoupled_weight_decay=decouple_wd,
    )


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimiser: after every ``k`` steps it keeps only the share ``alpha`` of the distance travelled.

    Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", 2019 (arXiv 1907.08610). timm's counts the first k steps as the
    start; this one, as fastai's, begins with the weights before them.

    Args:
        opt: The optimiser.
        k: Steps before going back.
        alpha: Share of the distance that is kept.
    """

    def __init__(self, opt: torch.optim.Optimizer, k: int = 6, alpha: float = 0.5) -> None:
        super().__init__(opt.param_groups, {**opt.defaults, "lookahead_step": 0})
        self.opt, self.k, self.alpha = opt, k, alpha
        self.state = opt.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step, and go back after every ``k``."""
        del closure
        groups = self.param_groups
        moved = [each for group in groups for each in group["params"] if each.grad is not None]
        new = {each: each.clone() for each in moved if "slow" not in self.state.get(each, {})}
        self.opt.step()
        for parameter, start in new.items():
            self.state[parameter]["slow"] = start
        for group in groups:
            group["lookahead_step"] += 1
        for parameter in moved if groups[0]["lookahead_step"] % self.k == 0 else ():
            parameter.copy_(self.state[parameter]["slow"].lerp_(parameter, self.alpha))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both."""
        return self.opt.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both."""
        self.opt.load_state_dict(state_dict)
        self.param_groups, self.state = self.opt.param_groups, self.opt.state


def ranger(
    params: Parameters,
    lr: float,
    mom: float = 0.95,
    wd: float = 0.01,
    eps: float = 1e-6,
    k: int = 6,
    alpha: float = 0.5,
    sqr_mom: float = SQUARED_MOMENTUM,
    decouple_wd: bool = True,
) -> torch.optim.Optimizer:
    """Return ``Lookahead`` around ``RAdam``; takes the arguments of both."""
    inner = RAdam(params, lr, mom, sqr_mom=sqr_mom, eps=eps, wd=wd, decouple_wd=decouple_wd)
    return Lookahead(inner, k=k, alpha=alpha)


def OptimWrapper(  # noqa: N802 (the notebooks' name for it)
    params: Any = None, opt: Any = None, **settings: Any
) -> torch.optim.Optimizer:
    """Return an optimiser of torch; ``opt_func=torch.optim.AdamW`` does the same.

    Args:
        params: Parameters for ``opt``, or an optimiser, which is returned.
        opt: A class of ``torch.optim``.
        settings: Its settings, in torch's words.
    """
    return params if opt is None else opt(params, **settings)


class Optimizer(torch.optim.Optimizer):
    """An optimiser made of functions, as lessons that build one from scratch use it.

    Args:
        params: Parameters, or groups of them.
        cbs: Called one after the other for each parameter with its gradient, the settings and what earlier calls remembered:
            ``cb(p, lr=..., **others)``. A dictionary that one returns is remembered for this parameter.
        defaults: Settings, ``lr`` among them. ``cb.defaults`` are those of one function.

    Examples:
        >>> def step(p, lr, **others): p.sub_(p.grad, alpha=lr)
        >>> optimiser = Optimizer(torch.nn.Linear(2, 2).parameters(), [step], lr=0.1)
    """

    def __init__(
        self,
        params: Parameters,
        cbs: Callable[..., dict[str, Any] | None] | Sequence[Callable[..., dict[str, Any] | None]],
        **defaults: Any,
    ) -> None:
        self.cbs = list(cbs) if isinstance(cbs, Iterable) else [cbs]
        own = [getattr(getattr(cb, "func", cb), "defaults", {}) for cb in self.cbs]
        super().__init__(
            params, {name: value for each in (*own, defaults) for name, value in each.items()}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Call the functions for each parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            settings = {name: value for name, value in group.items() if name != "params"}
            for parameter in group["params"]:
                state = self.state[parameter]
                for cb in self.cbs if parameter.grad is not None else ():
                    state.update(cb(parameter, **{**settings, **state}) or {})


class Hypers(Sequence["MutableMapping[str, float]"]):
    """The settings of an optimiser from ``build_optimiser`` in fastai's words, one mapping for each layer group that trains.

    They are ``lr``, ``mom``, ``sqr_mom``, ``eps`` and ``wd``, as far as the optimiser has them. Writing one changes the optimiser; a
    schedule sets ``lr`` and ``mom`` before each step.
    """

    def __init__(self, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = optimiser

    def __len__(self) -> int:
        return len(self._positions())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        position = self._positions()[index]
        groups = self._optimiser.param_groups
        return _GroupHypers([each for each in groups if each["layer_group"] == position])

    def __repr__(self) -> str:
        return repr(list(self))

    def set_hyper(self, name: str, value: float | Sequence[float]) -> None:
        """Set one of them for all groups, or to one value for each."""
        values = list(value) if isinstance(value, Sequence) else [value] * len(self)
        for group, each in zip(self, values, strict=True):
            group[name] = each

    def _positions(self) -> list[int]:
        return sorted({group["layer_group"] for group in self._optimiser.param_groups})


_PLACES = {
    "lr": (("lr", None),),
    "mom": (("betas", 0), ("momentum", None), ("mom", None)),
    "sqr_mom": (("betas", 1), ("alpha", None), ("sqr_mom", None)),
    "eps": (("eps", None),),
    "wd": (("weight_decay", None), ("wd", None)),
}
"""Where optimisers of torch have each of the settings."""


class _GroupHypers(MutableMapping[str, float]):
    """The settings of one layer group, whose first part takes weight decay."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self._groups = groups

    def _place(self, name: str) -> tuple[str, int | None]:
        for key, index in _PLACES.get(name, ((name, None),)):
            if key in self._groups[0] and key != "params":
                return key, index
        raise KeyError(name)

    def __getitem__(self, name: str) -> float:
        key, index = self._place(name)
        found = self._groups[0][key]
        return float(found if index is None else found[index])

    def __setitem__(self, name: str, value: float) -> None:
        key, index = self._place(name)
        for group in self._groups[:1] if name == "wd" else self._groups:
            if index is None:
                group[key] = _updated(group[key], value)
                continue
            both = list(group[key])
            both[index] = _updated(both[index], value)
            group[key] = tuple(both)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"Settings of an optimiser cannot be deleted. Received: del {name}")

    def __iter__(self) -> Iterator[str]:
        return (name for name in _PLACES if any(key in self._groups[0] for key, _ in _PLACES[name]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return repr(dict(self))


def build_optimiser(
    module: nn.Module,
    groups: Sequence[Group],
    *,
    opt_func: OptimiserFactory = Adam,
    weight_decay: float | Sequence[float] | None = None,
    decay_norms_and_biases: bool = False,
) -> torch.optim.Optimizer:
    """Return an optimiser over the parameters that train; ``set_hyperparameters`` sets its rates before each step.

    Each of its ``param_groups`` has the position of its layer group under ``"layer_group"``. Notebooks read and set its settings by
    ``hypers`` (``Hypers``) and ``set_hyper``.

    Args:
        module: Says which parameters are norms and biases.
        groups: Layer groups, earliest first. Parameters without ``requires_grad`` are left out.
        opt_func: Called with torch's groups of parameters and ``lr``; or a name: ``"adam"`` and ``"adamw"`` are ``Adam``,
            ``"sgd"`` is ``SGD`` with momentum 0.9, then come the classes of ``torch.optim`` (``"rmsprop"``) and the names
            of timm's ``create_optimizer_v2`` (``"lion"``, ``"lamb"``), in upper or lower case.
        weight_decay: For all groups, or one for each; None for the optimiser's own.
        decay_norms_and_biases: Decay these too.
    """
    decays = _decay_per_group(weight_decay, num_groups=len(groups))
    settings: list[dict[str, Any]] = []
    for position, (group, decay) in enumerate(zip(groups, decays, strict=True)):
        training = tuple(parameter for parameter in group if parameter.requires_grad)
        decayed, exempt = (
            (training, ()) if decay_norms_and_biases else decay_split(training, module=module)
        )
        for parameters, own_decay in ((decayed, decay), (exempt, 0.0)):
            if parameters:
                chosen = {} if own_decay is None else {"weight_decay": own_decay}
                settings.append({"params": list(parameters), "layer_group": position, **chosen})
    if not settings:
        raise TrainingError(
            f"There is nothing to train: all parameters of the {len(groups)} parameter groups are frozen. "
            "Unfreeze some, for example with unfreeze()."
        )
    optimiser = _make(opt_func, settings)
    if weight_decay is not None and "weight_decay" not in optimiser.defaults:
        raise ConfigError(
            f"The optimiser {type(optimiser).__name__} has no weight decay. Received: wd={weight_decay!r}. "
            "Leave it out, or choose another optimiser."
        )
    found: Any = optimiser
    found.hypers = Hypers(optimiser)
    found.set_hyper = found.hypers.set_hyper
    return optimiser


def set_hyperparameters(
    optimiser: torch.optim.Optimizer, *, rates: Sequence[float], momentum: float | None = None
) -> None:
    """Set the rate of each layer group and the momentum for the next step of an optimiser from ``build_optimiser``.

    The momentum is the first of the ``betas``, or ``momentum``; None leaves it, and an optimiser made without momentum stays
    without. Values that are tensors (a captured CUDA graph reads them) are overwritten in place.
    """
    has_momentum = bool(optimiser.defaults.get("momentum", 0.0))
    for group in optimiser.param_groups:
        group["lr"] = _updated(group["lr"], rates[group["layer_group"]])
        if momentum is None:
            continue
        if "mom" in group:
            group["mom"] = momentum
        if has_momentum:
            group["momentum"] = _updated(group["momentum"], momentum)
        if isinstance(group.get("betas"), tuple | list):
            group["betas"] = (_updated(group["betas"][0], momentum), *group["betas"][1:])


def optimiser_names() -> tuple[str, ...]:
    """Return the names that ``build_optimiser`` knows, sorted."""
    names = {*_OWN, *_torch_classes(), *_timm_optim().list_optimizers()}
    return tuple(sorted(names - _NOT_FOR_THIS_LOOP.keys()))


_OWN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": Adam,
    "adamw": Adam,
    "sgd": partial(SGD, mom=MOMENTUM),
    "ranger": ranger,
}


def _decay_per_group(
    weight_decay: float | Sequence[float] | None, *, num_groups: int
) -> Sequence[float | None]:
    if weight_decay is None:
        return (None,) * num_groups
    if isinstance(weight_decay, int | float):
        weight_decay = [weight_decay] * num_groups
    given = [float(decay) for decay in weight_decay]
    if len(given) != num_groups:
        raise ConfigError(
            f"Weight decay must be one number, or one for each of the {num_groups} parameter groups. Received: "
            f"{len(given)} numbers."
        )
    if any(decay < 0 or not math.isfinite(decay) for decay in given):
        raise ConfigError(
            f"Weight decay must be a finite number of at least 0, such as 0.01. Received: {given}"
        )
    return given


def _make(opt_func: OptimiserFactory, settings: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Call what makes an optimiser, and turn what libraries raise into one error of ours."""
    factory = _factory_of(opt_func)
    named = opt_func.func if isinstance(opt_func, partial) else opt_func
    shown = repr(opt_func) if isinstance(opt_func, str) else getattr(named, "__name__", repr(named))
    try:
        optimiser = factory(settings, lr=_INITIAL_RATE)
    except _REFUSALS as error:
        raise ConfigError(
            f"The optimiser {shown} cannot be built for these parameters: {error} Correct its settings, or choose "
            'another one, for example "adamw".'
        ) from error
    groups = getattr(optimiser, "param_groups", None)
    if groups is None or any("layer_group" not in group for group in groups):
        raise ConfigError(
            f"opt_func must return a torch.optim.Optimizer of the parameter groups that it is given. {shown} "
            f"returned {type(optimiser).__name__} without them. Pass its first argument on to torch unchanged."
        )
    _check_usable(type(optimiser).__name__)
    return optimiser


def _check_usable(name: str) -> None:
    reason = _NOT_FOR_THIS_LOOP.get(name.lower())
    if reason is not None:
        raise ConfigError(
            f"The optimiser {name} cannot be used: {reason}. "
            'Choose another one, for example "adamw".'
        )


def _factory_of(opt_func: OptimiserFactory) -> Callable[..., torch.optim.Optimizer]:
    if not isinstance(opt_func, str):
        if not callable(opt_func):
            raise ConfigError(
                "opt_func must be Adam, SGD, a partial of one, a class of torch.optim, or a name. Received: "
                f"{opt_func!r}"
            )
        return opt_func
    name = opt_func.lower()
    _check_usable(opt_func)
    found = _OWN.get(name) or _torch_classes().get(name)
    if found is not None:
        return found
    # timm puts "lookahead_" before a name to wrap the optimiser of that name.
    if name.removeprefix("lookahead_") not in _timm_optim().list_optimizers():
        nearest = ", ".join(nearest_names(name, optimiser_names()))
        raise ConfigError(
            f"No optimiser of vizsla, torch or timm is called {opt_func!r}. The nearest names are: {nearest}. "
            "Choose one of them, or pass a function (params, lr=) that makes one."
        )
    return partial(_timm_optim().create_optimizer_v2, opt=name)


def _timm_optim() -> Any:
    from timm import optim

    return optim


def _torch_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """Return torch's optimisers by lower-case name; not Muon, which refuses biases (timm's takes them)."""
    base = torch.optim.Optimizer
    return {
        name.lower(): found
        for name, found in vars(torch.optim).items()
        if isinstance(found, type) and issubclass(found, base) and name not in ("Optimizer", "Muon")
    }


def _fused(
    make: Callable[..., torch.optim.Optimizer], params: Parameters, **settings: Any
) -> torch.optim.Optimizer:
    """Return an optimiser with fused kernels where all parameters are on one kind of device that has them."""
    given = list(params)
    entries = [entry["params"] if isinstance(entry, dict) else entry for entry in given]
    kinds = {
        tensor.device.type
        for entry in entries
        for tensor in ([entry] if isinstance(entry, Tensor) else entry)
    }
    return make(given, fused=kinds in ({"cuda"}, {"cpu"}) or None, **settings)


def _updated(current: object, value: float) -> object:
    """Return the new value; a tensor that held the old one gets it and is returned."""
    return current.fill_(value) if isinstance(current, Tensor) else value
