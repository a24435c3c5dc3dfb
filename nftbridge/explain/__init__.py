"""Follows one packet hook by hook and says which rule decides, and what to write instead.

`question` is the packet as asked about, `way` follows it, `names` knows who is who in the model,
`sentences` has the words for every rule, `outcome` the one sentence at the end, `show` the lines.
All of that needs the model alone; `live` and `users` ask what the kernel holds now.
"""
