"""Pictures of what models compute: features on the sphere, attention, symmetry."""
