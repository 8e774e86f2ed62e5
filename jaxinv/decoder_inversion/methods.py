"""The methods of decoder inversion, by name."""

from jaxinv.decoder_inversion.gradient_based import GaussNewton, Gradient
from jaxinv.decoder_inversion.gradient_free import (
    Adam,
    Anderson,
    Encoder,
    ForwardStep,
    InertialKM,
)
from jaxinv.decoder_inversion.method import Method

#: By the names that are accepted wherever a method is.
METHODS: dict[str, Method] = {
    "encoder": Encoder(),
    "gradient": Gradient(),
    "forward_step": ForwardStep(),
    "inertial_km": InertialKM(),
    "adam": Adam(),
    "anderson": Anderson(),
    "gauss_newton": GaussNewton(),
}
