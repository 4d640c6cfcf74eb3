"""Excitations that no electrode gave: synergies, expectations, and what measured moments ask for."""
