# The internal load balancer in front of ComfyUI. The ComfyUI chart registers its pods in the target group (TargetGroupBinding), so
# that one apply is enough and the address stays the same whatever happens in the cluster.
#
#   authentication.tf  sign-in at the load balancer
#   cloudfront.tf      an address on the internet
#   waf.tf             who may use that address
#   privatelink.tf     an address in other VPCs

locals {
  pod_port = 8848 # the chart's pods listen there

  https         = var.certificate_arn != null
  listener_port = local.https ? 443 : 80

  load_balancer_ports = local.https ? [80, 443] : [80] # 80 only redirects browsers to 443
  load_balancer_cidrs = var.load_balancer_allowed_cidrs == null ? local.vpc_cidrs : var.load_balancer_allowed_cidrs

  # Separate subnets, so that the pods' network policy can distinguish the load balancer from other pods, and so that a route from
  # another VPC reaches the load balancer only. In the quarter of the address range that has the public subnets, after these.
  load_balancer_zones        = var.load_balancer ? local.zones : []
  load_balancer_subnets      = { for i, zone in local.load_balancer_zones : zone => cidrsubnet(cidrsubnet(var.vpc_cidr, 2, 3), 4, 4 + i) }
  load_balancer_subnet_ids   = local.own_vpc ? [for subnet in aws_subnet.load_balancer : subnet.id] : var.private_subnet_ids
  load_balancer_subnet_cidrs = local.own_vpc ? values(local.load_balancer_subnets) : [for subnet in data.aws_subnet.existing : subnet.cidr_block]
}

resource "aws_subnet" "load_balancer" {
  for_each = local.load_balancer_subnets

  vpc_id            = local.vpc_id
  availability_zone = each.key
  cidr_block        = each.value

  tags = { Name = "${local.name}-load-balancer-${each.key}" }
}

resource "aws_route_table" "load_balancer" {
  for_each = local.load_balancer_subnets

  vpc_id = local.vpc_id

  tags = { Name = "${local.name}-load-balancer-${each.key}" }
}

# The load balancer calls the identity provider at each sign-in. It has no other route out of the VPC.
resource "aws_route" "identity_provider" {
  for_each = { for zone, cidr in local.load_balancer_subnets : zone => cidr if local.signs_in }

  route_table_id         = aws_route_table.load_balancer[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.nat == "per_az" ? each.key : local.nat_zones[0]].id
}

resource "aws_route_table_association" "load_balancer" {
  for_each = local.load_balancer_subnets

  subnet_id      = aws_subnet.load_balancer[each.key].id
  route_table_id = aws_route_table.load_balancer[each.key].id
}

# Name and description depend on no option: changing either would replace a group that the load balancer is using.
resource "aws_security_group" "load_balancer" {
  count = var.load_balancer ? 1 : 0

  name        = "${local.name}-load-balancer"
  description = "Load balancer of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-load-balancer" }
}

resource "aws_vpc_security_group_ingress_rule" "allowed" {
  for_each = {
    for rule in setproduct(local.load_balancer_ports, local.load_balancer_cidrs) :
    "${rule[0]} from ${rule[1]}" => { port = rule[0], cidr = rule[1] } if var.load_balancer
  }

  security_group_id = aws_security_group.load_balancer[0].id
  description       = "load_balancer_allowed_cidrs"
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr
}

resource "aws_vpc_security_group_egress_rule" "pods" {
  count = var.load_balancer ? 1 : 0

  security_group_id            = aws_security_group.load_balancer[0].id
  description                  = "ComfyUI in the pods"
  ip_protocol                  = "tcp"
  from_port                    = local.pod_port
  to_port                      = local.pod_port
  referenced_security_group_id = local.node_security_group_id
}

resource "aws_vpc_security_group_egress_rule" "identity_provider" {
  count = local.signs_in ? 1 : 0

  security_group_id = aws_security_group.load_balancer[0].id
  description       = "Sign-in: the identity provider"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_vpc_security_group_ingress_rule" "pods_from_load_balancer" {
  count = var.load_balancer ? 1 : 0

  security_group_id            = local.node_security_group_id
  description                  = "Load balancer to ComfyUI"
  ip_protocol                  = "tcp"
  from_port                    = local.pod_port
  to_port                      = local.pod_port
  referenced_security_group_id = aws_security_group.load_balancer[0].id
}

