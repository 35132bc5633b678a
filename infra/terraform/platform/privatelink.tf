# An address in other VPCs, of whatever account and with whatever address ranges: an endpoint service. It takes network load
# balancers only, so one stands in front of the other. How to use it: docs/how-to/access-from-other-vpcs.md

locals {
  privatelink = length(var.privatelink_allowed_principals) > 0

  # A port cannot change while the listener uses the target group: another port is another group, made before the first one goes.
  privatelink_ports = toset(local.privatelink ? [tostring(local.listener_port)] : [])
}

# Without rules for anybody: what comes through the endpoint service is not asked (see below), and nothing else is to come.
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
  #checkov:skip=CKV_AWS_150:It holds nothing, and deletion protection would stop the one destroy that takes everything down.
  #checkov:skip=CKV_AWS_91:The load balancer behind it has the access log.
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

  # Any answer of the load balancer will do: a sign-in page, and also that there is no pod.
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

  depends_on = [aws_lb_listener.http, aws_lb_listener.https] # AWS takes no load balancer that does not listen there
}

resource "aws_lb_listener" "privatelink" {
  #checkov:skip=CKV_AWS_2:TCP: the load balancer behind it ends TLS.
  #checkov:skip=CKV_AWS_103:TCP: the load balancer behind it ends TLS.
  count = local.privatelink ? 1 : 0

  load_balancer_arn        = aws_lb.privatelink[0].arn
  protocol                 = "TCP"
  port                     = local.listener_port
  tcp_idle_timeout_seconds = 6000 # longer than the load balancer's own

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.privatelink[tostring(local.listener_port)].arn
  }
}

resource "aws_vpc_endpoint_service" "this" {
  #checkov:skip=CKV_AWS_123:Who may connect is named; to accept each connection by hand would name them twice.
  count = local.privatelink ? 1 : 0

  network_load_balancer_arns = aws_lb.privatelink[*].arn
  allowed_principals         = var.privatelink_allowed_principals
  acceptance_required        = false

  tags = { Name = local.name }

  depends_on = [aws_lb_listener.privatelink]
}
