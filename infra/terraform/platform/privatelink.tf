# An address in other VPCs, in any account and with any address range: an endpoint service. It supports network load balancers only,
# so there is one in front of the application load balancer. How to use it: docs/how-to/access-from-other-vpcs.md

locals {
  privatelink = length(var.privatelink_allowed_principals) > 0

  # The port of a target group cannot change while the listener uses it. So each port has its own group, and the new one is created
  # before the old one is deleted.
  privatelink_ports = toset(local.privatelink ? [tostring(local.listener_port)] : [])
}

# Without ingress rules: traffic through the endpoint service is not checked against them (see below), and no other traffic is allowed.
resource "aws_security_group" "privatelink" {
  count = local.privatelink ? 1 : 0

  name        = "${local.name}-privatelink"
  description = "PrivateLink to the load balancer of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-privatelink" }
}

resource "aws_vpc_security_group_egress_rule" "privatelink" {
  count = local.privatelink ? 1 : 0

  security_group_id            = aws_security_group.privatelink[0].id
  description                  = "Load balancer"
  ip_protocol                  = "tcp"
  from_port                    = local.listener_port
  to_port                      = local.listener_port
  referenced_security_group_id = aws_security_group.load_balancer[0].id
}

resource "aws_vpc_security_group_ingress_rule" "privatelink" {
  count = local.privatelink ? 1 : 0

  security_group_id            = aws_security_group.load_balancer[0].id
  description                  = "PrivateLink"
  ip_protocol                  = "tcp"
  from_port                    = local.listener_port
  to_port                      = local.listener_port
  referenced_security_group_id = aws_security_group.privatelink[0].id
}

resource "aws_lb" "privatelink" {
  #checkov:skip=CKV_AWS_150:It holds no data, and deletion protection would make `comfyeks infra destroy` fail.
  #checkov:skip=CKV_AWS_91:The application load balancer behind it writes the access log.
  count = local.privatelink ? 1 : 0

  name                             = "${local.name}-nlb"
  internal                         = true
  load_balancer_type               = "network"
  subnets                          = local.load_balancer_subnet_ids
  security_groups                  = aws_security_group.privatelink[*].id
  enable_cross_zone_load_balancing = true

  enforce_security_group_inbound_rules_on_private_link_traffic = "off"
}

resource "aws_lb_target_group" "privatelink" {
  for_each = local.privatelink_ports

  name        = "${local.name}-nlb-${each.key}"
  vpc_id      = local.vpc_id
  target_type = "alb"
  protocol    = "TCP"
  port        = tonumber(each.key)

  # Any response of the load balancer counts as healthy: also a sign-in page, or that there is no pod.
  health_check {
    protocol = local.https ? "HTTPS" : "HTTP"
    path     = "/"
    matcher  = "200-599"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_lb_target_group_attachment" "privatelink" {
  for_each = local.privatelink_ports

  target_group_arn = aws_lb_target_group.privatelink[each.key].arn
  target_id        = aws_lb.this[0].arn
  port             = tonumber(each.key)

  depends_on = [aws_lb_listener.http, aws_lb_listener.https] # AWS rejects a load balancer without a listener on that port
}

resource "aws_lb_listener" "privatelink" {
  #checkov:skip=CKV_AWS_2:TCP: TLS ends at the application load balancer behind it.
  #checkov:skip=CKV_AWS_103:TCP: TLS ends at the application load balancer behind it.
  count = local.privatelink ? 1 : 0

  load_balancer_arn        = aws_lb.privatelink[0].arn
  protocol                 = "TCP"
  port                     = local.listener_port
  tcp_idle_timeout_seconds = 6000 # longer than that of the application load balancer

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.privatelink[tostring(local.listener_port)].arn
  }
}

resource "aws_vpc_endpoint_service" "this" {
  #checkov:skip=CKV_AWS_123:allowed_principals limits who may connect; accepting each connection by hand would be a second list.
  count = local.privatelink ? 1 : 0

  network_load_balancer_arns = aws_lb.privatelink[*].arn
  allowed_principals         = var.privatelink_allowed_principals
  acceptance_required        = false

  tags = { Name = local.name }

  depends_on = [aws_lb_listener.privatelink]
}
