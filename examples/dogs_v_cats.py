# %% [markdown]
# # Dogs v Cats in eight steps
#
# The recipe at the end of the first lesson of the 2018 course "Practical deep learning for coders", in our own words and with
# the numbers beside it. It is written in that lesson's dialect, `vizsla.classic`; `docs/classic.md` says what each name is
# called in vizsla itself.
#
# Run it as `python examples/dogs_v_cats.py DATA/`, where `DATA` holds `train` and `valid` and each of these one folder per
# class. Weights come with the package, so no download is needed. On two CPU cores and 600 training images the first three
# steps take about a minute, the whole page a quarter of an hour; `--size 96` is five times as fast and a little less right.

# %%
import argparse

import torch

from vizsla.classic import (
    ConvLearner,
    ImageClassifierData,
    accuracy_np,
    confusion_matrix,
    efficientnet_lite0,
    np,
    plot_confusion_matrix,
    plt,
    tfms_from_model,
    transforms_side_on,
)
from vizsla.evaluate.statistics import wilson_interval

parser = argparse.ArgumentParser(description="The first lesson, start to end.")
parser.add_argument("data", help="folder with train/CLASS/ and valid/CLASS/")
parser.add_argument("--size", type=int, default=224, help="pixels of a side")
parser.add_argument("--bs", type=int, default=64, help="images in a batch")
parser.add_argument("--figures", default=None, help="folder for figures; default: draw none")
options, _ = parser.parse_known_args()
torch.manual_seed(0)


def keep_figure(name: str) -> None:
    """Write the present figure, or drop it."""
    if options.figures is not None:
        plt.savefig(f"{options.figures}/{name}.png", bbox_inches="tight")
    plt.close("all")


def report(what: str, probabilities: np.ndarray, labels: np.ndarray) -> None:
    """Print an accuracy with its 95 % interval."""
    right = round(accuracy_np(probabilities, labels) * len(labels))
    low, high = wilson_interval(right, len(labels))
    share = right / len(labels)
    print(
        f"{what}: {share:.1%} of {len(labels)} images right (95% interval {low:.1%} to {high:.1%})"
    )


# %% [markdown]
# ## 1. Augmentation, and features computed once
# A cat that leans, stands nearer or looks the other way is still a cat: `transforms_side_on` and `max_zoom` say so. With
# `precompute=True` they wait, though. The body of the network is frozen, so what it makes of an image never changes; it is
# computed once, kept below `tmp/`, and the head learns from that. Augmentation has to wait until step 4.

# %%
arch = efficientnet_lite0
tfms = tfms_from_model(arch, options.size, aug_tfms=transforms_side_on, max_zoom=1.1)
data = ImageClassifierData.from_paths(options.data, bs=options.bs, tfms=tfms)
learn = ConvLearner.pretrained(arch, data, precompute=True)
print(f"{len(data.trn_ds)} images to learn from, {len(data.val_ds)} held out: {data.classes}")

# %% [markdown]
# ## 2. How fast may it learn?
# `lr_find` tries learning rates from tiny to absurd, each on one batch, and puts everything back. The loss falls, levels out,
# then runs away. Take the largest rate at which it still falls clearly: a tenth of where the minimum lies is safe.

# %%
learn.lr_find()
learn.sched.plot()
keep_figure("1-learning-rates")

# %% [markdown]
# ## 3. The head, on the features
# An epoch takes a fraction of a second now. Two are enough.

# %%
learn.fit(1e-2, 2)
report("head alone", np.exp(learn.predict()), data.val_y)

# %% [markdown]
# ## 4. The head, on augmented images
# From here on every image goes through the body again, a little different each time. `cycle_len=1` lets the rate fall along
# half a cosine within each epoch and jump back up for the next: small steps to settle, a jump to leave narrow valleys.

# %%
learn.precompute = False
learn.fit(1e-2, 2, cycle_len=1)
learn.sched.plot_lr()
keep_figure("2-restarts")
learn.save("lastlayer")

# %% [markdown]
# ## 5. Unfreeze
# The head is good, so the body may be trained without being torn apart by it. It was trained on a million photographs; its
# norms keep the statistics of those (`bn_freeze`), because batches of a small data set estimate them badly.

# %%
learn.unfreeze()
learn.bn_freeze(do_freeze=True)

# %% [markdown]
# ## 6. Smaller rates for earlier layers
# The first layers know edges and colours, which are the same everywhere; the later ones know ImageNet's thousand classes. So the
# first group gets a ninth of the rate of the second, and that a ninth of the head's.

# %%
rates = np.array([1e-2 / 81, 1e-2 / 9, 1e-2])

# %% [markdown]
# ## 7. Look at the rates again
# With everything trainable the answer may be another one.

# %%
learn.lr_find(rates / 1000)
learn.sched.plot()
keep_figure("3-learning-rates-of-all")

# %% [markdown]
# ## 8. Train all of it, until it overfits
# `cycle_mult=2` makes each cycle twice as long as the one before: one epoch, then two. Add a third cycle if the validation loss
# is still falling at the end; stop when it rises while the training loss falls.

# %%
learn.fit(rates, 2, cycle_len=1, cycle_mult=2)
learn.save("all")

# %% [markdown]
# ## What came out
# Each held-out image is looked at five times, once as it is and four times augmented, and the probabilities are averaged. Of
# so few images, a percent more or less means nothing: the interval says how much is left open.

# %%
log_preds, labels = learn.TTA()
probabilities = np.exp(log_preds).mean(axis=0)
report("everything, one look", np.exp(log_preds[0]), labels)
report("everything, five looks", probabilities, labels)
plot_confusion_matrix(confusion_matrix(labels, probabilities.argmax(axis=1)), data.classes)
keep_figure("4-confusion")
