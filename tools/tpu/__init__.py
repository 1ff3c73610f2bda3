"""The train step ahead of time: compiled for TPUs, run on any PJRT device.

`export_step` and `compile_command` need TensorFlow; `compiler`, `stablehlo`,
`cycles`, `chips` and `run_stablehlo` need JAX or nothing, because they run in
an environment of JAX's own. This module imports neither.
"""
