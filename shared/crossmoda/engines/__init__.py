"""Trainers and handlers that MONAI's engines lack."""
