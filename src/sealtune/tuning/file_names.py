"""Names of tuners' files in an adapter folder; those of LoRA and P-tuning are PEFT's.

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SPF_WEIGHTS, SPF_CONFIG = "spf_model.safetensors", "spf_config.json"
PTUNING_WEIGHTS, PTUNING_CONFIG = "ptuning_model.safetensors", "ptuning_config.json"
