"""What a trained model can be finetuned to: one table, one class a finetune, one loop for all."""

from md4jax.options import Table

FINETUNES = Table(
    "finetune",
    {
        "none": "md4jax.finetuning.base:Nothing",
        "mmd": "md4jax.finetuning.mmd:MMD",
        "remasker": "md4jax.finetuning.remasker:Remasker",
    },
)
