"""Write learner.json: what cells about learners, callbacks and records see with fastai; vizsla.all has to see the same.

Run by a Python that has fastai 2.8.12: ``python tests/golden/record_learner.py``.
"""

# ruff: noqa: S102 (the cells are those below)

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

EVENTS = (
    *("before_fit", "before_epoch", "before_train", "before_batch", "after_pred", "after_loss"),
    *("before_backward", "after_backward", "before_step", "after_step", "after_batch"),
    *("after_train", "before_validate", "after_validate", "after_epoch", "after_fit"),
    *(f"after_cancel_{part}" for part in ("fit", "epoch", "train", "validate", "batch")),
)

SETUP = """
dls = ImageDataLoaders.from_folder(path, valid_pct=0.25, seed=1, item_tfms=Resize(32), bs=2, device='cpu')
log = []
note = lambda name: lambda self: log.append(name)
Log = type('LogCallback', (Callback,), {name: note(name) for name in EVENTS})
net = lambda: nn.Sequential(create_body(xresnet18(widen=0.25), cut=4), nn.Sequential(PoolFlatten(), nn.Linear(64, 2)))
def make(**options):
    made = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), **options)
    if hasattr(made, 'progress'): made.remove_cb(ProgressCallback)
    return made
def fitted(**options):
    log.clear()
    learn = make(**options)
    with learn.no_logging(), learn.no_bar(): learn.fit(1, 1e-3)
    return learn
def stops(error, **conditions):
    class Stop(Callback):
        def stop(self, name):
            if all(getattr(self, key) == value for key, value in conditions.items()): raise error
    return Stop
"""

