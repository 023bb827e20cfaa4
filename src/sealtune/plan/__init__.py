"""The slice plan: which module of a model runs where; and the int8 backbone that it names."""
