"""CardioBench (arXiv 2510.00520): prediction files in its own form, for its own scripts, from an evaluation of ours.

Written from its repository, github.com/BioMedIA-MBZUAI/CardioBench, commit e0bc185.
"""
