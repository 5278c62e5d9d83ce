"""The trial: a towered batch-norm CNN, on TensorFlow and NumPy. Knows nothing of sweeps, Ray or Optuna."""
