# %% [markdown]
# # Which breed is it?
#
# Cats and dogs are easy to tell apart; 37 breeds of them are not: a Ragdoll and a Birman differ by the white on their paws.
# That makes pets a good exercise. A network has to learn fine differences from about 200 images of each breed, and most
# of the work is what one does around the training: looking at the images before, and at the mistakes after.
#
# Run it as `python examples/pet_breeds.py [--images FOLDER] [--epochs N] [--size N] [--out FOLDER]`. The file names say
# the breed (`great_pyrenees_173.jpg`). Without a folder the Oxford-IIIT pets are downloaded, 800 MB.

# %%
# ruff: noqa: F403, F405 (a star import, as in any notebook of this dialect)
import argparse

from vizsla.all import *

parser = argparse.ArgumentParser(description="Train a classifier of pet breeds, and look at it.")
parser.add_argument("--images", type=Path, help="a folder of images; default: download the pets")
parser.add_argument("--arch", default="efficientnet_lite0", help="name of the network")
parser.add_argument("--epochs", type=int, default=3, help="with everything trained")
parser.add_argument("--size", type=int, default=224, help="pixels that the network sees")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument(
    "--out", type=Path, default=Path("pet-breeds"), help="for figures and the model"
)
options, _ = parser.parse_known_args()
options.out.mkdir(parents=True, exist_ok=True)
images = options.images or untar_data(URLs.PETS) / "images"


def keep(name: str) -> None:
    """Save the figure that was just drawn."""
    plt.savefig(options.out / f"{name}.png", dpi=80)
    plt.close()


# %% [markdown]
# ## From files to batches
# Five questions have to be answered before images can be learned from: what goes in and what comes out, which files there
# are, which of them are held out, where the label stands, and how an image becomes a square of numbers. A `DataBlock`
# holds the answers.
#
# Note the two sizes. Each image is first cut to a square larger than needed; turning and zooming then happen on the way
# from there to the final size, in one go, so nothing is interpolated twice and no empty corner comes into view
# (`examples/presizing.py` shows the difference).

# %%
pets = DataBlock(
    blocks=(ImageBlock, CategoryBlock),
    get_items=get_image_files,
    splitter=RandomSplitter(seed=42),
    get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
    item_tfms=Resize(2 * options.size),
    batch_tfms=aug_transforms(size=options.size, min_scale=0.75),
)
dls = pets.dataloaders(images, bs=options.batch_size)
print(f"{dls.train.n} images to learn from, {dls.valid.n} held out, {dls.c} breeds")

# %% [markdown]
# Never train on images that you have not looked at. Are the labels right? Is the animal still in the image after the
# random crop? The second figure is one image as it will be seen in nine different epochs.

# %%
dls.show_batch(max_n=9)
keep("batch")
dls.show_batch(max_n=9, unique=True)
keep("one-image")

# %% [markdown]
# When something is wrong with a description, `summary` shows where: it follows one image through every step.

# %%
pets.summary(images)

# %% [markdown]
# ## Training in two steps
# The network comes with what it learned from a million images of ImageNet; only its last layers, the head, are new and
# know nothing. Training all of it at once would let the ignorant head spoil what the body knows. So `fine_tune` trains the
# head alone first, then everything, with smaller steps for the early layers, whose edges and textures serve any image.
#
# How large may the steps be? `lr_find` tries: it raises the rate from batch to batch until the loss explodes, and puts the
# network back to where it was. A good rate lies where the loss falls well and is not near the cliff.

# %%
learn = vision_learner(dls, options.arch, metrics=[accuracy, error_rate])
suggested = learn.lr_find(suggest_funcs=(valley, steep))
keep("learning-rate")
print(suggested)

# %%
learn.fine_tune(options.epochs, base_lr=3e-3)
learn.recorder.plot_loss()
keep("losses")

# %% [markdown]
# ## What does it get wrong?
# One number for the accuracy says how good it is, not what to do next. The confusion matrix does: are the mistakes spread
# evenly, or is there a pair of breeds that even people mix up?

# %%
interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix(figsize=(12, 12))
keep("confusion")
for actual, predicted, count in interp.most_confused()[:5]:
    print(f"{count} x {actual} taken for {predicted}")
interp.print_classification_report()

# %% [markdown]
# The images with the largest losses are those where the network was sure and wrong. Some are hard, some are odd (two
# animals, one of them a toy), and some have a wrong label, which no training can fix. The colours in the second figure
# say what in the image spoke for the answer.

# %%
interp.plot_top_losses(min(9, dls.valid.n))
keep("top-losses")
interp.plot_grad_cam(min(9, dls.valid.n))
keep("where-it-looked")

# %% [markdown]
# Labels that the network contradicts with certainty go into a list for a person to go through. Nothing is changed by this.

# %%
cleaner = ImageClassifierCleaner(learn)
print(f"Labels to look at: {cleaner.save_csv(options.out / 'labels.csv')}")

# %% [markdown]
# ## Using it
# The finished model is one file. It holds weights and a description, no code, so it is safe to pass on, and it opens
# without this script. A prediction goes through the same preparation as the images above.

# %%
model = learn.export(options.out / "breeds.safetensors")
predictor = load_learner(model)
breed, _, probabilities = predictor.predict(dls.valid_ds.items[0])
print(f"{dls.valid_ds.items[0].name}: {breed}, {float(probabilities.max()):.0%}")
