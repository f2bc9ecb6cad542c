"""The stages of applications that forecast series: the same names and the same order as those of images."""
