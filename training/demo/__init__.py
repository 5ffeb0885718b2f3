"""The embedded demo model: drawn scenes, true answers in PromptGen's formats, training and evaluation.

`python -m promptgen.training.demo train --output FOLDER` makes the checkpoint that ships in
`models_cache/demo`; `python -m promptgen.training.demo evaluate` measures it on unseen scenes.
"""
