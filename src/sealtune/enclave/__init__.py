"""Programs that run inside a trusted execution environment.

``client``      one per site: the site's data, the model, the adapter, training
``aggregator``  one: averages the sites' adapters, round after round

Both are state machines of bytes in and bytes out (``client_program``, ``sealtune.methods``) with
a thin process around them. The aggregator needs neither torch nor a model.

Trust domain: client enclave and server enclave.
"""
