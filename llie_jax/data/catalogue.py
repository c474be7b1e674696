"""The data sets by name.

Their facts are stated only here, so a moved link or a corrected count is one edit. The
package contains no images.
"""

import os
import pathlib

from llie_jax import files, messages
from llie_jax.data import dataset
from llie_jax.data.dataset import Dataset

OWN_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "validation"),
    "test": ("test", "eval", "testing"),
}
"""The splits that a user's own folder may contain."""

SDSD_INDOOR_TEST = ("pair1", "pair4", "pair9", "pair11", "pair19", "pair21")
"""Test scenes of SDSD indoor. Source: the configuration of SNR-Net."""

SDSD_OUTDOOR_TEST = tuple(
    f"MVI_{number}"
    for number in (
        *("0898", "0906", "0928", "0975", "0997"),
        *("1001", "1003", "1026", "1030", "1032"),
    )
)
"""Test scenes of SDSD outdoor. Source: the configuration of SNR-Net."""

SMID_TEST = tuple(
    f"{number:04}"
    for number in (
        *(7, 9, 10, 12, 13, 20, 36, 37, 39, 47, 48, 49, 50, 51, 52, 65, 66, 75, 76, 78),
        *(83, 88, 91, 92, 99, 103, 104, 105, 106, 107, 129, 139, 145, 147, 151, 153),
        *(154, 157, 166, 167, 169, 170, 172, 175, 177, 180, 181, 191, 196),
    )
)
"""Test scenes of SMID. Source: the authors' `test_list.txt`."""

_RESEARCH = "none stated; research use, no redistribution"
_SNR_NET = "https://github.com/dvlab-research/SNR-Aware-Low-Light-Enhance"
_CIDNET = "https://github.com/Fediory/HVI-CIDNet"
_LOL_V2 = dict(
    licence=_RESEARCH,
    page="https://github.com/flyywh/CVPR-2020-Semi-Low-Light",
    get="download LOL-v2.zip, to which the official page links, and unpack it",
    unpack="unzip -n LOL-v2.zip -d {to}",
    citation="W. Yang, W. Wang, H. Huang, S. Wang, J. Liu: Sparse Gradient Regularized "
    "Deep Retinex Network for Robust Low-Light Image Enhancement, IEEE TIP 2021",
)
_SID = dict(
    shared_target=True,
    by_scene=True,
    scene=dataset.scene_folder,
    counts={"train": 2099, "test": 598},
    misaligned=("10034", "10045", "10172"),
    licence="raw files: MIT; none stated for the processed ones",
    citation="C. Chen, Q. Chen, J. Xu, V. Koltun: Learning to See in the Dark, CVPR "
    "2018; processed for X. Xu, R. Wang, C.-W. Fu, J. Jia: SNR-Aware Low-Light Image "
    "Enhancement, CVPR 2022",
)
_SDSD = dict(
    splits={"train": (), "test": ()},
    inputs=("input",),
    targets=("GT",),
    by_scene=True,
    frames=True,
    size=(512, 960),
    scene=dataset.scene_of_takes,
    licence=_RESEARCH,
    page=_SNR_NET,
    citation="R. Wang, X. Xu, C.-W. Fu, J. Lu, B. Yu, J. Jia: Seeing Dynamic Scene in "
    "the Dark: A High-Quality Video Dataset with Mechatronic Alignment, ICCV 2021",
)
_SICE = dict(
    licence=_RESEARCH,
    page="https://github.com/csjcai/SICE",
    citation="J. Cai, S. Gu, L. Zhang: Learning a Deep Single Image Contrast Enhancer "
    "from Multi-Exposure Images, IEEE TIP 2018",
)
_SICE_TEST = _SICE | dict(
    splits={"test": ()},
    composite=True,
    seen_by={"sice": "the test images are made of exposures of SICE"},
    targets=("SICE_Reshape",),
    page=_CIDNET,
    get="download SICE, to which the page of HVI-CIDNet links, and unpack it",
    citation="S. Zheng, Y. Ma, J. Pan, C. Lu, G. Gupta: Low-Light Image and Video "
    "Enhancement: A Comprehensive Survey and Beyond, arXiv 2022",
)
_PHOTOS = dict(
    splits={"test": ()},
    keys=("image",),
    licence=_RESEARCH,
    page=_CIDNET,
    get="download it by the link on the page, and unpack it",
)

