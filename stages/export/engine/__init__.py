"""Engine: a graph compiled by TensorRT, from the child process that builds it to the runner that feeds it.

    request        what to build, as a JSON file
    build_child    the child process: parse, build, write            (imports tensorrt or tensorrt_rtx)
    build          the parent: spawn, watch, stop, explain
    proof          in which type each convolution and matrix product was compiled, from the builder's log
    manifest       what an engine is and where it may be loaded, checked before it is
    cuda           the few CUDA calls that are needed, as a Protocol
    runner         batches in, logits out, over any `cuda`
    session        an engine file opened on a CUDA device            (imports pycuda)

``tensorrt`` and ``tensorrt_rtx`` have one API, so everything here serves both.
"""
