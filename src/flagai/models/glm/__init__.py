"""GLM (Du et al., ACL 2022): the model, its tokenizers, its checkpoints and its pre-training objective.

It knows no trainer, no device mesh and no task.
"""
