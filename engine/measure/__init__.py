"""Measuring a draft: acceptance in every definition, speed, statistics, losslessness."""
