"""Places beyond this machine: runs, captures and trainings on engines that exist (Ray, Slurm, torch.distributed).

Everything here needs the extra `draftbench[cluster]`, and nothing else needs anything here.

shared_captures  which runs share captures that are made before them
shared_storage   whether the nodes can see a home
slurm_place      Slurm as a place where runs are worked on
slurm_address    its address and a site's options
slurm_jobs       submitting jobs by submitit, asking for them, stopping them
slurm_work       what a job does
slurm_lost       runs whose job is gone
"""
