"""SPF, sparsification parameter fine-tuning: tune whole attention heads, a few of each block.

    from sealtune.tuning.spf import SPFConfig, apply_spf, merge_spf, save_spf

    model = AutoModelForCausalLM.from_pretrained(...)         # any decoder of Hugging Face's
    apply_spf(model, SPFConfig(qkv=0.25, dense=0.25))         # only the chosen slices are trainable
    ...                                                       # train as ever
    save_spf(model, folder)                                   # spf_config.json + safetensors
    merge_spf(model)                                          # a plain model again

Of each block, heads are ranked (by default by the L1 norm of their own weights); the rows of the
best share ``qkv`` in the query, key and value projections and the columns of the best share
``dense`` in the output projection become trainable, each as a ``delta`` on the frozen weight. No
gradient or optimizer state of any other size exists. Source: arXiv 2401.09796, section on SPF.

With LoRA, call ``peft.get_peft_model`` first and ``apply_spf`` on what it returns.

Trust domain: server enclave (Method 2); nothing of sealtune's is needed to use it.
"""

from sealtune.tuning.spf.apply import apply_spf, chosen_heads, merge_spf
from sealtune.tuning.spf.config import SPFConfig
from sealtune.tuning.spf.files import load_spf, read_spf_config, save_spf

__all__ = [
    "SPFConfig",
    "apply_spf",
    "chosen_heads",
    "load_spf",
    "merge_spf",
    "read_spf_config",
    "save_spf",
]
