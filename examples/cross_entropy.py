# %% [markdown]
# # Cross-entropy: one number for how wrong a classifier is
#
# A network that tells cats from dogs ends in two numbers per image, one for each class. They may be of any size; the
# larger one wins. Training needs more than a winner: it needs a number that says how far off the network is, and that
# gets smaller with every step in the right direction. This page builds that number from its three parts, on six
# images whose outputs are made up.
#
# Run it as `python examples/cross_entropy.py [--out FILE]`; it prints each table and draws one figure.

# %%
import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

parser = argparse.ArgumentParser(description="Cross-entropy from its parts, with a figure.")
parser.add_argument(
    "--out", type=Path, default=Path("cross_entropy.png"), help="where the figure goes"
)
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Six images, two outputs each
# The outputs (called logits) are drawn at random and doubled, so that some are sure of themselves. The class that each
# image really has stands beside them: 0 for cat, 1 for dog.

# %%
logits = torch.randn((6, 2), generator=torch.Generator().manual_seed(42)) * 2
labels = torch.tensor([0, 1, 0, 1, 1, 0])
rows = torch.arange(len(labels))
for row in rows.tolist():
    cat, dog = logits[row].tolist()
    print(f"image {row}: cat {cat:8.4f}  dog {dog:8.4f}  really {('cat', 'dog')[labels[row]]}")

# %% [markdown]
# ## Softmax: from outputs to probabilities
# Probabilities are positive and sum to one. The exponential function makes every number positive; dividing by the sum
# of the row does the rest. Only differences matter: add 100 to both outputs of an image, and nothing changes. That is
# used to keep the exponentials from overflowing: first subtract the largest output of the row.


# %%
def softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return a probability for each class, (images, classes)."""
    raised = (logits - logits.max(dim=1, keepdim=True).values).exp()
    return raised / raised.sum(dim=1, keepdim=True)


probabilities = softmax(logits)
print("\nlargest difference to torch.softmax:", end=" ")
print(f"{(probabilities - logits.softmax(dim=1)).abs().max():.0e}")

# %% [markdown]
# With two classes this is the sigmoid function of the difference of the two outputs: one number would have been enough.
# Softmax is the same idea for any number of classes.

# %%
difference = logits[:, 0] - logits[:, 1]
print(f"sigmoid of the difference, image 0: {difference.sigmoid()[0]:.4f}")
print(f"softmax,                   image 0: {probabilities[0, 0]:.4f}")

# %% [markdown]
# ## Likelihood: the probability of what is true
# Of each row only one entry counts, that of the true class. Indexing with two lists takes exactly these: row 0 and its
# label, row 1 and its label, and so on. Whatever was given to the other classes counts too, without being looked at:
# the row sums to one.

# %%
of_the_truth = probabilities[rows, labels]

# %% [markdown]
# ## Logarithm: being sure and wrong is expensive
# 0.99 and 0.999 are close to each other, but who is wrong once in a thousand times is ten times better than who is wrong
# once in a hundred. The logarithm sees it that way. It turns products into sums as well: the probability of getting
# all images right is the product of theirs, which soon is too small for a computer, and its logarithm is a plain sum.
# A minus sign makes it something to be made small: 0 for a certainty that is right, and without bound for one that is
# wrong.

# %%
losses = -of_the_truth.log()
print("\n       P(cat)    P(dog)    label  P(label)  loss")
for row in rows.tolist():
    cat, dog = probabilities[row].tolist()
    print(
        f"{row:5d}  {cat:.6f}  {dog:.6f}  {labels[row]:5d}  {of_the_truth[row]:.6f}  {losses[row]:.6f}"
    )

# %% [markdown]
# Images 2 and 3 stand out. The network gave image 3 a probability of 0.3 % for what it is, and pays more for that
# one mistake than for the five others together.
#
# ## The mean of it is the cross-entropy
# In one step the library's function does all of this, from the outputs: it never forms the probabilities, because the
# logarithm of a tiny probability would have lost its digits by then.

# %%
print(f"\nmean loss, from its parts: {losses.mean():.4f}")
print(f"F.cross_entropy:           {F.cross_entropy(logits, labels):.4f}")
print(f"F.nll_loss of log_softmax: {F.nll_loss(logits.log_softmax(dim=1), labels):.4f}")
far_off = torch.tensor([[0.0, 120.0]])
print(f"from its parts, far off:   {-softmax(far_off)[0, 0].log():.4f}")
print(f"F.cross_entropy, far off:  {F.cross_entropy(far_off, torch.tensor([0])):.4f}")

# %% [markdown]
# ## Which way is down
# Training follows the slope of the loss. For cross-entropy it is as simple as can be: the probabilities, minus one at
# the true class. What is right already hardly moves, what is wrong is pushed with a force that never exceeds one. That
# is why softmax and logarithm go together so well.

# %%
followed = logits.clone().requires_grad_()
total = F.cross_entropy(followed, labels, reduction="sum")
(found,) = torch.autograd.grad(total, followed)
slope = probabilities - F.one_hot(labels, num_classes=2)
print(f"\nlargest difference of the slopes: {(found - slope).abs().max():.0e}")

# %% [markdown]
# ## As a figure

# %%
figure = Figure(figsize=(12, 3.8), layout="constrained")
sigmoid_axes, loss_axes, bar_axes = figure.subplots(1, 3)

x = torch.linspace(-6, 6, 200)
sigmoid_axes.plot(x, x.sigmoid())
sigmoid_axes.scatter(difference.numpy(), difference.sigmoid().numpy(), color="tab:red", zorder=3)
sigmoid_axes.set(
    title="two outputs become a probability", xlabel="output cat - output dog", ylabel="P(cat)"
)

p = torch.linspace(0.002, 1, 500)
loss_axes.plot(p, -p.log())
loss_axes.scatter(of_the_truth.numpy(), losses.numpy(), color="tab:red", zorder=3)
for row in rows.tolist():
    loss_axes.annotate(
        str(row), (float(of_the_truth[row]), float(losses[row])), (5, 4), textcoords="offset points"
    )
loss_axes.set(title="the price of a probability", xlabel="P(label)", ylabel="loss = -log P(label)")

bar_axes.bar(rows.numpy(), losses.numpy())
bar_axes.axhline(float(losses.mean()), color="tab:red", linestyle="--")
bar_axes.text(
    5.4, float(losses.mean()) + 0.1, f"mean {losses.mean():.4f}", ha="right", color="tab:red"
)
bar_axes.set(title="each image's part in it", xlabel="image", ylabel="loss")

figure.savefig(options.out, dpi=100)
print(f"The figure is in {options.out}")
