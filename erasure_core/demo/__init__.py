"""The bundled shapes-world model: its pictures and captions, its training recipe, its weights and its detector."""
