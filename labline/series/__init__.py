"""Series: declaration, data set, windows, the forecaster, baselines and their statistics."""
