"""Engine: a graph compiled by TensorRT, from the process that builds it to what runs it.

    request         what to build, and what the child reports, as JSON
    build_child     the child process: parse, build, write (imports tensorrt or tensorrt_rtx)
    build           the parent: spawn, watch, stop, explain
    products, proof in which type each convolution and matrix product was compiled
    manifest        what an engine is and where it may be loaded, checked before it is
    compiler        all of the above in order: a graph in, a proven engine out

    cuda            the few CUDA calls that are needed, as Protocols
    slot, runner    batches in, logits out, over any `cuda`
    pycuda_memory   the `cuda` of a GPU (imports pycuda)
    host            the `cuda` of machines without one, for tests of the runner
    session         an engine file, checked and opened on a CUDA device

``tensorrt`` and ``tensorrt_rtx`` have one API, so everything here serves both.
"""
