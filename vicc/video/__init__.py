"""A video file to arrays: decoding and optical flow."""
