"""From a folder of scans to a training set, and label maps of scans."""
