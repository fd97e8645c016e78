"""The jobs: the only place where imaging, nets and diffusion meet."""
