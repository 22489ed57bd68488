"""Whether credits of layers agree with what happens when the layers are taken out."""
