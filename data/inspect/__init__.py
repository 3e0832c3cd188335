"""`taxomix inspect`: what is wrong with a dataset, found before anyone trains on it.

findings.py     the kinds of finding, their levels and remedies
opening.py      shards or a download, each sample raw: whatever is wrong with it becomes a flaw, nothing is raised
observe.py      one sample to the few numbers that are kept of it
collect.py      one pass over all samples in threads; pictures are dropped as soon as they are observed
lints.py        what the numbers of a whole dataset say; duplicates.py: which pictures are the same
report.py       report.json and the tables on the terminal; plots.py and sheet.py: the pictures
"""
