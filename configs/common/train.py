"""How a run goes, whatever the model: the schema of ``train``. Keys that are not here are errors (see ``extra``).

A duration is a number of iterations (``5000``) or of epochs in quotes (``"12ep"``, ``"0.5ep"``).
"""

train = {
    # Logs, config.yaml, metrics.json, TensorBoard events and checkpoints go here.
    "output_dir": "./output",
    # Weights to start from: a path, an http(s):// URL or detectron2://...; "" starts from scratch.
    "init_checkpoint": "",
    "checkpoint": {
        # Fail on missing, unexpected or mismatched parameters.
        "strict": True,
        # ... except those whose names match one of these regular expressions: they are reinitialized, and listed.
        "reinit": [],
    },
    # Parts of the model that are not trained, by name: "backbone", "transformer.encoder". They stay in evaluation mode.
    "freeze": [],
    # "auto" is the GPU if there is one, else the CPU.
    "device": "auto",
    # Below 0: another seed each time, printed in the log. On the CPU a seed makes a run repeat bit by bit.
    "seed": -1,
    # Durations.
    "max_iter": "50ep",
    "warmup": 0,
    "eval_period": "1ep",  # 0: only after the last iteration
    "log_period": 20,
    # On a terminal, a live line below the log: iteration, loss, AP, speed, time left, memory.
    "progress_line": True,
    # period 0: only model_final.pth. best: the metric whose best weights are kept as model_best.pth; "": none.
    "checkpointer": {"period": "1ep", "max_to_keep": 5, "best": "bbox/AP"},
    # The batch that optimizer.lr goes with, and how it follows the run's: "none" (not at all), "linear" or "sqrt".
    "lr_scaling": {"rule": "none", "base_batch_size": 16},
    # Before the first step, one of the largest size that the config can produce; logs its peak memory.
    "dry_run": False,
    # For dataloader.train.total_batch_size=auto, in one process: the largest batch; on a CPU, the process's memory.
    "auto_batch_size": {"max": 64, "cpu_memory_gib": 4.0},
    # Parts that a process works through its share of a batch in, one after the other: less memory, the same update.
    "accumulate": 1,
    # An exponential moving average of the weights. It is what evaluations see, and is saved as *_ema.pth.
    "ema": {"enabled": False, "decay": 0.9997},
    # patience: number of evaluations in a row without an improvement of checkpointer.best by more than min_delta, after
    # which the run ends; 0 never ends it.
    "early_stopping": {"patience": 0, "min_delta": 0.0},
    # At the end, a run as one HTML page: output_dir/report.html (detrex report).
    "report": True,
    # Maximum number of consecutive non-finite steps to skip, their batches saved, before aborting.
    "max_skips": 0,
    # Mixed precision: "bfloat16", or "float16" with loss scaling. Matching and losses stay in float32.
    "amp": {"enabled": False, "dtype": "bfloat16"},
    "clip_grad": {"enabled": True, "params": {"max_norm": 0.1, "norm_type": 2}},
    # Optimizations (detrex.inference.optimizations) change results only by rounding: "all", "none" or a list of names.
    # onednn_linear: where that optimization takes effect: "auto" (by the processor, the same in every run), "always" or
    # "measure" (whatever is faster when the run starts). The choice is kept in checkpoints.
    # keep_freed_memory: on CPUs, the process holds up to 1.5 times its peak and spends no time on fresh pages.
    "optimizations": {"training": "all", "evaluation": "all", "onednn_linear": "auto", "keep_freed_memory": True},
    # Arguments of torch's DistributedDataParallel.
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
    # FSDP2 instead of DistributedDataParallel: weights, gradients and optimizer state are spread over the processes.
    # Each module of these classes is gathered when it computes. Checkpoints are the same; not with float16 or ema.
    "fsdp": {
        "enabled": False,
        # Blocks of Swin: upstream's name and detectron2_lite's.
        "units": ["SwinTransformerBlock", "Block", "DeformableEncoderLayer", "DeformableDecoderLayer"],
    },
    # Seconds after which a job of several processes that stands still is brought down, and the process named that did
    # not go on. Longer than the longest wait for another one: an evaluation's end, a checkpoint, a slow data set.
    "dist_timeout": 1800,
    # A rehearsal: a few iterations, then an evaluation of a few batches.
    "fast_dev_run": {"enabled": False, "max_iter": 8, "eval_batches": 4},
    "cudnn_benchmark": False,
    # "" leaves torch's default; "highest", "high" (TF32) or "medium": torch.set_float32_matmul_precision.
    "float32_precision": "",
    # Hooks of your own (detectron2.engine.HookBase), as LazyCalls: they run after the evaluation, before the writers.
    "hooks": [],
    # Values of your own; nothing here reads them.
    "extra": {},
}
