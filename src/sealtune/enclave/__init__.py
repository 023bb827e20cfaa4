"""Programs that run inside a trusted execution environment: their mains.

``client``         one for each site: the site's data, the model, the adapter, training
``aggregator``     the server enclave of a federated job
``split_trainer``  the server enclave of a split job

Trust domain: client enclave and server enclave.
"""