resource "aws_lb" "this" {
  #checkov:skip=CKV_AWS_150:It holds no data, and deletion protection would make `comfyeks infra destroy` fail.
  #checkov:skip=CKV2_AWS_28:It has no public address; the web ACL protects CloudFront, which has one.
  #checkov:skip=CKV2_AWS_20:Port 80 redirects to HTTPS if there is a certificate.
  count = var.load_balancer ? 1 : 0

  name               = "${local.name}-alb" # at most 32 characters; with the suffix the names of two projects never collide
  internal           = true
  load_balancer_type = "application"
  subnets            = local.load_balancer_subnet_ids
  security_groups    = concat(aws_security_group.load_balancer[*].id, aws_security_group.cloudfront[*].id)

  # A job can run for long without sending anything over its WebSocket; the default of 60 seconds would close it.
  idle_timeout               = 3900
  drop_invalid_header_fields = true

  # Not optional: if the block were removed, logs that were once enabled would stay enabled.
  access_logs {
    enabled = var.load_balancer_log_bucket != null
    bucket  = var.load_balancer_log_bucket == null ? "" : var.load_balancer_log_bucket
    prefix  = var.load_balancer_log_bucket == null ? null : local.name
  }

  # Without a route to the identity provider every sign-in would fail.
  depends_on = [aws_route.identity_provider, aws_route_table_association.load_balancer]
}

resource "aws_lb_target_group" "pods" {
  count = var.load_balancer ? 1 : 0

  name        = "${local.name}-pods"
  vpc_id      = local.vpc_id
  target_type = "ip"
  protocol    = "HTTP" #checkov:skip=CKV_AWS_378:ComfyUI serves HTTP; traffic from the load balancer to the pods stays in the VPC.
  port        = local.pod_port

  # The longest grace period that the chart allows: a terminating pod keeps its connections until its jobs are done. A pod without
  # connections is deregistered immediately.
  deregistration_delay = 590

  # The queue, history and results of a job are in the pod that accepted it.
  stickiness {
    type            = "lb_cookie"
    cookie_duration = 86400
  }

  # Sent to the pods directly, without sign-in.
  health_check {
    path                = "/system_stats"
    matcher             = "200"
    interval            = 15
    timeout             = 10
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "http" {
  #checkov:skip=CKV_AWS_2:With a certificate it only redirects to HTTPS; without one there is only HTTP, inside the VPC.
  #checkov:skip=CKV_AWS_103:With a certificate it only redirects to HTTPS.
  count = var.load_balancer ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  protocol          = "HTTP"
  port              = 80

  default_action {
    type             = local.https ? "redirect" : "forward"
    target_group_arn = local.https ? null : aws_lb_target_group.pods[0].arn

    dynamic "redirect" {
      for_each = local.https ? [443] : []

      content {
        protocol    = "HTTPS"
        port        = redirect.value
        status_code = "HTTP_301"
      }
    }
  }
}

resource "aws_lb_listener" "https" {
  count = var.load_balancer && local.https ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  protocol          = "HTTPS"
  port              = 443
  certificate_arn   = var.certificate_arn
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06" # TLS 1.2 and 1.3

  dynamic "default_action" {
    for_each = local.cognito ? [1] : []

    content {
      order = default_action.value
      type  = "authenticate-cognito"

      authenticate_cognito {
        user_pool_arn       = aws_cognito_user_pool.this[0].arn
        user_pool_client_id = aws_cognito_user_pool_client.load_balancer[0].id
        user_pool_domain    = aws_cognito_user_pool_domain.this[0].domain
        scope               = local.sign_in_scope
        session_timeout     = local.sign_in_seconds
      }
    }
  }

  dynamic "default_action" {
    for_each = local.oidc ? [1] : []

    content {
      order = default_action.value
      type  = "authenticate-oidc"

      authenticate_oidc {
        issuer                 = var.oidc.issuer
        authorization_endpoint = var.oidc.authorization_endpoint
        token_endpoint         = var.oidc.token_endpoint
        user_info_endpoint     = var.oidc.user_info_endpoint
        client_id              = var.oidc.client_id
        client_secret          = data.aws_secretsmanager_secret_version.oidc[0].secret_string
        scope                  = local.sign_in_scope
        session_timeout        = local.sign_in_seconds
      }
    }
  }

  default_action {
    order            = local.signs_in ? 2 : 1
    type             = "forward"
    target_group_arn = aws_lb_target_group.pods[0].arn
  }
}