CELLS = {
    "events": "fitted(cbs=Log); seen = list(log)",
    "what a callback reads": """
class Read(Callback):
    def before_fit(self): self.found = [self.n_epoch, len(self.dls.train), type(self.learn).__name__]
    def before_batch(self): self.found.append([self.training, self.iter, self.n_iter, len(self.dl), list(self.xb[0].shape), list(self.yb[0].shape)])
    def after_pred(self): self.found.append([list(self.pred.shape), list(self.x.shape), list(self.y.shape)])
    def after_loss(self): self.found.append([list(self.loss.shape), self.loss_grad.requires_grad, self.loss.requires_grad])
    def after_batch(self): self.found.append([self.epoch, self.train_iter, round(float(self.pct_train), 4)])
    def after_epoch(self): self.found.append([self.model is self.learn.model, self.opt is self.learn.opt, self.loss_func is self.learn.loss_func])
seen = fitted(cbs=[Read]).read.found
""",
    "what a callback sets": """
class Dark(Callback):
    def before_batch(self): self.learn.xb = (self.x * 0,)
    def after_pred(self):
        self.same = bool((self.pred == self.pred[:1]).all())
        self.learn.pred = self.pred * 0
    def after_loss(self): self.half = self.loss.item()
class Doubled(Callback):
    order = 5
    def after_loss(self): self.learn.loss_grad = self.loss_grad * 0
    def after_backward(self): self.zero = all(float(each.grad.abs().sum()) == 0 for each in self.model.parameters())
class Rate(Callback):
    def before_step(self): self.learn.opt.set_hyper('lr', 0.)
learn = make(cbs=[Dark(), Doubled, Rate])
before = [each.detach().clone() for each in learn.model.parameters()]
with learn.no_logging(), learn.no_bar(): learn.fit(1, 0.5, wd=0.)
seen = [learn.dark.same, round(learn.dark.half, 5), learn.doubled.zero, all(bool((a == b).all()) for a, b in zip(before, learn.model.parameters()))]
""",
    "run only in training": """
class Quiet(Callback):
    run_valid = False
    def before_fit(self): self.sides = []
    def before_batch(self): self.sides.append(self.training)
seen = fitted(cbs=Quiet).quiet.sides
""",
    "cancel a batch": """
class Stop(Callback):
    def before_backward(self):
        if self.iter == 1: raise CancelBatchException
fitted(cbs=[Log, Stop]); seen = list(log)
""",
    "cancel a step": """
class Stop(Callback):
    def before_step(self): raise CancelStepException
learn = make(cbs=Stop)
before = [each.detach().clone() for each in learn.model.parameters()]
with learn.no_logging(), learn.no_bar(): learn.fit(1, 0.5)
seen = all(bool((a == b).all()) for a, b in zip(before, learn.model.parameters()))
""",
    "cancel training": """
class Stop(Callback):
    def after_batch(self):
        if self.training and self.iter == 1: raise CancelTrainException
learn = fitted(cbs=[Log, Stop]); seen = [list(log), len(learn.recorder.values)]
""",
    "cancel an epoch": """
class Stop(Callback):
    def after_batch(self):
        if self.epoch == 0 and self.training and self.iter == 1: raise CancelEpochException
learn = make(cbs=[Stop, Log]); log.clear()
with learn.no_logging(), learn.no_bar(): learn.fit(2, 1e-3)
seen = [log.count(name) for name in ('before_train', 'before_validate', 'after_cancel_epoch', 'after_fit')]
""",
    "cancel a fit": """
class Stop(Callback):
    def before_batch(self):
        if self.iter == 2: raise CancelFitException()
learn = fitted(cbs=[Log, Stop]); seen = [log[-3:], log.count('after_step'), len(learn.recorder.values)]
""",
    "names of callbacks": "seen = [each.name for each in (Log(), SaveModelCallback(), EarlyStoppingCallback(), MixUp(), ActivationStats(), CSVLogger(), GradientAccumulation())]",
    "add and remove": """
learn = make()
learn.add_cb(Log()); learn.add_cbs([ActivationStats, MixUp()])
seen = [hasattr(learn, name) for name in ('log', 'activation_stats', 'mix_up')]
learn.remove_cb(Log); learn.remove_cbs([learn.mix_up])
seen += [hasattr(learn, name) for name in ('log', 'activation_stats', 'mix_up')]
with learn.added_cbs(Log()): seen.append(hasattr(learn, 'log'))
with learn.removed_cbs(learn.activation_stats): seen.append(hasattr(learn, 'activation_stats'))
seen += [hasattr(learn, 'log'), hasattr(learn, 'activation_stats')]
""",
    "metrics": """
macro = F1Score(average='macro'); macro.name = 'F1 (macro)'
beta = FBeta(beta=2); beta.name = 'F2'
learn = fitted(metrics=[accuracy, partial(top_k_accuracy, k=2), macro, beta, error_rate])
seen = [list(learn.recorder.metric_names), len(learn.recorder.values), len(learn.recorder.values[-1]), len(learn.recorder.log)]
learn.metrics = accuracy
with learn.no_logging(), learn.no_bar(): learn.fit(1)
seen += [list(learn.recorder.metric_names), len(learn.validate())]
learn.metrics = [partial(accuracy_multi, thresh=0.2)]
seen.append(len(learn.metrics))
""",
    "a metric of one's own": """
class Share(Metric):
    def reset(self): self.right = self.count = 0
    def accumulate(self, learn):
        self.right += int((learn.pred.argmax(dim=1) == learn.y).sum()); self.count += len(learn.y)
    @property
    def value(self): return self.right / self.count
learn = fitted(metrics=[Share(), accuracy])
seen = [list(learn.recorder.metric_names), abs(learn.recorder.values[-1][2] - learn.recorder.values[-1][3]) < 1e-6]
""",
    "settings of the optimiser": """
learn = make(splitter=default_split); learn.create_opt()
seen = [len(learn.opt.hypers), sorted(learn.opt.hypers[0]), [round(learn.opt.hypers[-1][name], 6) for name in ('lr', 'mom', 'sqr_mom', 'eps')]]
learn.opt.set_hyper('lr', [0.1, 0.2]); learn.opt.set_hyper('mom', 0.7)
seen += [[each['lr'] for each in learn.opt.hypers], [round(each['mom'], 6) for each in learn.opt.hypers]]
learn.opt.hypers[0]['lr'] = 0.3
seen.append([each['lr'] for each in learn.opt.hypers])
""",
    "rates": """
seen = []
for fit in (lambda learn: learn.fit_one_cycle(1, lr_max=slice(1e-5, 1e-3), div=10., pct_start=0.3, wd=0.1, cbs=Log()),
            lambda learn: learn.fit_one_cycle(1, 3e-3), lambda learn: learn.fit_flat_cos(1, 1e-3, pct_start=0.5),
            lambda learn: learn.fit_sgdr(1, 1, 1e-3), lambda learn: learn.fit(1, lr=slice(1e-3)), lambda learn: learn.fit(1)):
    learn = make(splitter=default_split, lr=2e-3)
    with learn.no_logging(), learn.no_bar(): fit(learn)
    seen.append([round(float(rate), 7) for rate in learn.recorder.lrs])
    seen.append(len(learn.recorder.losses))
""",
    "groups": """
learn = make(splitter=lambda m: [params(m[0][0]), params(m[0][1:]), params(m[1])])
seen = []
for n in (-2, -1, 0, 1):
    learn.freeze_to(n)
    seen.append([p.requires_grad for p in (learn.model[0][0][0].weight, learn.model[0][1][0].weight, learn.model[1][1].weight)])
learn.splitter = default_split; learn.create_opt()
seen += [len(learn.opt.hypers), len(learn.model), type(learn.model[-1]).__name__, learn.lr]
""",
    "loss and data of another kind": """
learn = make()
learn.loss_func = LabelSmoothingCrossEntropyFlat()
seen = [type(learn.loss_func).__name__[:14]]
learn.dls = ImageDataLoaders.from_folder(path, valid_pct=0.5, seed=1, item_tfms=Resize(48), bs=4, device='cpu')
with learn.no_logging(), learn.no_bar(): learn.fit(1)
seen += [len(learn.recorder.losses), len(learn.dls.valid), learn.dls.valid.new(bs=1).bs, len(learn.dls.train.new(shuffle=False, drop_last=False)), len(learn.dls.new(bs=3))]
""",
    "finder": """
learn = make()
with learn.no_logging(), learn.no_bar():
    found = learn.lr_find(suggest_funcs=(minimum, steep, valley, slide), show_plot=False, num_it=30)
    low, high = learn.lr_find(suggest_funcs=(minimum, steep), show_plot=False, num_it=30)
seen = [len(tuple(found)), all(hasattr(found, name) for name in ('minimum', 'steep', 'valley', 'slide')), low > 0 and high > 0]
learn.recorder.plot_lr_find(); plt.close('all')
""",
    "activations": """
learn = make(cbs=ActivationStats(with_hist=True))
with learn.no_logging(), learn.no_bar(): learn.fit(1, 1e-3)
stats = learn.activation_stats
learn.activation_stats.plot_layer_stats(-2); learn.activation_stats.color_dim(-2); plt.close('all')
seen = [[len(each) for each in stats.layer_stats(0)], list(stats.hist(-1).shape), len(stats.stats), len(stats.stats[0]), bool(stats.hist(0).max() > 0)]
""",
    "hooks": """
learn = make(); xb, _ = dls.one_batch()
with hook_output(learn.model[0]) as forward, hook_output(learn.model[0], grad=True) as backward, hook_outputs(learn.model) as both:
    learn.model.eval()(xb)[0, 0].backward()
seen = [list(forward.stored.shape), list(backward.stored[0].shape), [list(each.shape) for each in both.stored], forward.stored.requires_grad]
""",
}


def draw(folder: Path) -> Path:
    """Write eight small images of each of two classes."""
    for label, colour in (("blue", (20, 40, 200)), ("red", (200, 40, 20))):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGB", (48, 48), tuple(value + 5 * number for value in colour))
            image.save(folder / label / f"{number}.png")
    return folder


def run_cells(names: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what each cell has in ``seen``, with the names of a library."""
    found: dict[str, Any] = {}
    for name, cell in CELLS.items():
        namespace: dict[str, Any] = {**names, "path": folder, "EVENTS": EVENTS}
        exec(SETUP, namespace)
        exec(cell, namespace)
        found[name] = json.loads(json.dumps(namespace["seen"]))
    return found


if __name__ == "__main__":
    import fastai  # pyright: ignore[reportMissingImports]

    names: dict[str, Any] = {}
    exec("from fastai.vision.all import *", names)
    with tempfile.TemporaryDirectory() as temporary:
        record = run_cells(names, draw(Path(temporary)))
    record["_meta"] = f"Recorded by record_learner.py from fastai {fastai.__version__}."
    Path(__file__).with_name("learner.json").write_text(json.dumps(record) + "\n", "utf-8")
