# An address on the internet: CloudFront reaches the internal load balancer through a VPC origin. Who may use it: waf.tf, and
# sign-in at the load balancer (authentication.tf).

locals {
  origin_protocol = local.https ? "https-only" : "http-only"

  # Where CloudFront lives, and with it its web ACL and certificate. Other partitions have no such region.
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

# A group of its own: the list counts as 55 of a group's 60 rules.
resource "aws_security_group" "cloudfront" {
  #checkov:skip=CKV2_AWS_5:The load balancer has it, in load_balancer.tf; checkov does not see through concat.
  count = var.cloudfront ? 1 : 0

  name        = "${local.name}-cloudfront"
  description = "CloudFront to the load balancer of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-cloudfront" }

  lifecycle {
    create_before_destroy = true # which also means: removed after the load balancer has let go of it
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

# Its protocol cannot change while a distribution uses it: another protocol is another origin, made before the first one goes.
resource "aws_cloudfront_vpc_origin" "this" {
  for_each = toset(var.cloudfront ? [local.origin_protocol] : [])

  vpc_origin_endpoint_config {
    name                   = "${local.name}-${var.region}-${each.key}" # names are the account's, in no region
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

  # CloudFront takes no load balancer without a listener, and no network without an internet gateway. Of the HTTPS one nothing
  # may hang here: all it needs would be made before its predecessor goes too, and a user pool takes no second domain.
  depends_on = [aws_internet_gateway.this, aws_lb_listener.http]
}

data "aws_cloudfront_cache_policy" "none" {
  count = var.cloudfront ? 1 : 0

  name = "Managed-CachingDisabled"
}

# With a domain name, the Host header goes along: the load balancer's certificate is for that name, and sign-in leads back to
# it. Without, it is the load balancer's own name, which a browser never sees.
data "aws_cloudfront_origin_request_policy" "all" {
  count = var.cloudfront ? 1 : 0

  name = var.domain_name != null ? "Managed-AllViewer" : "Managed-AllViewerExceptHostHeader"
}

data "aws_cloudfront_response_headers_policy" "security" {
  count = var.cloudfront ? 1 : 0

  name = "Managed-SecurityHeadersPolicy"
}

resource "aws_cloudfront_distribution" "this" {
  #checkov:skip=CKV_AWS_86:The load balancer's access log has every request (load_balancer_log_bucket), the web ACL's log those that were refused.
  #checkov:skip=CKV_AWS_310:There is one origin; a second load balancer would have other pods behind it.
  #checkov:skip=CKV_AWS_374:Who may connect is decided by address and sign-in, not by country.
  #checkov:skip=CKV_AWS_305:The root is ComfyUI's page, not a file.
  #checkov:skip=CKV_AWS_174:With a domain name it is TLS 1.2 and later; CloudFront's own certificate does not let one choose.
  #checkov:skip=CKV2_AWS_42:A certificate of one's own needs a domain name.
  #checkov:skip=CKV2_AWS_47:The known-bad-inputs rules are in waf.tf, unless cloudfront_managed_rules = false.
  count = var.cloudfront ? 1 : 0

  comment = "ComfyUI of ${local.name} in ${var.region}"
  enabled = true

  # Browsers prefer IPv6, where a list of IPv4 ranges alone would refuse them.
  is_ipv6_enabled = length(var.cloudfront_allowed_cidrs) == 0 || length(local.allowed_viewers.IPV6) > 0
  http_version    = "http2and3"
  aliases         = var.domain_name != null ? [var.domain_name] : []
  web_acl_id      = aws_wafv2_web_acl.this[0].arn

  origin {
    origin_id   = "load-balancer"
    domain_name = aws_lb.this[0].dns_name

    vpc_origin_config {
      vpc_origin_id            = aws_cloudfront_vpc_origin.this[local.origin_protocol].id
      origin_read_timeout      = 60 # seconds; the most without a higher quota
      origin_keepalive_timeout = 60
    }
  }

  # WebSockets need nothing more: their headers are among those that go along.
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
      error_message = "cloudfront = true: partition ${local.partition} has no CloudFront with VPC origins. Set cloudfront = false and reach the load balancer from inside (docs/how-to/access-from-other-vpcs.md)."
    }
  }
}
