"""Diffusion processes: the mathematics, one file a kind. See `base.py` for the protocol."""

from md4jax.options import Table

PROCESSES = Table(
    "process",
    {
        "masked": "md4jax.processes.masked:Masked",
        "genmd4": "md4jax.processes.genmd4:GenMD4",
        "uniform_state": "md4jax.processes.uniform_state:UniformState",
        "gaussian": "md4jax.processes.gaussian:Gaussian",
        "vdm": "md4jax.processes.vdm:VDM",
        "star_beta": "md4jax.processes.star.beta:StarBeta",
        "star_categorical": "md4jax.processes.star.categorical:StarCategorical",
        "star_dirichlet": "md4jax.processes.star.dirichlet:StarDirichlet",
        "star_gamma": "md4jax.processes.star.gamma:StarGamma",
        "star_gaussian": "md4jax.processes.star.gaussian:StarGaussian",
        "star_von_mises": "md4jax.processes.star.von_mises:StarVonMises",
        "star_von_mises_fisher": "md4jax.processes.star.von_mises_fisher:StarVonMisesFisher",
        "star_wishart": "md4jax.processes.star.wishart:StarWishart",
    },
)
