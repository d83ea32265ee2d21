"""A simulated echocardiogram with known truth, written in the layouts of the public datasets."""
