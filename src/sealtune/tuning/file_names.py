"""Names of tuners' files in an adapter folder; those of LoRA are PEFT's.

Trust domain: client enclave (federated), server enclave (split); whoever received the adapter.
"""

LORA_WEIGHTS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SPF_WEIGHTS, SPF_CONFIG = "spf_model.safetensors", "spf_config.json"
