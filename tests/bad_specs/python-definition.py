"""A program that defines two optimizers, of which the first has faults as well."""

from optgen import define

storage = {"codebook": "dynamic_exponent", "bits": 5, "block": 128}
define(
    name="Lion5",
    summary="Lion in 5 bits.",
    extends="lion",
    hyper={"lr": {"default": 1e-4, "mni": 0}},
    state={"m": {"storage": storage}},
    update="""
        u = sign(ema(m, g, beta1))
        p = p*(1 - lr*weight_deacy) - lr*u
        m = ema(m, g, beta2)
    """,
)
define(name="Lion4", summary="Lion in 4 bits.", extends="lion", state={"m": {"storage": "int4"}})
