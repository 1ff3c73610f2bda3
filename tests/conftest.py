"""One TensorFlow for all tests, with four logical CPU devices."""

from tokendrop_tf import command_line  # noqa: F401, I001  (quiet start)
import tensorflow as tf

# Before the first operation: devices cannot change after it.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0],
    [tf.config.LogicalDeviceConfiguration() for _ in range(4)])
