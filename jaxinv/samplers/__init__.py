"""Samplers: tables of multistep coefficients on a time grid."""
