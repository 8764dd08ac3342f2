"""How stored frames reach a network: loading, augmentation, corruptions."""
