# The web ACL in front of CloudFront: an allow list of addresses if there is one, a rate limit, and rules against known attacks.

locals {
  # Names of web ACLs for CloudFront are global to the account.
  web_acl_name = "${local.name}-${var.region}"

  allowed_viewers = {
    IPV4 = [for cidr in var.cloudfront_allowed_cidrs : cidr if !strcontains(cidr, ":")]
    IPV6 = [for cidr in var.cloudfront_allowed_cidrs : cidr if strcontains(cidr, ":")]
  }

  # AWS's rule groups, and those of their rules that only count and do not block. Images, models and workflows are uploaded in large
  # bodies with arbitrary bytes, in which a rule cannot distinguish an attack from a picture. The load balancer's sign-in cookies are
  # large.
  managed_rules = {
    AWSManagedRulesAmazonIpReputationList = []
    AWSManagedRulesKnownBadInputsRuleSet  = ["JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY"]
    AWSManagedRulesCommonRuleSet = [
      "CrossSiteScripting_BODY",
      "EC2MetaDataSSRF_BODY",
      "GenericLFI_BODY",
      "GenericRFI_BODY",
      "SizeRestrictions_BODY",
      "SizeRestrictions_Cookie_HEADER",
    ]
  }
}

# Both always exist: a list cannot be deleted while a rule refers to it.
resource "aws_wafv2_ip_set" "allowed" {
  for_each = var.cloudfront ? local.allowed_viewers : {}
  provider = aws.us_east_1

  name               = "${local.web_acl_name}-${lower(each.key)}"
  description        = "Who may use ComfyUI of ${local.name}"
  scope              = "CLOUDFRONT"
  ip_address_version = each.key
  addresses          = each.value
}

resource "aws_wafv2_web_acl" "this" {
  #checkov:skip=CKV_AWS_192:The known-bad-inputs rules contain the Log4j rules, unless cloudfront_managed_rules = false.
  count    = var.cloudfront ? 1 : 0
  provider = aws.us_east_1

  name        = local.web_acl_name
  description = "ComfyUI of ${local.name}"
  scope       = "CLOUDFRONT"

  default_action {
    allow {}
  }

  dynamic "rule" {
    for_each = length(var.cloudfront_allowed_cidrs) > 0 ? ["not-allowed"] : []

    content {
      name     = rule.value
      priority = 0

      action {
        block {}
      }

      statement {
        not_statement {
          statement {
            or_statement {
              dynamic "statement" {
                for_each = aws_wafv2_ip_set.allowed

                content {
                  ip_set_reference_statement {
                    arn = statement.value.arn
                  }
                }
              }
            }
          }
        }
      }

      visibility_config {
        cloudwatch_metrics_enabled = true
        metric_name                = rule.value
        sampled_requests_enabled   = true
      }
    }
  }

  dynamic "rule" {
    for_each = var.cloudfront_rate_limit != null ? ["too-many"] : []

    content {
      name     = rule.value
      priority = 1

      action {
        block {}
      }

      statement {
        rate_based_statement {
          limit                 = var.cloudfront_rate_limit
          evaluation_window_sec = 300
          aggregate_key_type    = "IP"
        }
      }

      visibility_config {
        cloudwatch_metrics_enabled = true
        metric_name                = rule.value
        sampled_requests_enabled   = true
      }
    }
  }

  dynamic "rule" {
    for_each = var.cloudfront_managed_rules ? local.managed_rules : {}

    content {
      name     = rule.key
      priority = 10 + index(keys(local.managed_rules), rule.key)

      override_action {
        none {}
      }

      statement {
        managed_rule_group_statement {
          vendor_name = "AWS"
          name        = rule.key

          dynamic "rule_action_override" {
            for_each = rule.value

            content {
              name = rule_action_override.value

              action_to_use {
                count {}
              }
            }
          }
        }
      }

      visibility_config {
        cloudwatch_metrics_enabled = true
        metric_name                = rule.key
        sampled_requests_enabled   = true
      }
    }
  }

  visibility_config {
    cloudwatch_metrics_enabled = true
    metric_name                = local.web_acl_name
    sampled_requests_enabled   = true
  }
}

resource "aws_cloudwatch_log_group" "waf" {
  #checkov:skip=CKV_AWS_158:Encrypted with a key of CloudWatch; it contains addresses and paths of blocked requests, but no cookies.
  #checkov:skip=CKV_AWS_338:how long logs are kept, and paid for, is log_retention_days
  count    = var.cloudfront ? 1 : 0
  provider = aws.us_east_1

  name              = "aws-waf-logs-${local.web_acl_name}" # WAF requires the prefix
  retention_in_days = var.log_retention_days
}

# Requests that were blocked or counted; the others are in the load balancer's access log.
resource "aws_wafv2_web_acl_logging_configuration" "this" {
  count    = var.cloudfront ? 1 : 0
  provider = aws.us_east_1

  resource_arn            = aws_wafv2_web_acl.this[0].arn
  log_destination_configs = [aws_cloudwatch_log_group.waf[0].arn]

  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }

      condition {
        action_condition {
          action = "COUNT"
        }
      }
    }
  }

  dynamic "redacted_fields" {
    for_each = ["authorization", "cookie"]

    content {
      single_header {
        name = redacted_fields.value
      }
    }
  }
}
