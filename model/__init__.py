"""The trial: a towered batch-norm CNN, on TensorFlow and NumPy. Knows nothing of sweeps, Ray or Optuna."""

import os

# TensorFlow's start-up remarks on CPUs and missing CUDA drivers say nothing about a trial; its errors stay.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
