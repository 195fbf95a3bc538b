"""What `prepare_data.py` does: data sets from where they are published, or from local copies.

A recipe says what a data set is, where it comes from, and how its source is cut into pieces that
can be read apart from each other. `run.py` reads them, each once however often it is interrupted,
and `builder.py` writes the examples as tensorflow-datasets has them; `data/prepared.py` reads them
in training.
"""

from md4jax.options import Table

RECIPES = Table(
    "data",
    {
        "mnist": "md4jax.data.prepare.mnist:Mnist",
        "cifar10": "md4jax.data.prepare.cifar10:Cifar10",
        "downsampled_imagenet64": "md4jax.data.prepare.imagenet:DownsampledImagenet64",
        "imagenet_resized64": "md4jax.data.prepare.imagenet:ImagenetResized64",
        "imagenet2012_64": "md4jax.data.prepare.imagenet:Imagenet2012At64",
        "celeba64": "md4jax.data.prepare.celeba:Celeba64",
        "lsun_bedroom": "md4jax.data.prepare.image_folder:LsunBedroom",
        "lsun_church": "md4jax.data.prepare.image_folder:LsunChurch",
        "image_folder": "md4jax.data.prepare.image_folder:ImageFolder",
        "image_arrays": "md4jax.data.prepare.image_arrays:ImageArrays",
        "text8": "md4jax.data.prepare.one_text:Text8",
        "enwik8": "md4jax.data.prepare.one_text:Enwik8",
        "tiny_shakespeare": "md4jax.data.prepare.one_text:TinyShakespeare",
        "text": "md4jax.data.prepare.one_text:OneText",
        "wikitext2": "md4jax.data.prepare.wikitext:Wikitext2",
        "openwebtext": "md4jax.data.prepare.documents:OpenWebText",
        "fineweb_edu": "md4jax.data.prepare.documents:FinewebEdu",
        "documents": "md4jax.data.prepare.documents:Documents",
        "earth_events": "md4jax.data.prepare.earth:Events",
        "earth_fire": "md4jax.data.prepare.earth:Fire",
        "earth_flood": "md4jax.data.prepare.earth:Flood",
        "earth_earthquake": "md4jax.data.prepare.earth:Earthquake",
        "earth_volcano": "md4jax.data.prepare.earth:Volcano",
    },
    named_by="--dataset",
)
