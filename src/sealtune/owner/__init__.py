"""What runs on a data owner's own machine in a split job: the frozen first blocks of the model.

``site``       a process for the run: answers the server enclave with cut activations
``inference``  answers for texts, through the split, after the run

No TEE is needed here: the machine is the owner's, and so is the text. Activations leave it sealed
for the attested server enclave alone.

Trust domain: data owner.
"""
