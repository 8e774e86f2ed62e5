"""Samplers: tables of coefficients (multistep) on a time grid."""
