"""Scenes: what they are, where they come from, how they are split without leaks and cut into patches.

scene                   the contract, its gate `check_scene`, saving, the hash
nodata, grid            what the gate asks: which values are no-data, where pixels lie, what bands measure
sources                 `open_scene`, by name or path
rasters, labels         GeoTIFF, ENVI and polygons to a scene
windowed                rasters on one grid, read window by window
benchmarks, download    the public data sets
simulate, landscape     the simulated scenes and their imbalance dial
splits, leakage         train, validation and test parts; what a split leaks
patches                 normalised windows around pixels (the one file that needs torch)
"""
