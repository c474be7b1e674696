"""A miniature of every published set, in the layout that users have on disk.

Written with Pillow and NumPy alone; the expected pixels are the arrays that made the
files.
"""

import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

Expected = dict[str, dict[str, tuple[np.ndarray, ...]]]
"""Split -> record name -> its images."""

SIZE = (6, 8)


class Tree:
    """Writes files; each has pixels of its own."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self._count = 0

    def pixels(self, size: tuple[int, int] = SIZE) -> np.ndarray:
        """Random RGB pixels that no other file has."""
        self._count += 1
        rng = np.random.default_rng(self._count)
        return rng.integers(0, 256, (*size, 3), np.uint8)

    def add(self, name: str, size: tuple[int, int] = SIZE) -> np.ndarray:
        """Writes one file: npy in BGR, BMP or PNG by the ending.

        A JPEG ending has PNG bytes, so that the pixels are exact; files are opened by
        their content.
        """
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rgb = self.pixels(size)
        if path.suffix == ".npy":
            np.save(path, rgb[:, :, ::-1])
        else:
            kind = "BMP" if path.suffix.lower() == ".bmp" else "PNG"
            Image.fromarray(rgb).save(path, format=kind)
        return rgb


def _same_names(tree: Tree, splits: dict[str, tuple[str, str, tuple[str, ...]]]):
    """Pairs of equal names: split -> (inputs, targets, names)."""
    return {
        split: {
            name.rpartition(".")[0]: (
                tree.add(f"{inputs}/{name}"),
                tree.add(f"{targets}/{name}"),
            )
            for name in names
        }
        for split, (inputs, targets, names) in splits.items()
    }


def lol_v1(tree):
    return _same_names(
        tree,
        {
            "train": ("our485/low", "our485/high", ("2.png", "10.PNG")),
            "test": ("eval15/low", "eval15/high", ("1.png", "22.png")),
        },
    )


def lol_v2_real(tree):
    return {
        split: {
            f"low{number}": (
                tree.add(f"Real_captured/{folder}/Low/low{number}.png"),
                tree.add(f"Real_captured/{folder}/Normal/normal{number}.png"),
            )
            for number in numbers
        }
        for split, folder, numbers in (
            ("train", "Train", ("00001", "00002")),
            ("test", "Test", ("00690", "00691")),
        )
    }


def lol_v2_syn(tree):
    top = "Synthetic"
    return _same_names(
        tree,
        {
            split.lower(): (f"{top}/{split}/Low", f"{top}/{split}/Normal", names)
            for split, names in (
                ("Train", ("r1t.png", "r3t.png")),
                ("Test", ("r2t.png", "r4t.png")),
            )
        },
    )


def _shared(tree, inputs, targets, scenes, ending, extra=()):
    """Scenes with two inputs and one reference: split -> scenes."""
    found: Expected = {}
    for split, names in scenes.items():
        for scene in names:
            for name in extra:
                tree.add(f"{targets.format(split)}/{scene}/{name}")
            # The first of two files is the reference.
            target = tree.add(f"{targets.format(split)}/{scene}/{scene}_00_10s{ending}")
            tree.add(f"{targets.format(split)}/{scene}/{scene}_01_10s{ending}")
            for take in ("00_0.04s", "01_0.1s"):
                file = f"{scene}_{take}"
                image = tree.add(f"{inputs.format(split)}/{scene}/{file}{ending}")
                found.setdefault(split, {})[f"{scene}/{file}"] = (image, target)
    return found


def sid(tree):
    scenes = {"train": ("00001", "20003"), "test": ("10034",)}
    return _shared(tree, "short_sid2", "long_sid2", scenes, ".npy")


def sid_png(tree):
    scenes = {"train": ("00001", "00002"), "test": ("10003", "10006")}
    return _shared(tree, "{}/short", "{}/long", scenes, ".png")


def smid(tree):
    # Sorted before the reference, so they would be the first.
    extra = ("0000_half.npy", "0000.ARW.npy")
    scenes = {"train": ("0001", "0008"), "test": ("0007",)}
    return _shared(tree, "SMID_LQ_np", "SMID_Long_np", scenes, ".npy", extra)


def _sdsd(tree, top, scenes):
    return {
        split: {
            f"{scene}/{frame}": (
                tree.add(f"{top}/input/{scene}/{frame}.npy"),
                tree.add(f"{top}/GT/{scene}/{frame}.npy"),
            )
            for scene in names
            for frame in ("0001", "0002")
        }
        for split, names in scenes.items()
    }


def sdsd_indoor(tree):
    scenes = {"train": ("pair2", "pair2_2", "pair10"), "test": ("pair1", "pair1_2")}
    return _sdsd(tree, "indoor_static_np", scenes)


def sdsd_outdoor(tree):
    training = ("MVI_0899", "MVI_2001", "MVI_2002")
    scenes = {"train": training, "test": ("MVI_0898", "MVI_0898_2")}
    return _sdsd(tree, "outdoor_static_np", scenes)


def lolblur(tree):
    found = {
        split: {
            f"{scene}/{frame}": (
                tree.add(f"{split}/low_blur_noise/{scene}/{frame}.png"),
                tree.add(f"{split}/high_sharp_scaled/{scene}/{frame}.png"),
            )
            for frame in ("0010", "0011")
        }
        for split, scene in (("train", "0000"), ("test", "0012"))
    }
    for other in ("low_blur", "low_sharp", "high_sharp_original"):
        tree.add(f"train/{other}/0000/0010.png")
    return found


def lsrw(tree):
    return {
        split: {
            f"{camera}/{name}": (
                tree.add(f"{folder}/{camera}/low/{name}.jpg"),
                tree.add(f"{folder}/{camera}/high/{name}.jpg"),
            )
            for camera in ("Huawei", "Nikon")
            for name in names
        }
        for split, folder, names in (
            ("train", "Training data", ("1", "2")),
            ("test", "Eval", ("3003", "3004")),
        )
    }


def fivek(tree):
    return _same_names(
        tree,
        {
            "train": (
                "train/input",
                "train/target",
                ("a0001-j.jpg", "a0002-d.jpg"),
            ),
            "test": ("test/input", "test/target", ("a4501-DSC.JPG", "a4502-x.jpg")),
        },
    )


def sice(tree):
    found = {}
    for scene, ending in (("1", "JPG"), ("2", "jpg")):
        target = tree.add(f"Dataset/label/{scene}.JPG")
        for exposure in ("1", "2", "3"):
            image = tree.add(f"Dataset/train/{scene}/{exposure}.{ending}")
            found[f"{scene}/{exposure}"] = (image, target)
    return {"train": found}


def _sice_test(tree, folder):
    names = ("001.png", "002.png")
    return _same_names(tree, {"test": (f"SICE/{folder}", "SICE/SICE_Reshape", names)})


def sice_grad(tree):
    return _sice_test(tree, "SICE_Grad")


def sice_mix(tree):
    return _sice_test(tree, "SICE_Mix")


def _photos(*names):
    def write(tree):
        return {
            "test": {
                pathlib.PurePath(name).stem: (tree.add(name, (5 + place, 7)),)
                for place, name in enumerate(names)
            }
        }

    return write


TREES: dict[str, Callable[[Tree], Expected]] = {
    **{
        each.__name__: each
        for each in (
            *(lol_v1, lol_v2_real, lol_v2_syn, sid, sid_png, smid, sdsd_indoor),
            *(sdsd_outdoor, lolblur, lsrw, fivek, sice, sice_grad, sice_mix),
        )
    },
    "dicm": _photos("01.jpg", "02.JPG"),
    "lime": _photos("1.bmp", "2.bmp"),
    "mef": _photos("Balloons.png", "Cave.png"),
    "npe": _photos("birds.jpg", "night fall.JPG", "road.bmp"),
    "vv": _photos("P1000205.jpg"),
    "real_lolblur": _photos("0001.png", "0002.png"),
    "darkface": _photos("image/1.png", "image/10.png"),
    "lowlight_demo": lambda tree: _same_names(
        tree,
        {
            "train": ("train/low", "train/high", ("cat-r0.png", "cat-r1.png")),
            "test": ("test/low", "test/high", ("cup-r0.png",)),
        },
    ),
}
"""Name of a published set -> what writes its miniature."""


def write(name: str, root: pathlib.Path) -> Expected:
    """Writes the miniature of a set below `root`, and returns what it contains."""
    return TREES[name](Tree(root))
