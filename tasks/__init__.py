"""Prefect tasks, one file per stage: inputs in, evidence logged, a small typed result out."""
