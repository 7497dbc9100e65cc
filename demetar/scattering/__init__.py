"""Solid harmonic wavelet scattering: invariants of molecules for a linear regression.

Source: Eickenberg, Exarchakis, Hirn, Mallat, Thiry 2018, arXiv 1805.00571, and 2017,
"Predicting Quantum Molecular Energy from Invariant Descriptors of 3D Electronic
Densities".
"""
