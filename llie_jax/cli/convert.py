"""`llie-jax convert`: converts official checkpoints and runs to release files."""

import argparse

from llie_jax import files

HELP = "Convert an official PyTorch checkpoint, a run, or a release to a release file."
EXAMPLES = """
  llie-jax convert DarkIR_384.pt darkir.safetensors --trained-on LOL-Blur
  llie-jax convert CHECKPOINT.pt OUT.safetensors --spec '{"dilations": [1, 2, 3, 4]}'
  llie-jax convert init_low.pth unfolding.pth L_adjust.pth uretinex.safetensors
  llie-jax convert vgg19-dcbb9e9d.pth vgg19.safetensors
  llie-jax convert runs/demo darkir_demo.safetensors
  llie-jax convert runs/mobileie mobileie.safetensors --fold

Reading .pt and .pth files needs PyTorch: pip install 'llie-jax[torch]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this subcommand."""
    parser.add_argument(
        "checkpoint",
        nargs="+",
        help="official checkpoint of a model (all its files, in any order), "
        "torchvision's VGG, a run's workdir, or a release file",
    )
    parser.add_argument("out", help="the release file, .safetensors")
    parser.add_argument(
        "--spec",
        metavar="JSON",
        help="the model, or fields that cannot be inferred from the tensors",
    )
    parser.add_argument(
        "--use",
        choices=("ema", "raw"),
        help="which weights to take if there are both: averaged ones, or those of the "
        "last step; default: the averaged ones, with a note",
    )
    parser.add_argument(
        "--key-prefix",
        metavar="PREFIX",
        help="what stands before the model's keys, such as net_g.; by default found",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out keys, such as 'teacher.*'; may be repeated",
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="merge the branches that only training needs into single layers",
    )
    parser.add_argument("--trained-on", default="", help="metadata: the training data")
    parser.add_argument(
        "--selected-on",
        default="",
        metavar="SPLIT",
        help="metadata: what the checkpoint was chosen on, such as 'lol_v1 test'; its "
        "scores there are then marked",
    )
    parser.add_argument(
        "--licence", default="", help="metadata: licence of the weights"
    )
    parser.add_argument(
        "--score", metavar="JSON", help="metadata: scores, metric -> value"
    )
    parser.add_argument("--protocol", default="", help="metadata: protocol of --score")


def run(args: argparse.Namespace) -> None:
    """Converts the checkpoint and prints a summary."""
    from llie_jax.cli import output

    sources = [files.path(source) for source in args.checkpoint]
    out = files.path(args.out)
    if out.suffix != ".safetensors":
        raise ValueError(
            f"The release file must end in .safetensors, not {out.name!r}."
        )
    files.check_output(out, sources)
    facts = {
        "trained_on": args.trained_on,
        "selected_on": args.selected_on,
        "licence": args.licence,
        "protocol": args.protocol,
        "score": output.read_json_argument(args.score, "--score") if args.score else {},
    }
    given = output.read_json_argument(args.spec, "--spec") if args.spec else None

    from llie_jax import convert, messages, weights

    source = sources[0]
    ours = [each for each in sources if each.is_dir() or weights.is_release(each)]
    if ours and len(sources) > 1:
        raise ValueError(
            "A run or a release file is converted alone: give it and the new file, not "
            f"{messages.listed(map(str, sources))}."
        )
    if ours:
        options = ("spec", "use", "key_prefix", "ignore")
        if given := [name for name in options if getattr(args, name)]:
            raise ValueError(
                f"--{given[0].replace('_', '-')} is not for runs and releases; "
                f"{source} records its model."
            )
        known = weights.describe(source)
        model, variables = weights.load(source, step=known["step"] or "best")
        stated = {key: value for key, value in facts.items() if value}
        _save(out, model, variables, {**_recorded(known), **stated}, fold=args.fold)
        return

    parts = [convert.read_checkpoint(file, use=args.use) for file in sources]
    tensors = convert.join_parts(parts)
    facts["source"] = ", ".join(file.name for file in sources)
    facts["source_sha256"] = ", ".join(map(weights.file_sha256, sources))
    if published := weights.recognise(facts["source_sha256"]):
        facts["trained_on"] = facts["trained_on"] or published.trained_on
        facts["licence"] = facts["licence"] or published.licence
    if "features.0.weight" in tensors:
        if args.fold:
            raise ValueError(f"{source} is VGG, which has nothing to fold.")
        _save_vgg(out, tensors, facts)
        return
    model, variables = convert.from_torch(
        tensors,
        given,
        use=args.use,
        key_prefix=args.key_prefix,
        ignore=args.ignore,
    )
    _save(out, model, variables, facts, fold=args.fold)


def _recorded(known) -> dict:
    """Returns the facts that a run or a release file records about its weights."""
    from llie_jax import weights
    from llie_jax.data import mixture
    from llie_jax.evaluation import provenance

    if known["source"] == "run":
        config = weights.RunFolder.of_checkpoint(known["path"]).read_config()
        return {
            "step": known["step"],
            "trained_on": mixture.trained_on(config["data"]),
            "selected_on": provenance.selected_on(config),
        }
    written_anew = ("spec", "llie_jax_version")
    return {k: v for k, v in known["metadata"].items() if k not in written_anew}


def _save(out, model, variables, facts, *, fold) -> None:
    import jax

    from llie_jax import registry, weights

    if fold:
        model, variables = model.fold(variables)
    weights.save(out, registry.spec_of(model), variables, **facts)
    spec = weights.describe(out)["spec"]  # a release may omit parts for training
    _, variables = weights.load(out)
    fields = ", ".join(f"{k}={v}" for k, v in spec.items() if k != "name")
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    print(f"{spec['name']}: {fields}")
    print(f"{size:,} parameters, SHA-256 {weights.file_sha256(out)}")
    print(out)


def _save_vgg(out, tensors, facts) -> None:
    """Writes torchvision's VGG for the perceptual loss."""
    from flax import traverse_util

    from llie_jax import __version__, weights
    from llie_jax.features import vgg

    layouts = {
        sum(vgg.VGG16): ("vgg16", vgg.VGG16),
        sum(vgg.VGG19): ("vgg19", vgg.VGG19),
    }
    convolutions = sum(
        key.startswith("features.") and value.ndim == 4
        for key, value in tensors.items()
    )
    name, layout = layouts.get(convolutions, ("vgg19", vgg.VGG19))
    params = vgg.from_torch(tensors, convolutions=layout)
    flat = traverse_util.flatten_dict({"params": params}, sep="/")
    metadata = {"spec": {"name": name}, "llie_jax_version": __version__, **facts}
    weights.write_safetensors(out, flat, metadata)
    print(f"{name}: {len(flat)} tensors, SHA-256 {weights.file_sha256(out)}")
    print(out)
