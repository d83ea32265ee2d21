"""Every key with its default and one line on what it does. Other configs start from here and only override.

Durations are strings: "400 epochs", "2000 steps", "1e6 examples", "10 percent" (of the run).
Keys that are None by default are placeholders of their type, so that the command line can set them.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder as optional


def by_fidelity(kind: type):
    """None: `config.fidelity` selects the value (the table is in discovr_jax/method/fidelity.py)."""
    return optional(kind)


def get_config() -> ConfigDict:
    c = ConfigDict()
    c.seed = 0  # of weights, masks, data order and augmentation
    c.batch_size = 128  # clips per step, over all devices and processes
    c.gradient_accumulation_steps = 1  # about 20 % slower each, the same result
    c.duration = "400 epochs"  # length of the run
    c.fidelity = "paper"  # "paper", or "reference" (the public code's step); selects the keys `by_fidelity`
    c.init_from = ""  # workdir or converted checkpoint whose weights the run starts from; "" starts anew
    c.max_bad_steps = 3  # non-finite steps in a row before the run stops

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices that share nothing but the batch; -1 takes all that are left
    c.mesh.fsdp = 1  # devices over which the parameters are cut, and the batch too
    c.mesh.model = 1  # devices over which each matrix product is cut
    c.mesh.slices = 1  # TPU slices, or nodes, that the data axis spans; the other two axes stay within one

    c.data = ConfigDict()
    c.data.dataset = "echonet_dynamic"  # builder in tfds_builders/, with "/VARIANT" where it has some
    c.data.mixture = ConfigDict()  # instead, with dataset = "": each dataset's share of the clips (relative numbers)
    c.data.data_dir = "data"  # where `python -m discovr_jax.prepare` wrote the records, or an address of it (s3://...)
    c.data.frame_size = 112  # pixels of the stored frames
    c.data.image_size = 112  # pixels that the model sees
    c.data.num_frames = 64  # frames of a clip
    c.data.stride = 3  # frames from one sampled frame to the next
    c.data.stride_jitter = 0.0  # training clips take a stride that is up to this share longer or shorter
    c.data.target_fps = optional(float)  # sampled frames per second; None: every stride-th
    c.data.train_filter = "normal"  # train on "normal" videos only (the paper) or on "all"
    c.data.abnormal_rule = optional(str)  # what makes a video abnormal: "ef < 50", ... (discovr_jax/data/labels.py);
    # None: the dataset's own rule, of its facts.toml
    c.data.crop_scales = (1.0, 0.875, 0.75, 0.66)  # multi-scale crop, resized back
    c.data.crop = by_fidelity(str)  # its position: "uniform", or one of 13 "anchors" as the public code
    c.data.workers = 2  # loader processes; 0 loads in threads of this one
    c.data.reads = 32  # clips that each of them reads at the same time: they wait for distant storage together
    c.data.simulate = ConfigDict()  # clips per split (and seed) of a phantom to make where records are missing
    c.data.simulate.train = 0
    c.data.simulate.val = 0
    c.data.simulate.test = 0
    c.data.simulate.seed = 0

    c.model = ConfigDict()
    c.model.variant = "b"  # ti, s, b, l, h, g (models/variants.py), or "custom": sizes from the keys below
    c.model.width = 0  # only "custom"
    c.model.depth = 0  # only "custom"
    c.model.heads = 0  # only "custom"
    c.model.mlp_dim = optional(int)  # only "custom": hidden layer of the blocks' MLP; None for 4 x width
    c.model.decoder_width = 0  # only "custom"; the variants take width / 2
    c.model.decoder_depth = 4  # blocks of the decoder
    c.model.decoder_heads = 0  # only "custom"
    c.model.patch = 16  # pixels of a patch side
    c.model.tubelet = 2  # frames of a video patch
    c.model.video_qkv_bias = by_fidelity(str)  # "none" (also the published weights) or "qv" (public code)
    c.model.image_qkv_bias = "none"  # likewise
    c.model.positions = "1d"  # sinusoid of a token's number in the clip, as the public code; or of its patch position
    # along each of the "factorised": a small model learns sooner what lies beside what (docs/notes/learning.md)
    c.model.position_grid = optional(tuple)  # (tubelets, rows, columns) in which positions are counted: the
    # grid of `init_from`'s checkpoint where its clips have another size; None for this run's own grid
    c.model.input_normalisation = "imagenet"  # grey normalisation: "imagenet", or "clip" to standardise each clip
    c.model.motion = "none"  # input of the video encoder: grey; "energy" adds a channel of motion energy, "deviation"
    # also takes the mean frame of the clip away (models/patches.py)
    c.model.dtype = "bfloat16"  # of activations; parameters, softmax, losses and teachers are float32
    c.model.remat = "none"  # what the backward pass recomputes: nothing, all inside "blocks" (least memory), or
    # all but the results of matrix products ("dots")
    c.model.attention = "auto"  # "reference"; "memory_efficient" is faster on a single CPU device and "flash" on GPUs
    # in 16 bits, where "auto" chooses them
    c.model.num_prototypes = 3000  # of SCD; 8 or more per patch of a frame, but few if scd.standardise is "position"

    c.head = ConfigDict()
    c.head.hidden = 2048  # width of the DINO head's two hidden layers
    c.head.bottleneck = 256  # width before the last layer
    c.head.outputs = 16384  # K
    c.head.projector_outputs = 64  # width of the embeddings that `loss.jepa` and `loss.phase` see
    c.head.init = "normal"  # "normal" (0.02) or "fan_in" (for small widths)

    c.mask = ConfigDict()
    c.mask.kind = "tube"  # of the local video views: tube, region, mixed
    c.mask.ratio = 0.9  # masked share of the patches of a frame, video
    c.mask.video_views = 4  # local views of a clip
    c.mask.image_kind = "tube"  # of the image views
    c.mask.image_ratio = 0.9  # masked share, image
    c.mask.image_views = 4  # masked variants of each frame
    c.mask.region_fraction = 0.4  # visible share of a "region" view

    c.views = ConfigDict()  # what a local video view, and a view of `loss.phase`, sees; by default masks alone differ
    c.views.positive = "same"  # clip of the views: the "same" as the teacher's, or every other one of "other_beat"
    c.views.crop = 1.0  # smallest side of a view's own crop, as a share of the frame; 1 for none
    c.views.gamma = 0.0  # largest logarithm of the exponent of brightness
    c.views.gain = 0.0  # standard deviation of the logarithm of the gain
    c.views.attenuation = 0.0  # standard deviation of its slope with depth, and across the sector
    c.views.noise = 0.0  # largest standard deviation of added noise; 1 is white

    c.loss = ConfigDict()  # weights; a term of weight 0 is not computed
    c.loss.vid = 1.0  # video self-distillation
    c.loss.img = 1.0  # image self-distillation
    c.loss.scd = 1.0  # semantic cluster distillation
    c.loss.pix = 0.0  # pixel reconstruction (VideoMAE)
    c.loss.jepa = 0.0  # LeJEPA on CLS of the local video views: they agree, and spread as a Gaussian
    c.loss.phase = 0.0  # LeJEPA on frames less the mean of their clip: what moves (needs `views` that differ)
    c.loss.amplitude = 0.0  # video CLS predicts by how much the image teacher's frames move

    c.dino = ConfigDict()
    c.dino.student_temperature = 0.1
    c.dino.teacher_temperature = (0.04, 0.07)  # first and last
    c.dino.teacher_temperature_warmup = by_fidelity(str)  # linear from the first to the last; 30 epochs
    c.dino.teacher_temperature_every = by_fidelity(str)  # it moves every step, or every epoch
    c.dino.centering = "mean"  # "mean" (EMA centre) or "sinkhorn"
    c.dino.center_momentum = by_fidelity(float)  # 0.9, reference 0.8; 0.99 for small batches
    c.dino.center_start = by_fidelity(str)  # first centre: mean of the first "batch", or "zero" as the public code
    c.dino.center_source = by_fidelity(str)  # "logits", or "softmax" as the public code
    c.dino.image_weight = by_fidelity(str)  # "mean", or "reference": times 256 / frames of the batch
    c.dino.freeze_last = "0 steps"  # no gradient to the heads' last layers at first

    c.scd = ConfigDict()
    c.scd.temperature = 0.1  # of the scores
    c.scd.epsilon = 0.05  # of Sinkhorn-Knopp
    c.scd.iterations = 10  # of Sinkhorn-Knopp
    c.scd.standardise = "frame"  # image teacher tokens: over the "frame", per "position", or "none"
    c.scd.tokens = "all"  # tokens that count: "all" or "masked" (not given to the student)
    c.scd.ignore_static = False  # weight 0 for padded frames and patches without signal
    c.scd.signal_floor = 4.0  # standard deviation in grey levels below which a patch is static
    c.scd.position_momentum = 0.99  # of the mean image token of each patch position, which starts as the first batch's
    c.scd.targets = by_fidelity(str)  # "soft", or "hard" labels as the public code
    c.scd.pairing = by_fidelity(str)  # "aligned": same patch position and time; "reference": as the public code
    c.scd.image_gradient = by_fidelity(bool)  # the image scores' term moves the prototypes: yes, reference no
    c.scd.freeze_prototypes = "0 steps"  # prototypes stay as drawn at first

    c.jepa = ConfigDict()
    c.jepa.sigreg_weight = 0.05  # share of SIGReg; the rest is invariance
    c.jepa.directions = 256  # random directions per step along which the embeddings are compared with a Gaussian

    c.phase = ConfigDict()
    c.phase.sigreg_weight = 0.05  # likewise
    c.phase.directions = 256  # likewise
    c.phase.frames = 8  # frames of a clip that are embedded, evenly spaced

    c.ema = ConfigDict()
    c.ema.momentum = by_fidelity(tuple)  # teacher momentum, first and last (cosine): 0.996, 1; reference 0.99
    c.ema.order = by_fidelity(str)  # teachers move "after" the optimizer, or "before" the forward (reference)

    c.optim = ConfigDict()
    c.optim.lr = optional(float)  # absolute peak rate; takes the place of base_lr where it is set
    c.optim.base_lr = 1.5e-4  # peak rate per 256 clips
    c.optim.image_lr_scale = 1.0  # rate of the image student and its head, as a share of the others'
    c.optim.min_lr = 1e-6  # floor of the cosine
    c.optim.warmup = by_fidelity(str)  # linear from 0; 40 epochs, reference none
    c.optim.decay = by_fidelity(str)  # "cosine" or "constant" after the warm-up
    c.optim.b1 = 0.9
    c.optim.b2 = 0.95
    c.optim.weight_decay = 0.05  # on matrices
    c.optim.no_decay = by_fidelity(str)  # paths (regular expression) that never decay: tokens and prototypes;
    # reference only mask_token
    c.optim.clip = optional(float)  # norm of each branch's gradients; None or 0 for none, 1 to 3 for small batches

    c.checkpoint = ConfigDict()
    c.checkpoint.every = "1000 steps"
    c.checkpoint.keep = 3  # newest checkpoints kept
    c.checkpoint.copy_to = ""  # s3://BUCKET/RUN, gs://BUCKET/RUN: gets a copy of the workdir after each checkpoint
    c.checkpoint.local_dir = ""  # folder on a disk of this machine, for a checkpoint in between; "" for none
    c.checkpoint.local_seconds = 60.0  # from one checkpoint, of either kind, to the next one there

    c.log = ConfigDict()
    c.log.every = "50 steps"  # a line in metrics.jsonl and on the terminal
    c.log.writers = ("tensorboard",)  # besides metrics.jsonl: tensorboard; "wandb" and "mlflow" send to a server
    c.log.project = "discovr_jax"  # project of wandb, experiment of mlflow

    c.eval = ConfigDict()
    c.eval.at_end = True  # score the features and write the report when training ends
    c.eval.every = "0 steps"  # also during training; 0 for never
    c.eval.dataset = optional(str)  # dataset that is scored, the results in `WORKDIR/eval/STEP/DATASET`; None:
    # data.dataset, in `WORKDIR/eval/STEP`
    c.eval.clips = 3  # evenly spaced clips of a video
    c.eval.batch_size = 16  # clips per batch
    c.eval.random_seeds = 3  # untrained encoders of the "random" baseline
    c.eval.readouts = ("cls", "mean", "std_of_mean", "mean_of_std", "mean_map", "std_map", "all")
    # poolings to choose from on validation; "decoder_mean_map" and "decoder_std_map" read the decoder's tokens
    c.eval.map_side = 3  # grid cells along a side of "mean_map" and "std_map", each of the encoder's width
    c.eval.search_rows = 0  # 0: nearest neighbours are exact; else, of more training videos, each is compared with so
    # many, those in the clusters nearest to it (approximate: results.json says which share of the true ones it finds)
    c.eval.resamples = 1000  # of the bootstrap
    c.eval.subgroups = ()  # of the test videos, each scored apart: ("sex", "age_group", "image_quality"), or classes of
    # an archive's own table; at the end only
    c.eval.cross_validation = ConfigDict()  # also the videos of all splits by grouped k-fold, for small archives
    c.eval.cross_validation.folds = 0  # 5, say; 0: none
    c.eval.cross_validation.repeats = 10  # times that other folds are drawn
    c.eval.cross_validation.inner_folds = 3  # of a training part, to choose pooling and penalty on
    c.eval.cross_validation.splits = ("train", "val", "test")  # whose videos
    c.eval.cross_validation.max_videos = 1000  # where there are more it is skipped: one test split serves
    # name -> options, see docs/evaluation.md; with at_end = True it does not run during training (eval.every)
    c.eval.evaluators = ConfigDict()
    c.eval.evaluators.knn = ConfigDict({"k": 10, "temperature": 0.07})
    c.eval.evaluators.anomaly = ConfigDict({"k": 10})
    c.eval.evaluators.probe = ConfigDict({"Cs": (1e-3, 1e-2, 1e-1, 1.0, 10.0)})
    c.eval.evaluators.classes = ConfigDict({"targets": (), "Cs": (1e-3, 1e-2, 1e-1, 1.0, 10.0)})
    # targets: columns of classes, grades or labels that records hold (prepare echo_folder --class_columns); (): all
    c.eval.evaluators.labels = ConfigDict({"fractions": (0.01, 0.05, 0.1, 1.0), "draws": 3, "at_end": True})
    c.eval.evaluators.retrieval = ConfigDict({"at_end": True})
    c.eval.evaluators.transfer = ConfigDict({"source_dataset": "", "at_end": True})  # that heads are fitted on
    c.eval.evaluators.segmentation = ConfigDict({"at_end": True, "heads_used": ("linear", "decoder")})
    c.eval.evaluators.segmentation.max_gib = 6.0  # of tokens, in memory and on disk; where there are more it is skipped
    c.eval.evaluators.segmentation.linear = head(steps=600, batch=32, weight_decays=(1.0, 10.0), learning_rate=1e-2)
    # linear: one layer for every token
    c.eval.evaluators.segmentation.decoder = head(steps=300, batch=16, weight_decays=(1e-2,))  # light, convolutional
    c.eval.evaluators.attentive = ConfigDict({"at_end": True, "heads_of_query": 32, "head_width": 8})
    c.eval.evaluators.attentive.max_gib = 4.0  # likewise
    c.eval.evaluators.attentive.fit = grid(batch=32, weight_decays=(0.3, 3.0))  # see there
    c.eval.evaluators.mlp = ConfigDict({"at_end": True, "widths": (16, 64), "components": 128})  # on pooled features
    c.eval.evaluators.mlp.fit = grid(batch=64, weight_decays=(0.1, 1.0, 10.0))  # likewise
    c.eval.evaluators.pca = ConfigDict({"at_end": True, "components": 512})  # linear heads on so many of every encoder
    c.eval.evaluators.finetune = ConfigDict({"at_end": True, "blocks": (3, -1)})  # the last so many; -1: all
    c.eval.evaluators.finetune.fit = ConfigDict(
        {"steps": 0, "every": 50, "batch": 16, "learning_rate": 1e-3, "layer_decay": 0.75, "weight_decay": 0.05}
    )  # 0 steps: left out
    c.eval.evaluators.reconstruction = ConfigDict({"at_end": True, "batch": 8, "learning_rate": 1e-3, "memory": 200})
    c.eval.evaluators.reconstruction.steps = 0  # of two autoencoders that find anomalies without our encoder; 0: none
    c.eval.evaluators.robustness = ConfigDict({"at_end": True, "perturbations": ()})  # of the test clips, of
    # `KNOWN` in evaluation/features/perturbations.py; each puts the test split through every encoder three times
    measure(c, lvef="ef")  # likewise other measurements, in the configs of their datasets
    return c


def measure(c: ConfigDict, **fields: str) -> None:
    """Evaluators that predict measurements, {name: record field}, in the place of others; labels and the like use the
    first, nonlinear heads all."""
    evaluators = c.eval.evaluators
    for name in [name for name, options in evaluators.items() if options.get("type") == "regression"]:
        del evaluators[name]
    for name, field in fields.items():
        evaluators[name] = regression(field)
    for name in ("labels", "pca", "retrieval", "transfer"):
        evaluators[name].field = next(iter(fields.values()))
    for name in ("attentive", "finetune", "mlp"):
        evaluators[name].fields = ("label", *fields.values())


def regression(field: str) -> ConfigDict:
    """Options of an evaluator that predicts a measurement, a field of `MEASUREMENTS` in evaluation/interface.py."""
    return ConfigDict({"type": "regression", "field": field, "alphas": (1.0, 10.0, 1e2, 1e3, 1e4, 1e5)})


def head(steps: int, batch: int, weight_decays: tuple[float, ...], learning_rate: float = 3e-3) -> ConfigDict:
    """How a head on frozen tokens trains: `HeadOptions` of evaluators/heads.py; validation is looked at 6 times."""
    options = {"steps": steps, "every": steps // 6, "batch": batch}
    return ConfigDict(options | {"learning_rate": learning_rate, "weight_decays": weight_decays})


def grid(batch: int, weight_decays: tuple[float, ...]) -> ConfigDict:
    """How a nonlinear head on frozen features trains, `seeds` times at each point of a grid: `GridOptions` of
    evaluators/grid.py."""
    options = {"steps": 300, "epochs": 10, "batch": batch, "learning_rates": (1e-3, 3e-3)}
    return ConfigDict(options | {"weight_decays": weight_decays, "seeds": 3})


def parse_arg(arg: str | None, **defaults):
    """Typed arguments of a config file: "variant=s,frames=16,smoke" against defaults that give the types.

    Raises:
      ValueError: unknown name, or a value that is not of the default's type.
    """
    values = dict(defaults)
    for part in filter(None, (arg or "").split(",")):
        name, _, text = part.partition("=")
        if name not in defaults:
            known = ", ".join(f"{key} ({type(value).__name__})" for key, value in defaults.items())
            raise ValueError(f"unknown config argument {name!r}; known: {known or 'none'}")
        kind = type(defaults[name])
        if kind is bool:
            if text not in ("", "true", "True", "1", "false", "False", "0"):
                raise ValueError(f"config argument {name}={text!r} is no bool")
            values[name] = text in ("", "true", "True", "1")
        else:
            try:
                values[name] = kind(text)
            except ValueError:
                raise ValueError(f"config argument {name}={text!r} is no {kind.__name__}") from None
    return ConfigDict(values)
