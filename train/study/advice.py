"""The smallest change that lets a training step fit, found by compiling what might."""
