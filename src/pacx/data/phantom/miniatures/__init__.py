"""Small copies of public data sets, file by file in their layout, with simulated patients in them."""
