"""Secure aggregation: a server learns the sum of the sites' vectors, and nothing else of them.

SecAgg+ (Bell et al., CCS 2020, arXiv per IACR ePrint 2020/704), which is the protocol of Bonawitz
et al. (CCS 2017, ePrint 2017/281) on a sparser graph, with the latter's consistency check for a
server that does not keep to the rules. Bytes in, bytes out: who carries them is elsewhere.

    site (``member``)             server (``collector``)
    one-round keys, signed    ->  the roster, to all
    sealed shares of secrets  ->  each neighbour its own
    masked vector             ->  the running sum; who survived, to all
    signature over survivors  ->  the signatures, to all
    shares                    ->  masks come off the sum

Trust domain: data owner (member), server operator (collector).
"""
