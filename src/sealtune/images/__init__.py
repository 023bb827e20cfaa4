"""Machine images: kernel and one initial file system that hold one program and nothing else.

    build(lock, "aggregator", folder)      two builds of one lock are equal, byte for byte
    Image.read(folder)                     what is in one, every file by hash
    boot(folder, local)                    runs one in QEMU

Trust domain: operator (untrusted); ``init`` runs inside, before the program.
"""