_ENTRIES = (
    Dataset(
        name="lol_v1",
        title="LOL (v1), real pairs; Wei et al., BMVC 2018",
        splits={"train": ("our485", "train"), "test": ("eval15", "test")},
        counts={"train": 485, "test": 15},
        image_size=(400, 600),
        licence=_RESEARCH,
        page="https://daooshee.github.io/BMVC2018website/",
        get="download LOLdataset.zip from the official page and unpack it",
        unpack="unzip -n LOLdataset.zip -d {to}",
        citation="C. Wei, W. Wang, W. Yang, J. Liu: Deep Retinex Decomposition for "
        "Low-Light Enhancement, BMVC 2018",
        wrappers=("lolv1", "loldataset", "lol"),
        seen_by={
            "lol_v2_real": "12 of the 15 test images are probably training images, "
            "going by their numbers"
        },
    ),
    Dataset(
        name="lol_v2_real",
        title="LOL-v2, real pairs; Yang et al., TIP 2021",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 689, "test": 100},
        image_size=(400, 600),
        wrappers=("real_captured",),
        target_name=dataset.normal_name,
        seen_by={
            "lol_v1": "86 of the 89 test images that could be identified are training "
            "images"
        },
        **_LOL_V2,
    ),
    Dataset(
        name="lol_v2_syn",
        title="LOL-v2, synthetic pairs; Yang et al., TIP 2021",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 900, "test": 100},
        image_size=(384, 384),
        wrappers=("synthetic",),
        **_LOL_V2,
    ),
    Dataset(
        name="sid",
        title="SID (Sony) in sRGB, as npy frames; Chen et al., CVPR 2018",
        splits={"train": (), "test": ()},
        inputs=("short_sid2", "short"),
        targets=("long_sid2", "long"),
        frames=True,
        size=(512, 960),
        test_scenes=lambda scene: scene.startswith("1"),
        page=_SNR_NET,
        get="download long_sid2 and short_sid2 by the links on SNR-Net's page",
        **_SID,
    ),
    Dataset(
        name="sid_png",
        title="SID (Sony) in sRGB, as PNG files, also Sony-Total-Dark; Chen et al.",
        splits={"train": ("train",), "test": ("test", "eval")},
        inputs=("short",),
        targets=("long",),
        page=_CIDNET,
        get="download Sony-Total-Dark, to which the page of HVI-CIDNet links",
        wrappers=("sony_total_dark",),
        **_SID,
    ),
    Dataset(
        name="smid",
        title="SMID in sRGB, as npy frames; Chen et al., ICCV 2019",
        splits={"train": (), "test": ()},
        counts={"train": 15_763, "test": 5_046},
        inputs=("SMID_LQ_np",),
        targets=("SMID_Long_np",),
        by_scene=True,
        shared_target=True,
        not_targets=("half", ".ARW"),
        frames=True,
        size=(512, 960),
        scene=dataset.scene_folder,
        test_scenes=lambda scene: scene in SMID_TEST,
        test_list="test_list.txt",
        licence="code: MIT; none stated for the images",
        page=_SNR_NET,
        get="download SMID_LQ_np and SMID_Long_np by the links on SNR-Net's page",
        citation="C. Chen, Q. Chen, M. Do, V. Koltun: Seeing Motion in the Dark, ICCV "
        "2019",
        remarks="20,809 inputs of 202 scenes; the inputs look green, because they were "
        "processed without white balance",
    ),
    Dataset(
        name="sdsd_indoor",
        title="SDSD indoor, static scenes, as npy frames; Wang et al., ICCV 2021",
        counts={"train": 1655, "test": 308},
        wrappers=("indoor_static_np",),
        test_scenes=lambda scene: scene in SDSD_INDOOR_TEST,
        get="download all parts of indoor_static_np by the links on SNR-Net's page, "
        "and unpack the .zip with its .z01 beside it",
        unpack="7z x -aos indoor_static_np.zip -o{to}",
        remarks="papers print 62 and 6 scenes; the authors' rule gives the frames "
        "counted here, since a test scene has a second take, _2",
        **_SDSD,
    ),
    Dataset(
        name="sdsd_outdoor",
        title="SDSD outdoor, static scenes, as npy frames; Wang et al., ICCV 2021",
        wrappers=("outdoor_static_np",),
        test_scenes=lambda scene: scene in SDSD_OUTDOOR_TEST,
        get="download all parts of outdoor_static_np by the links on SNR-Net's page, "
        "and unpack the .zip with its .z01 beside it",
        unpack="7z x -aos outdoor_static_np.zip -o{to}",
        remarks="3,150 pairs in 126 folders; papers print 116 and 10 folders, the "
        "authors' rule gives 106 and 20",
        **_SDSD,
    ),
    Dataset(
        name="lolblur",
        title="LOL-Blur, dark and blurred pairs; Zhou et al., ECCV 2022",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 10_200, "test": 1_800},
        image_size=(640, 1120),
        inputs=("low_blur_noise",),
        targets=("high_sharp_scaled",),
        by_scene=True,
        scene=dataset.scene_folder,
        licence="S-Lab License 1.0, non-commercial",
        page="https://shangchenzhou.com/projects/LEDNet/",
        get="download train.zip and test.zip by the links on the official page, and "
        "unpack them",
        unpack="unzip -n train.zip -d {to}; unzip -n test.zip -d {to}",
        citation="S. Zhou, C. Li, C. C. Loy: LEDNet: Joint Low-Light Enhancement and "
        "Deblurring in the Dark, ECCV 2022",
        remarks="the input is low_blur_noise; HVI-CIDNet's authors use low_blur, "
        "which is easier",
        wrappers=("lol_blur", "lol-blur", "lolblur"),
    ),
    Dataset(
        name="lsrw",
        title="LSRW, real pairs of two cameras; Hai et al., 2021",
        splits={
            "train": ("Training data", "train", "training"),
            "test": ("Eval", "test"),
        },
        counts={"train": 5600, "test": 50},
        cameras=("Huawei", "Nikon"),
        licence=_RESEARCH,
        page="https://github.com/JianghaiSCU/R2RNet",
        get="download it by the link on the official page, and unpack it",
        citation="J. Hai, Z. Xuan, R. Yang, Y. Hao, F. Zou, F. Lin, S. Han: R2RNet: "
        "Low-light Image Enhancement via Real-low to Real-normal Network, JVCIR 2023",
        remarks="2,450 and 20 pairs of a Huawei, 3,150 and 30 of a Nikon; Huawei/2273 "
        "is known not to match its reference: list it in exclude.txt",
    ),
    Dataset(
        name="fivek",
        title="MIT-Adobe FiveK, sRGB with expert C; Bychkovsky et al., CVPR 2011",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 4500, "test": 500},
        licence="LicenseAdobe.txt and LicenseAdobeMIT.txt: research, no redistribution",
        page="https://data.csail.mit.edu/graphics/fivek/",
        get="download the sRGB export of Retinexformer's authors "
        "(https://github.com/caiyuanhao1998/Retinexformer), or export the raw files to "
        "input/ and expert C to target/",
        citation="V. Bychkovsky, S. Paris, E. Chan, F. Durand: Learning Photographic "
        "Global Tonal Adjustment with a Database of Input/Output Image Pairs, CVPR "
        "2011",
        remarks="every group exports the raw files differently; scores are comparable "
        "only within one export",
    ),
    Dataset(
        name="sice",
        title="SICE, exposures with a fused reference; Cai et al., TIP 2018",
        splits={"train": ()},
        counts={"train": 4413},
        inputs=("train",),
        targets=("label",),
        by_scene=True,
        shared_target=True,
        scene=dataset.scene_folder,
        get="download both parts by the links on the official page; put the exposures "
        "of each scene into train/SCENE/ and the references into label/",
        remarks="589 scenes; part 1 has 360 of them, part 2 has 229",
        wrappers=("dataset", "sice"),
        **_SICE,
    ),
    Dataset(
        name="sice_grad",
        title="SICE Grad, several exposures in one image, test only; Zheng et al.",
        inputs=("SICE_Grad",),
        wrappers=("sice",),
        **_SICE_TEST,
    ),
    Dataset(
        name="sice_mix",
        title="SICE Mix, several exposures in one image, test only; Zheng et al.",
        inputs=("SICE_Mix",),
        wrappers=("sice",),
        **_SICE_TEST,
    ),
    Dataset(
        name="dicm",
        title="DICM, photos without references; Lee et al., TIP 2013",
        counts={"test": 69},
        citation="C. Lee, C. Lee, C.-S. Kim: Contrast Enhancement Based on Layered "
        "Difference Representation of 2D Histograms, IEEE TIP 2013",
        remarks="copies with 64 and with 44 photos are common too; their scores differ",
        **_PHOTOS,
    ),
    Dataset(
        name="lime",
        title="LIME, photos without references; Guo et al., TIP 2017",
        counts={"test": 10},
        citation="X. Guo, Y. Li, H. Ling: LIME: Low-Light Image Enhancement via "
        "Illumination Map Estimation, IEEE TIP 2017",
        **_PHOTOS,
    ),
    Dataset(
        name="mef",
        title="MEF, photos without references; Ma et al., TIP 2015",
        counts={"test": 17},
        citation="K. Ma, K. Zeng, Z. Wang: Perceptual Quality Assessment for "
        "Multi-Exposure Image Fusion, IEEE TIP 2015",
        **_PHOTOS,
    ),
    Dataset(
        name="npe",
        title="NPE, photos without references; Wang et al., TIP 2013",
        counts={"test": 8},
        citation="S. Wang, J. Zheng, H.-M. Hu, B. Li: Naturalness Preserved "
        "Enhancement Algorithm for Non-Uniform Illumination Images, IEEE TIP 2013",
        remarks="copies with the extensions have 85 photos",
        **_PHOTOS,
    ),
    Dataset(
        name="vv",
        title="VV, photos without references; Vonikakis",
        counts={"test": 24},
        citation="V. Vonikakis, R. Kouskouridas, A. Gasteratos: On the Evaluation of "
        "Illumination Compensation Algorithms, Multimedia Tools and Applications 2018",
        remarks="large photos, tens of megapixels in some copies",
        **_PHOTOS,
    ),
    Dataset(
        name="real_lolblur",
        title="Real-LOL-Blur, dark and blurred photos without references; Zhou et al.",
        counts={"test": 1354},
        citation="S. Zhou, C. Li, C. C. Loy: LEDNet: Joint Low-Light Enhancement and "
        "Deblurring in the Dark, ECCV 2022",
        remarks="482 night photos of RealBlur-J, and 872 of a Sony RX10 IV",
        **_PHOTOS
        | dict(
            licence="S-Lab License 1.0, non-commercial",
            page="https://shangchenzhou.com/projects/LEDNet/",
        ),
    ),
    Dataset(
        name="darkface",
        title="DARK FACE, night photos without references; Yang et al., TIP 2020",
        counts={"test": 6000},
        citation="W. Yang et al.: Advancing Image Understanding in Poor Visibility "
        "Environments: A Collective Benchmark Study, IEEE TIP 2020",
        remarks="the 6,000 photos with public labels; papers use subsets of their own",
        wrappers=("image", "images"),
        **_PHOTOS
        | dict(
            page="https://flyywh.github.io/CVPRW2019LowLight/",
            get="download DarkFace_Train.zip by the link on the official page, and "
            "unpack it",
            unpack="unzip -n DarkFace_Train.zip -d {to}",
        ),
    ),
    Dataset(
        name="lowlight_demo",
        title="Photographs inside scikit-image, darkened by a sensor model",
        splits={"train": ("train",), "test": ("test",)},
        counts={"train": 72, "test": 18},
        image_size=(192, 192),
        licence="photographs: public domain, CC0, Middlebury benchmark 2014",
        page="https://scikit-image.org/docs/stable/api/skimage.data.html",
        get="make it with: llie-jax data prepare lowlight_demo",
        unpack="llie-jax data prepare lowlight_demo",
        scene=dataset.first_part,
    ),
    Dataset(
        name="exposure_pairs",
        title="Scenes with several dark exposures each, no references",
        splits={"train": ()},
        keys=("image", "second"),
        by_scene=True,
        licence="as the sources of the photos state it",
        page="https://github.com/zhenqifu/PairLIE",
        get="the page links to PairLIE's 324 scenes; or make a folder for each "
        "scene, with at least two exposures of one size in it",
        scene=dataset.scene_folder,
    ),
    Dataset(
        name="paired_folder",
        title="Your own pairs: low/ and high/ with the same file names",
        splits=OWN_SPLITS,
        own=True,
        get="give the folder that contains low/ and high/, or train/ and test/ "
        "with low/ and high/ in each",
    ),
    Dataset(
        name="image_folder",
        title="Your own photos, no references",
        splits=OWN_SPLITS,
        keys=("image",),
        own=True,
        get="give the folder that contains the photos, or train/ and test/ with "
        "photos in each",
    ),
)

DATASETS: dict[str, Dataset] = {entry.name: entry for entry in _ENTRIES}


def get(name: str) -> Dataset:
    """Returns the facts of a data set.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in DATASETS:
        raise ValueError(
            f"Unknown data set {name!r}.{messages.suggest(name, DATASETS)} "
            f"Known: {', '.join(DATASETS)}; or give an existing folder."
        )
    return DATASETS[name]


def default_folder() -> pathlib.Path:
    """Returns the folder of all data sets: `$LLIE_JAX_DATA`, or `data`."""
    return files.path(os.environ.get("LLIE_JAX_DATA") or "data")


def default_root(name: str) -> pathlib.Path:
    """Returns a set's default root: `$LLIE_JAX_DATA/<name>` or `data/<name>`."""
    return default_folder() / name


def keys_of(name: str) -> tuple[str, ...]:
    """Returns the images of a set's records; a folder is assumed to contain pairs.

    For plans, which do not read the data.
    """
    known = DATASETS.get(name)
    return known.keys if known else DATASETS["paired_folder"].keys
