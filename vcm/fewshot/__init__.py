"""Few-shot evaluation: how well a task is learned from a handful of labelled scans, with intervals.

The stories lie here: `study`, `fitting` (finetune and embed), `batch` (predict and evaluate), `example`. The rooms:
`cases` (tasks, their scans and the shots), `methods` (what is fitted to shots), `pretraining` (of an encoder),
`container` (what a challenge takes), `comparison` (measures, intervals, ranks, pages).
"""
