"""What a model is worth: likelihood bounds and measures of samples."""
