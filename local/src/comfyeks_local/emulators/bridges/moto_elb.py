"""Bridges for Elastic Load Balancing, which moto serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyeks_local.emulators.bridges import bridge

if TYPE_CHECKING:
    from moto.core.responses import ActionResult
    from moto.elbv2.responses import ELBV2Response


@bridge(
    "privatelink-rules-of-load-balancer",
    "moto",
    aws="A network load balancer stores whether its security groups apply to PrivateLink traffic (default: on).",
    gap="Drops it, so every plan of Terraform sets it again.",
    needed_by="a second `comfyeks infra apply` with PrivateLink without changes",
)
def privatelink_rules_of_load_balancer() -> None:
    from moto.elbv2.models import FakeLoadBalancer
    from moto.elbv2.responses import ELBV2Response

    create, set_groups = FakeLoadBalancer.__init__, ELBV2Response.set_security_groups
    member, request = (
        "enforce_security_group_inbound_rules_on_private_link_traffic",
        "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic",
    )

    def init(self: FakeLoadBalancer, *args: Any, **kwargs: Any) -> None:
        create(self, *args, **kwargs)
        self.__dict__[member] = "on" if self.type == "network" and self.security_groups else None

    def set_security_groups(self: ELBV2Response) -> ActionResult:
        answer = set_groups(self)
        if given := self._get_param(request):
            balancer = self.elbv2_backend.load_balancers[self._get_param("LoadBalancerArn")]
            balancer.__dict__[member] = given
        return answer

    FakeLoadBalancer.__init__ = init  # type: ignore[method-assign]
    ELBV2Response.set_security_groups = set_security_groups  # type: ignore[method-assign]
