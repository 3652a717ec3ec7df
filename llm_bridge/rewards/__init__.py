"""Reward models: linear heads with confidence sets, trained trunks, ensembles, calibration."""
