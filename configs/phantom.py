"""DISCOVR on simulated echocardiograms: what `make demo` runs, on two CPU cores.

Command:   python -m discovr_jax.main --config=configs/phantom.py --workdir=runs/demo
Data:      simulated on first use (400 training, 150 validation, 200 test clips; long: 1000, 400, 2000)
Hardware:  2 CPU cores, no accelerator
Arguments: smoke (a minute of training with a few checkpoints), long (`make pretrain-phantom`), views (the recipe under
           trial of docs/notes/learning.md: LeJEPA on views of their own, motion as input; not scored yet, and slower)
"""

from discovr_jax.configs import base


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, smoke=False, long=False, views=False)
    c = base.get_config()
    c.batch_size = 16
    c.duration = "300 steps"

    c.data.data_dir = "data/phantom"
    c.data.simulate.train, c.data.simulate.val, c.data.simulate.test = 400, 150, 200
    c.data.train_filter = "all"
    # One heart beat of small pictures in fine patches: docs/notes/learning.md compares clips.
    c.data.image_size = 48
    c.data.num_frames = 16
    c.data.stride = 3

    c.model.variant = "custom"
    c.model.width, c.model.depth, c.model.heads = 96, 4, 3
    c.model.decoder_width, c.model.decoder_depth, c.model.decoder_heads = 64, 2, 2
    c.model.patch = 8
    c.model.positions = "factorised"
    c.model.input_normalisation = "clip"
    c.model.dtype = "float32"
    c.model.num_prototypes = 32

    c.head.hidden, c.head.bottleneck, c.head.outputs, c.head.init = 256, 64, 64, "fan_in"
    # SCD fills in every second patch; the local view is a quarter of the frame, in one piece.
    c.mask.ratio, c.mask.image_ratio = 0.5, 0.9
    c.mask.kind, c.mask.region_fraction = "region", 0.25
    c.mask.video_views = c.mask.image_views = 1
    # A batch of 16 clips is told apart by shortcuts, so the CLS terms weigh next to nothing beside SCD.
    c.loss.vid = c.loss.img = 0.01
    c.scd.standardise = "position"  # no position code, and so few prototypes serve
    c.dino.teacher_temperature = (0.04, 0.04)
    c.dino.centering = "sinkhorn"  # a centre cannot follow batches of 16 clips: see docs/notes/learning.md
    c.ema.momentum = (0.99, 0.99)  # the video teacher, which is scored, stays near its student to the end

    c.optim.lr = 3e-3
    # An image teacher that moves fast takes the targets of SCD with it: docs/notes/learning.md
    c.optim.image_lr_scale = 0.01
    c.optim.warmup = "10 percent"
    c.optim.clip = 3.0
    c.checkpoint.every = "100 steps"
    c.log.every = "10 steps"
    c.eval.map_side = 6  # every patch
    c.eval.readouts = (*c.eval.readouts, "decoder_mean_map", "decoder_std_map")  # SCD trains the decoder's tokens

    if args.views:
        views(c)
    if args.smoke and args.long:
        raise ValueError("config arguments smoke and long exclude each other")
    if args.long:
        c.duration = "3000 steps"
        c.data.data_dir = "data/phantom_long"
        # So many test clips, because gains of 0.01 in AUROC are to be told from none.
        c.data.simulate.train, c.data.simulate.val, c.data.simulate.test = 1000, 400, 2000
        c.checkpoint.every = "250 steps"
        c.log.every = "50 steps"
    if args.smoke:
        c.duration = "60 steps"
        c.data.data_dir = "data/phantom_smoke"
        c.data.simulate.train, c.data.simulate.val, c.data.simulate.test = 64, 32, 48
        c.checkpoint.every = "20 steps"
        c.log.every = "5 steps"
    return c


def views(c) -> None:
    """Views that differ in beat, crop, brightness and noise: what they share is how the heart moves."""
    c.data.stride, c.data.stride_jitter = 4, 0.25
    c.data.crop_scales = (1.0,)  # the views have crops of their own
    c.model.motion = "deviation"  # what does not move tells patients apart, not how their hearts beat
    c.mask.ratio, c.mask.image_ratio = 0.5, 0.5
    c.mask.region_fraction = 0.75
    c.mask.video_views = 3
    c.views.positive, c.views.crop = "other_beat", 0.6
    c.views.gamma, c.views.gain, c.views.attenuation, c.views.noise = 0.35, 0.2, 0.4, 0.05
    c.loss.jepa = 1.0
    c.loss.vid = c.loss.img = c.loss.scd = 0.1
    c.optim.lr, c.optim.image_lr_scale = 1e-3, 0.1
