# An address on the internet: CloudFront reaches the internal load balancer through a VPC origin. Access is limited by the web ACL
# (waf.tf) and by sign-in at the load balancer (authentication.tf).

locals {
  origin_protocol = local.https ? "https-only" : "http-only"

  # CloudFront takes web ACLs and certificates from this region only. Other partitions do not have it.
  cloudfront_region = local.partition == "aws" ? "us-east-1" : var.region

  cloudfront_certificate_arn = var.cloudfront_certificate_arn != null ? var.cloudfront_certificate_arn : var.certificate_arn
}

provider "aws" {
  alias  = "us_east_1"
  region = local.cloudfront_region

  default_tags {
    tags = local.tags
  }
}

data "aws_ec2_managed_prefix_list" "cloudfront" {
  count = var.cloudfront ? 1 : 0

  name = "com.amazonaws.global.cloudfront.origin-facing"
}

# A separate group: the prefix list counts as 55 of the 60 rules that a group can have.
resource "aws_security_group" "cloudfront" {
  #checkov:skip=CKV2_AWS_5:Attached to the load balancer in load_balancer.tf; checkov does not evaluate concat.
  count = var.cloudfront ? 1 : 0

  name        = "${local.name}-cloudfront"
  description = "CloudFront to the load balancer of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-cloudfront" }

  lifecycle {
    create_before_destroy = true # also makes Terraform delete it only after it is detached from the load balancer
  }
}

resource "aws_vpc_security_group_ingress_rule" "cloudfront" {
  count = var.cloudfront ? 1 : 0

  security_group_id = aws_security_group.cloudfront[0].id
  description       = "CloudFront"
  ip_protocol       = "tcp"
  from_port         = local.listener_port
  to_port           = local.listener_port
  prefix_list_id    = data.aws_ec2_managed_prefix_list.cloudfront[0].id
}

# The protocol of an origin cannot change while a distribution uses it. So each protocol has its own origin, and the new one is
# created before the old one is deleted.
resource "aws_cloudfront_vpc_origin" "this" {
  for_each = toset(var.cloudfront ? [local.origin_protocol] : [])

  vpc_origin_endpoint_config {
    name                   = "${local.name}-${var.region}-${each.key}" # names are global to the account
    arn                    = aws_lb.this[0].arn
    http_port              = 80
    https_port             = 443
    origin_protocol_policy = each.key

    origin_ssl_protocols {
      items    = ["TLSv1.2"]
      quantity = 1
    }
  }

  # Its deployment takes up to 15 minutes, sometimes longer; by default the provider gives up after exactly 15.
  timeouts {
    create = "30m"
    update = "30m"
    delete = "30m"
  }

  lifecycle {
    create_before_destroy = true
  }

  # CloudFront accepts only a load balancer with a listener, in a VPC with an internet gateway. No dependency on the HTTPS listener:
  # with create_before_destroy, whatever that needs would be created before it is destroyed too, but a user pool has one domain only.
  depends_on = [aws_internet_gateway.this, aws_lb_listener.http]
}

data "aws_cloudfront_cache_policy" "none" {
  count = var.cloudfront ? 1 : 0

  name = "Managed-CachingDisabled"
}

# With a domain name the Host header is forwarded: the load balancer's certificate is for that name, and sign-in redirects to it.
# Without one CloudFront sends the load balancer's own name, which browsers never see.
data "aws_cloudfront_origin_request_policy" "all" {
  count = var.cloudfront ? 1 : 0

  name = var.domain_name != null ? "Managed-AllViewer" : "Managed-AllViewerExceptHostHeader"
}

data "aws_cloudfront_response_headers_policy" "security" {
  count = var.cloudfront ? 1 : 0

  name = "Managed-SecurityHeadersPolicy"
}

resource "aws_cloudfront_distribution" "this" {
  #checkov:skip=CKV_AWS_86:The load balancer logs every request (load_balancer_log_bucket), the web ACL those that it blocks.
  #checkov:skip=CKV_AWS_310:There is one origin; a second load balancer would lead to other pods.
  #checkov:skip=CKV_AWS_374:Access is limited by address and sign-in, not by country.
  #checkov:skip=CKV_AWS_305:ComfyUI serves the root itself; there is no file for it.
  #checkov:skip=CKV_AWS_174:TLS 1.2 or later with a domain name; with CloudFront's default certificate the version cannot be chosen.
  #checkov:skip=CKV2_AWS_42:A custom certificate needs a domain name.
  #checkov:skip=CKV2_AWS_47:The known-bad-inputs rules are in waf.tf, unless cloudfront_managed_rules = false.
  count = var.cloudfront ? 1 : 0

  comment = "ComfyUI of ${local.name} in ${var.region}"
  enabled = true

  # Browsers prefer IPv6, and a list with IPv4 ranges only would block them there.
  is_ipv6_enabled = length(var.cloudfront_allowed_cidrs) == 0 || length(local.allowed_viewers.IPV6) > 0
  http_version    = "http2and3"
  aliases         = var.domain_name != null ? [var.domain_name] : []
  web_acl_id      = aws_wafv2_web_acl.this[0].arn

  origin {
    origin_id   = "load-balancer"
    domain_name = aws_lb.this[0].dns_name

    vpc_origin_config {
      vpc_origin_id            = aws_cloudfront_vpc_origin.this[local.origin_protocol].id
      origin_read_timeout      = 60 # seconds; the maximum without a higher quota
      origin_keepalive_timeout = 60
    }
  }

  # WebSockets need nothing more: all headers are forwarded.
  default_cache_behavior {
    target_origin_id           = "load-balancer"
    viewer_protocol_policy     = "redirect-to-https"
    allowed_methods            = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
    cached_methods             = ["GET", "HEAD"]
    cache_policy_id            = data.aws_cloudfront_cache_policy.none[0].id
    origin_request_policy_id   = data.aws_cloudfront_origin_request_policy.all[0].id
    response_headers_policy_id = data.aws_cloudfront_response_headers_policy.security[0].id
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
    cloudfront_default_certificate = var.domain_name == null ? true : null
    acm_certificate_arn            = var.domain_name == null ? null : local.cloudfront_certificate_arn
    minimum_protocol_version       = var.domain_name == null ? null : "TLSv1.2_2021"
    ssl_support_method             = var.domain_name == null ? null : "sni-only"
  }

  lifecycle {
    precondition {
      condition     = local.partition == "aws"
      error_message = "cloudfront = true: CloudFront in partition ${local.partition} has no VPC origins. Set cloudfront = false and reach the load balancer through the VPC (docs/how-to/access-from-other-vpcs.md)."
    }
  }
}
