"""DISCOVR on simulated echocardiograms: what `make demo` runs, on two CPU cores.

Command:   python -m discovr_jax.main --config=configs/phantom.py --workdir=runs/demo
Data:      simulated on first use (400 training, 150 validation, 200 test clips; long: 1000, 400, 2000)
Hardware:  2 CPU cores, no accelerator
Arguments: smoke (a minute of training with a few checkpoints), long (`make pretrain-phantom`)
"""

from discovr_jax.configs import base


def get_config(arg: str | None = None):
    args = base.parse_arg(arg, smoke=False, long=False)
    c = base.get_config()
    c.batch_size = 8  # many small steps learn more than few large ones in the same time
    c.duration = "600 steps"

    c.data.data_dir = "data/phantom"
    c.data.simulate.train, c.data.simulate.val, c.data.simulate.test = 400, 150, 200
    c.data.train_filter = "all"
    # One heart beat of small pictures in fine patches: docs/notes/learning.md compares clips.
    c.data.image_size = 48
    c.data.num_frames = 16
    c.data.stride, c.data.stride_jitter = 4, 0.25
    c.data.crop_scales = (1.0,)  # views have crops of their own

    c.model.variant = "custom"
    c.model.width, c.model.depth, c.model.heads = 96, 4, 3
    c.model.decoder_width, c.model.decoder_depth, c.model.decoder_heads = 64, 2, 2
    c.model.patch = 8
    c.model.positions = "factorised"
    c.model.input_normalisation = "clip"
    c.model.dtype = "float32"
    c.model.num_prototypes = 32

    # The image branch learns what moves, from views that differ in crop, brightness and noise (losses/phase.py). A crop
    # per view is what makes it learn contraction, not size: docs/notes/phase.md.
    c.loss.phase = 1.0
    c.loss.amplitude = 3.0  # and the video branch learns by how much (losses/amplitude.py)
    c.head.projector_outputs = 32
    c.views.crop, c.views.gamma, c.views.gain, c.views.attenuation, c.views.noise = 0.6, 0.35, 0.2, 0.4, 0.05
    # The CLS terms make features of so small batches worse (docs/notes/results.md), so they are left out. The rest of
    # their settings serves configs/ablations.py: local views are a quarter of the frame, in one piece, and no centre.
    c.loss.vid = c.loss.img = 0.0
    c.head.hidden, c.head.bottleneck, c.head.outputs, c.head.init = 256, 64, 64, "fan_in"
    c.mask.kind, c.mask.region_fraction, c.mask.image_ratio = "region", 0.25, 0.9
    c.mask.video_views = c.mask.image_views = 1
    c.dino.teacher_temperature = (0.04, 0.04)
    c.dino.centering = "sinkhorn"
    # SCD fills in every second patch.
    c.mask.ratio = 0.5
    c.scd.standardise = "position"  # no position code, and so few prototypes serve
    c.ema.momentum = (0.99, 0.99)  # the teachers, which are scored, stay near their students to the end

    c.optim.lr = 1e-3
    c.optim.warmup = "10 percent"
    c.optim.clip = 3.0
    c.checkpoint.every = "200 steps"
    c.log.every = "20 steps"
    c.eval.map_side = 6  # every patch
    # SCD trains the decoder's tokens, the phase term the CLS tokens of frames.
    c.eval.readouts = (*c.eval.readouts, "decoder_mean_map", "decoder_std_map", "frame_mean", "frame_std")

    # To end soon: one untrained encoder, and of the heads that train for long one training per encoder
    # (docs/evaluation.md has their CPU seconds).
    c.eval.clips, c.eval.random_seeds = 3 if args.long else 1, 1
    c.eval.evaluators.mlp.fields, c.eval.evaluators.attentive.fields = (), () if args.long else ("ef",)
    fit = c.eval.evaluators.attentive.fit
    fit.learning_rates, fit.weight_decays, fit.seeds = (3e-3,), (3.0,), 1

    if args.smoke and args.long:
        raise ValueError("config arguments smoke and long exclude each other")
    if args.long:
        c.duration = "8000 steps"  # with half of them no short feature beats pixels
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

