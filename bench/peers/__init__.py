"""What people use today for the same job, each as a short script that a good user of that tool would write.

    python bench/peers/NAME.py FOLDER MODEL DATABASE

FOLDER holds the images; MODEL is an engine file of a model version, with `labels.txt` beside it; DATABASE is a SQLite
file to be made, with one row for each image in `predictions (path, label, confidence)`. Nothing of tagmill is imported,
as some of these run in environments of their own.
"""
