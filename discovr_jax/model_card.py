"""The model card of an encoder that is passed on: README.md with the Hub's metadata, from results.json and config.

What an encoder was trained on, and under which licence it is given away, is not known here: it is asked for.
"""

import json
from collections.abc import Mapping
from typing import Any

from discovr_jax.evaluation import results as results_lib
from discovr_jax.evaluation.fitted_heads import RESEARCH_USE
from discovr_jax.evaluation.report import display_names, scores, table
from discovr_jax.losses.terms import TERMS

TAGS = ("echocardiography", "ultrasound", "video", "self-supervised-learning", "jax")
SIMULATED = "Simulated hearts only: this encoder has never seen a real heart, and no figure below is of one."
_BASELINES = {"random": "untrained", "pixels": "pixels", "mean_mask": "mean mask"}


def text(
    repository: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any] | None,
    *,
    licence: str,
    data: str,
    heads: bool,
) -> str:
    """Markdown of the card.

    Args:
      repository: OWNER/NAME.
      config: of the training, as a checkpoint holds it.
      results: content of the results.json of these weights; None where they were not evaluated.
      licence: the Hub's identifier ("cc-by-nc-4.0"); data: what the encoder was trained on, in prose.
      heads: whether the fitted heads come along.
    """
    simulated = is_simulated(config)
    parts = [
        _metadata(licence, simulated),
        f"# {repository.partition('/')[2]}",
        f"**{RESEARCH_USE}**" + (f" **{SIMULATED}**" if simulated else ""),
        "An encoder of echocardiography (heart ultrasound) video, trained without labels by the Python package "
        "`discovr_jax`. It turns a video into one vector of features.",
        "## Use",
        _use(repository, heads),
        "## Intended use",
        "Research on representations of echocardiography: features for classification, regression, retrieval or "
        "segmentation that are evaluated on data of your own before anything is concluded from them. Not for "
        "diagnosis, not for decisions about patients, not for finding out who a patient is. Videos of another "
        "scanner, view, population or preparation than those of the training may give features that mean nothing.",
        "## Data",
        data.strip(),
        *([SIMULATED] if simulated else []),
        "## Figures",
        *(_figures(results, simulated) if results else ["These weights were not evaluated."]),
        "## Training",
        _training(config, results),
        "## Licence",
        f"`{licence}` for the weights" + (" and the fitted heads." if heads else "."),
    ]
    return "\n\n".join(parts) + "\n"


def is_simulated(config: Mapping[str, Any]) -> bool:
    """Whether the records are a phantom's, by what the config asks to be simulated."""
    counts = config["data"].get("simulate", {})
    return any(counts.get(split) for split in ("train", "val", "test"))


def _metadata(licence: str, simulated: bool) -> str:
    """YAML, whose strings may be JSON's."""
    tags = [*TAGS, *(["simulated-data"] if simulated else [])]
    lines = [f"license: {json.dumps(licence)}", "library_name: discovr_jax", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---"])


def _use(repository: str, heads: bool) -> str:
    lines = [
        "```python",
        "import discovr_jax  # pip install 'discovr_jax[hub]'",
        "",
        f'encoder = discovr_jax.load_encoder("hf:{repository}")  # add @COMMIT to get these very weights again',
        "features = encoder.embed(frames, fps=50)  # uint8 [T, H, W] -> float32 [D]",
        *(["prediction = encoder.predict(frames, fps=50)  # for research use only"] if heads else []),
        "```",
    ]
    without = "Give the ultrasound sector alone (`discovr_jax.data.sector.isolate_video`)."
    if heads:
        return "\n".join([*lines, "", f"{without} The fitted heads hold the features and ids of all training videos."])
    return "\n".join([*lines, "", f"{without} The fitted heads are not part of this repository."])


def _figures(results: Mapping[str, Any], simulated: bool) -> list[str]:
    """What the figures are of, a table of them, and how to read it."""
    encoders, rows = results["encoders"], []
    for key, name, digits in table.that_matter(results):
        entry = encoders.get(results_lib.STUDIED, {}).get(key)
        if not entry:
            continue
        better = display_names.described(results, key).larger_is_better
        beside, differences = [], []
        for baseline in table.baselines(results, key):
            called = _BASELINES[baseline]
            beside.append(f"{called} {table.with_interval(encoders[baseline][key], digits)}")
            pair = results["paired"].get(f"{results_lib.STUDIED}-{baseline}", {}).get(key)
            if pair:
                shown = table.with_interval(pair, digits, signed=True)
                differences.append(f"to {called} {shown}, {scores.verdict(pair, better)}")
        rows.append([name, table.with_interval(entry, digits), "<br>".join(beside), "<br>".join(differences)])
    patients = f" of {results['n_test_patients']} patients" if "n_test_patients" in results else ""
    source = f"simulated in the layout of `{results['dataset']}`" if simulated else f"from `{results['dataset']}`"
    scored = (
        f"Frozen features, small heads fitted on labelled training videos; {results['n_test']} test videos{patients} "
        f"{source}, abnormal by the rule `{results['label_rule']}`; in brackets the {results['interval']}."
    )
    if not rows:
        return [scored, "No figure could be computed."]
    missing = [called for name, called in _BASELINES.items() if name in ("random", "pixels") and name not in encoders]
    chosen = _chosen(results)
    notes = [
        "Differences are paired over the same patients; where their interval holds 0 they are unclear.",
        *([f"Not scored beside it: {' and '.join(missing)}."] if missing else []),
        *([f"Pooling that validation chose: {chosen}."] if chosen else []),
        f"Seeds: {results.get('seeds', {}).get(results_lib.STUDIED, 1)} of the training.",
    ]
    head = ["", "this encoder", "baselines", "difference"]
    return [scored, table.markdown([head, *rows]), " ".join(notes)]


def _chosen(results: Mapping[str, Any]) -> str:
    parts = {
        part: entry["encoders"][results_lib.STUDIED].get("chosen")
        for part, entry in results["readouts"].items()
        if results_lib.STUDIED in entry.get("encoders", {})
    }
    return ", ".join(f"`{pooling}` ({part})" for part, pooling in parts.items() if pooling)


def _training(config: Mapping[str, Any], results: Mapping[str, Any] | None) -> str:
    model, data = config["model"], config["data"]
    custom = model["variant"] == "custom"
    size = f"width {model['width']}, depth {model['depth']}" if custom else f"ViT-{model['variant']}"
    terms = [f"{TERMS[name].label} {config['loss'][name]:g}" for name in TERMS if config["loss"].get(name)]
    seen = f" ({results['clips_seen']} clips seen)" if results and "clips_seen" in results else ""
    started = " It started from other weights, which are not named here." if config.get("init_from") else ""
    return (
        f"Network: {size}, patches of {model['patch']} pixels in {model['tubelet']} frames. Clips: "
        f"{data['num_frames']} frames at stride {data['stride']}, {data['image_size']} x {data['image_size']} pixels. "
        "Duration: "
        f"{config['duration']} of {config['batch_size']} clips per step{seen}. Loss terms with their weights: "
        f"{', '.join(terms) or 'none'}.{started} Every setting is in `config.json`; folders are withheld."
    )
