"""Which method fits a job, and where to cut: estimates of memory, bytes, hours and cost.

    shape = read_shape(job, len(labels) or None)       # the model on the meta device, no weights
    counts = count_data(job, labels, shape)            # rows and tokens of the job's files
    equipment = take_stock(job.equipment, shape)       # stated in the job, or probed
    options = estimate(job, shape, counts, equipment)  # every method, every cut of a grid
    advice = choose(options, job, equipment)           # the best of them, and why

Every figure is an estimate; ``benchmarks/advise.py`` holds them against measured runs.

Trust domain: operator or data owner, before a run; public structure and counts only.
"""
