"""The built-in data sets' names, for those who only want to list them. Imports nothing."""

DATASETS = {
    "digits": "scikit-learn's 1,797 scanned digits, 8x8x1, 10 classes; real images, nothing to download",
    "synthetic": "class prototypes, smoothed and shifted, plus noise; any number of classes, size and seed",
}
