"""Weights of other projects, in and out. Every format is one module; none is trusted with running code.

files.py        a file's tensors, read without running anything
lora.py         PEFT's adapters, merged
timm.py  mae.py  authors.py  huggingface.py
                one kind of file each: its names, what it states, what its users take for granted
hub.py          `timm:NAME` and `hf-hub:OWNER/NAME`
names.py        taking a plain ViT out, name by name; refusing what is more or less than one
network.py      settling what a file leaves open; making our encoder
positions.py    position tables for other image sizes
source.py       telling the formats apart
export.py       out again: timm's and Hugging Face's layouts
"""
