"""What a recipe will take before it is run: disk, memory, arithmetic, and so hours on a GPU.

All of it is computed from the steps' arguments: rows from the cards of the data sets or from stores that are there,
bytes from shapes, arithmetic from the formulas of `pacx.models.flops`. Nothing is looked up that was measured, except
the peak of a GPU in its maker's data sheet; what share of the peak is reached is for the user to say.

`volumes` counts stores, `networks` parameters and activations; `trainings` and `judging` count what commands take,
`steps` says which is which, `known` what earlier steps leave behind; `gpus` has the hours, `table` what is printed.
"""
