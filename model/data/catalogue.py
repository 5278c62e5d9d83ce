"""The built-in data sets' names, for those who only want to list them. Imports nothing."""

DATASETS = {
    "digits": "scikit-learn's 1,797 scanned digits, 8x8x1, 10 classes; real images, nothing to download",
    "synthetic": "class prototypes, smoothed and shifted, plus noise; any number of classes, size and seed",
    "cifar10": "60,000 photographs, 32x32x3, 10 classes; from the folder of the binary version, or by Keras",
    "cifar100": "60,000 photographs, 32x32x3, 100 classes; from the folder of the binary version, or by Keras",
    "npz": "images of your own: a NumPy archive with x, y and optionally x_eval, y_eval, x_test, y_test",
}
