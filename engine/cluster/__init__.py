"""Places beyond this machine: runs and captures on engines that exist (Ray, Slurm).

It needs the extra `draftbench[cluster]`; the rest works without. One training on several processes is in `distill/`.

cards            the cards that a run asks for
node             what a node must have in common with the machine that sends work
capture_order    which runs share captures
shared_captures  which runs share captures that are made before them
shared_home      whether a node sees the home, and where it works if not
shared_storage   whether the nodes can see a home
ray_place        Ray as a place: submit, resume, cancel, and the driver's start
ray_connection   addresses of Ray clusters
ray_driver       the driver: places runs, brings results home, survives lost nodes
ray_job          one run, as the driver sees it
node_actor       one run, on its node
worker           the process that does it
transfer         a run folder that comes home while it is worked on
shards_on_ray    the shards of a capture, filled by a Ray cluster
shard_conductor  Ray Data for them, driven inside the cluster
shard_worker     a worker that loads the target once and fills them
slurm_place      Slurm as a place where runs are worked on
slurm_address    its address and a site's options
slurm_jobs       submitting jobs by submitit, asking for them, stopping them
slurm_work       what a job does
slurm_lost       runs whose job is gone
"""
