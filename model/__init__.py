"""The trial: a towered batch-norm CNN, on TensorFlow and NumPy. Knows nothing of sweeps, Ray or Optuna."""

import os
import platform

# TensorFlow's start-up remarks on CPUs and missing CUDA drivers say nothing about a trial; its errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# By itself TensorFlow takes oneDNN's kernels only where the CPU has instructions for neural networks. They are as
# fast or faster without (decision 17); elsewhere than on x86 nobody has measured it. TensorFlow reads this once.
if platform.machine().lower() in ("x86_64", "amd64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
