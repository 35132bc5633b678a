# What each option for access switches: load balancer, sign-in, CloudFront and PrivateLink. The values that their variables reject are
# in variables.tftest.hcl.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"

  mock_resource "aws_lb" {
    defaults = { arn = "arn:aws:elasticloadbalancing:us-west-2:111122223333:loadbalancer/app/mocked/1", dns_name = "mocked.elb.example" }
  }

  mock_resource "aws_lb_target_group" {
    defaults = { arn = "arn:aws:elasticloadbalancing:us-west-2:111122223333:targetgroup/mocked/1" }
  }

  mock_resource "aws_security_group" {
    defaults = { id = "sg-0mocked" }
  }

  mock_resource "aws_cloudfront_distribution" {
    defaults = { domain_name = "mocked.cloudfront.example" }
  }

  mock_resource "aws_cognito_user_pool" {
    defaults = { id = "us-west-2_mocked" }
  }

  mock_resource "aws_vpc_endpoint_service" {
    defaults = { service_name = "com.amazonaws.vpce.us-west-2.vpce-svc-0mocked" }
  }

  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "mocked" }
  }

  mock_data "aws_ec2_managed_prefix_list" {
    defaults = { id = "pl-0mocked" }
  }
}

mock_provider "aws" {
  alias           = "us_east_1"
  override_during = plan

  mock_resource "aws_wafv2_web_acl" {
    defaults = { arn = "arn:aws:wafv2:us-east-1:111122223333:global/webacl/mocked/1" }
  }
}

variables {
  region            = "us-west-2"
  api_allowed_cidrs = ["198.51.100.7/32"]
  node_files        = { for part in ["program", "service", "timer", "path"] : part => { key = "node/${part}", sha256 = sha256(part) } }
}

# Load balancer

run "inside_the_vpc_by_default" {
  command = plan

  assert {
    condition     = aws_lb.this[0].internal && aws_lb.this[0].drop_invalid_header_fields
    error_message = "The load balancer has no public address and drops invalid headers."
  }

  assert {
    condition     = [for rule in aws_vpc_security_group_ingress_rule.allowed : "${rule.from_port} ${rule.to_port} ${rule.cidr_ipv4}"] == ["80 80 10.0.0.0/16"]
    error_message = "The VPC's own range may connect, and nothing else."
  }

  assert {
    condition     = length(aws_vpc_security_group_egress_rule.identity_provider) == 0 && length(aws_route.identity_provider) == 0
    error_message = "Without sign-in the load balancer can connect to the pods only."
  }

  assert {
    condition = alltrue([
      for rule in [aws_vpc_security_group_egress_rule.pods[0], aws_vpc_security_group_ingress_rule.pods_from_load_balancer[0]] :
      rule.from_port == 8848 && rule.to_port == 8848 && rule.cidr_ipv4 == null
    ])
    error_message = "From the load balancer to the pods, by their groups, on 8848 only."
  }

  assert {
    condition     = aws_lb_listener.http[0].default_action[0].type == "forward" && length(aws_lb_listener.https) == 0
    error_message = "Without a certificate the load balancer listens to HTTP."
  }

  assert {
    condition     = length(aws_cloudfront_distribution.this) + length(aws_wafv2_web_acl.this) + length(aws_vpc_endpoint_service.this) + length(aws_cognito_user_pool.this) == 0
    error_message = "Nothing else is created by default."
  }

  assert {
    condition     = output.url == "http://mocked.elb.example" && output.dns_record == null
    error_message = "Users open the load balancer's own name."
  }

  assert {
    condition     = output.helm_values.comfyui.networkPolicy.loadBalancerCidrs == tolist(["10.0.208.0/22", "10.0.212.0/22", "10.0.216.0/22"])
    error_message = "There are three subnets, after the public ones."
  }

  assert {
    condition     = length(setintersection(values(local.load_balancer_subnets), concat(values(local.public_cidrs), values(local.private_cidrs)))) == 0
    error_message = "No other subnet overlaps: the network policy would let its pods in with the load balancer."
  }

  assert {
    condition     = !aws_lb.this[0].access_logs[0].enabled
    error_message = "Logs are disabled explicitly: without the block, logs that were once enabled would stay enabled."
  }
}

run "in_existing_subnets" {
  command = plan

  variables {
    private_subnet_ids = ["subnet-0a", "subnet-0b"]
    domain_name        = "comfyui.example.com"
    certificate_arn    = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in            = "cognito"
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0a"]
    values = { vpc_id = "vpc-0", availability_zone = "us-west-2a", availability_zone_id = "usw2-az1", cidr_block = "10.9.0.0/24" }
  }

  override_data {
    target = data.aws_subnet.existing["subnet-0b"]
    values = { vpc_id = "vpc-0", availability_zone = "us-west-2b", availability_zone_id = "usw2-az2", cidr_block = "10.9.1.0/24" }
  }

  override_data {
    target = data.aws_vpc.existing[0]
    values = {
      enable_dns_support      = true
      enable_dns_hostnames    = true
      cidr_block_associations = [{ association_id = "a", cidr_block = "10.9.0.0/16", state = "associated" }]
    }
  }

  assert {
    condition     = aws_lb.this[0].subnets == toset(["subnet-0a", "subnet-0b"]) && length(aws_subnet.load_balancer) + length(aws_route.identity_provider) == 0
    error_message = "In an existing VPC the load balancer uses the given subnets, whose routes the owner manages."
  }

  assert {
    condition     = output.helm_values.comfyui.networkPolicy.loadBalancerCidrs == tolist(["10.9.0.0/24", "10.9.1.0/24"]) && output.helm_values.comfyui.networkPolicy.vpcCidrs == tolist(["10.9.0.0/16"])
    error_message = "The network policy has the address ranges of the existing subnets."
  }
}

run "without_load_balancer" {
  command = plan

  variables {
    load_balancer = false
  }

  assert {
    condition     = length(aws_lb.this) + length(aws_lb_target_group.pods) + length(aws_security_group.load_balancer) + length(aws_subnet.load_balancer) == 0
    error_message = "Nothing of it is left."
  }

  assert {
    condition     = output.url == null && output.load_balancer == null && output.helm_values.comfyui.loadBalancer.targetGroupArn == ""
    error_message = "There is no address, and the chart registers no pod."
  }
}

run "other_networks_may_connect" {
  command = plan

  variables {
    load_balancer_log_bucket    = "studio-logs"
    load_balancer_allowed_cidrs = ["10.0.0.0/16", "172.16.0.0/12"]
  }

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.allowed : rule.cidr_ipv4]) == toset(["10.0.0.0/16", "172.16.0.0/12"])
    error_message = "The listed networks may connect."
  }

  assert {
    condition     = aws_lb.this[0].access_logs[0].enabled && aws_lb.this[0].access_logs[0].bucket == "studio-logs" && aws_lb.this[0].access_logs[0].prefix == "comfyui"
    error_message = "Every request is logged to the bucket, below the deployment's name."
  }
}

# HTTPS and sign-in

run "https" {
  command = plan

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
  }

  assert {
    condition     = aws_lb_listener.http[0].default_action[0].type == "redirect" && aws_lb_listener.http[0].default_action[0].redirect[0].protocol == "HTTPS" && aws_lb_listener.http[0].default_action[0].redirect[0].port == "443"
    error_message = "HTTP only redirects to HTTPS."
  }

  assert {
    condition     = [for action in aws_lb_listener.https[0].default_action : action.type] == ["forward"] && aws_lb_listener.https[0].ssl_policy == "ELBSecurityPolicy-TLS13-1-2-2021-06"
    error_message = "HTTPS, with TLS 1.2 or later, forwards to the pods without sign-in."
  }

  assert {
    condition     = toset([for rule in aws_vpc_security_group_ingress_rule.allowed : rule.from_port]) == toset([80, 443])
    error_message = "Both ports are open to the allowed networks."
  }

  assert {
    condition     = output.url == "https://comfyui.example.com" && output.dns_record.value == "mocked.elb.example"
    error_message = "Users open the name, which points at the load balancer."
  }
}

run "sign_in_with_cognito" {
  command = plan

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "cognito"
  }

  assert {
    condition     = [for action in aws_lb_listener.https[0].default_action : "${action.order} ${action.type}"] == ["1 authenticate-cognito", "2 forward"]
    error_message = "Nothing reaches a pod before sign-in."
  }

  assert {
    condition     = aws_lb_listener.http[0].default_action[0].type == "redirect"
    error_message = "HTTP does not bypass sign-in."
  }

  assert {
    condition     = aws_cognito_user_pool.this[0].admin_create_user_config[0].allow_admin_create_user_only && aws_cognito_user_pool.this[0].mfa_configuration == "ON"
    error_message = "Users cannot sign up themselves, and need more than a password."
  }

  assert {
    condition     = aws_cognito_user_pool_client.load_balancer[0].callback_urls == toset(["https://comfyui.example.com/oauth2/idpresponse"]) && aws_cognito_user_pool_client.load_balancer[0].generate_secret
    error_message = "Sign-in redirects to the load balancer, by the name that users opened."
  }

  assert {
    condition     = aws_cognito_user_pool_domain.this[0].domain == "comfyui-111122223333" && output.user_pool_id == "us-west-2_mocked"
    error_message = "The domain of the sign-in page is made from the deployment's name and the account."
  }

  assert {
    condition     = aws_vpc_security_group_egress_rule.identity_provider[0].from_port == 443 && length(aws_route.identity_provider) == 3
    error_message = "The load balancer reaches the identity provider."
  }
}

run "cognito_without_authenticator_app" {
  command = plan

  variables {
    project               = "aws"
    cognito_domain_prefix = "studio-comfyui"
    domain_name           = "comfyui.example.com"
    certificate_arn       = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in               = "cognito"
    cognito_mfa           = false
  }

  assert {
    condition     = aws_cognito_user_pool.this[0].mfa_configuration == "OFF" && length(aws_cognito_user_pool.this[0].software_token_mfa_configuration) == 0
    error_message = "A password is enough."
  }

  assert {
    condition     = aws_cognito_user_pool_domain.this[0].domain == "studio-comfyui"
    error_message = "The given prefix is used."
  }
}

run "sign_in_with_oidc" {
  command = plan

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "oidc"

    oidc = {
      issuer                 = "https://id.example.com"
      authorization_endpoint = "https://id.example.com/authorize"
      token_endpoint         = "https://id.example.com/token"
      user_info_endpoint     = "https://id.example.com/userinfo"
      client_id              = "comfyui"
      client_secret_id       = "comfyui/oidc"
    }
  }

  assert {
    condition     = [for action in aws_lb_listener.https[0].default_action : "${action.order} ${action.type}"] == ["1 authenticate-oidc", "2 forward"]
    error_message = "Nothing reaches a pod before sign-in."
  }

  assert {
    condition     = data.aws_secretsmanager_secret_version.oidc[0].secret_id == "comfyui/oidc" && aws_lb_listener.https[0].default_action[0].authenticate_oidc[0].client_secret == "mocked"
    error_message = "The secret comes from Secrets Manager."
  }

  assert {
    condition     = length(aws_cognito_user_pool.this) == 0 && output.user_pool_id == null
    error_message = "There is one sign-in method only."
  }
}

# CloudFront and its web ACL

run "public_for_named_addresses" {
  command = plan

  variables {
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.0/24", "203.0.113.7/32", "2001:db8::/32"]
  }

  override_resource {
    target          = aws_security_group.cloudfront
    values          = { id = "sg-0cloudfront" }
    override_during = plan
  }

  assert {
    condition     = aws_wafv2_ip_set.allowed["IPV4"].addresses == toset(["198.51.100.0/24", "203.0.113.7/32"]) && aws_wafv2_ip_set.allowed["IPV6"].addresses == toset(["2001:db8::/32"]) && aws_cloudfront_distribution.this[0].is_ipv6_enabled
    error_message = "IPv4 and IPv6 ranges are in their own lists, and IPv6 is enabled."
  }

  assert {
    condition = [for rule in aws_wafv2_web_acl.this[0].rule : rule.name if rule.priority == 0] == ["not-allowed"] && alltrue([
      for rule in aws_wafv2_web_acl.this[0].rule : length(rule.action[0].block) == 1 && length(rule.statement[0].not_statement) == 1 if rule.name == "not-allowed"
    ])
    error_message = "Addresses in neither list are blocked before any other rule."
  }

  assert {
    condition     = one(values(aws_cloudfront_vpc_origin.this)).vpc_origin_endpoint_config[0].origin_protocol_policy == "http-only" && aws_vpc_security_group_ingress_rule.cloudfront[0].from_port == 80
    error_message = "Without a certificate CloudFront connects to the load balancer by HTTP."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.cloudfront[0].prefix_list_id == "pl-0mocked" && aws_lb.this[0].security_groups == toset(["sg-0mocked", "sg-0cloudfront"])
    error_message = "CloudFront may connect, by its prefix list in a group of its own."
  }

  assert {
    condition     = data.aws_cloudfront_cache_policy.none[0].name == "Managed-CachingDisabled" && data.aws_cloudfront_origin_request_policy.all[0].name == "Managed-AllViewerExceptHostHeader"
    error_message = "Nothing is cached, and everything is forwarded except the Host header."
  }

  assert {
    condition     = length(aws_cloudfront_distribution.this[0].default_cache_behavior[0].allowed_methods) == 7 && aws_cloudfront_distribution.this[0].default_cache_behavior[0].viewer_protocol_policy == "redirect-to-https"
    error_message = "All methods, by HTTPS."
  }

  assert {
    condition     = output.url == "https://mocked.cloudfront.example" && aws_cloudfront_distribution.this[0].web_acl_id == aws_wafv2_web_acl.this[0].arn
    error_message = "Users open CloudFront's name, behind the web ACL."
  }

  assert {
    condition = toset(flatten([
      for rule in aws_wafv2_web_acl.this[0].rule : [for group in rule.statement[0].managed_rule_group_statement : group.name]
    ])) == toset(["AWSManagedRulesAmazonIpReputationList", "AWSManagedRulesCommonRuleSet", "AWSManagedRulesKnownBadInputsRuleSet"])
    error_message = "Known attacks and known attackers are blocked."
  }

  assert {
    condition = toset(flatten([
      for rule in aws_wafv2_web_acl.this[0].rule : [
        for group in rule.statement[0].managed_rule_group_statement : [
          for override in group.rule_action_override : override.name if length(override.action_to_use[0].count) == 1
        ]
      ]
      ])) == toset([
      "CrossSiteScripting_BODY", "EC2MetaDataSSRF_BODY", "GenericLFI_BODY", "GenericRFI_BODY", "SizeRestrictions_BODY",
      "SizeRestrictions_Cookie_HEADER", "JavaDeserializationRCE_BODY", "Log4JRCE_BODY", "ReactJSRCE_BODY",
    ])
    error_message = "Rules about bodies, or about the size of sign-in cookies, only count."
  }

  assert {
    condition     = aws_cloudwatch_log_group.waf[0].name == "aws-waf-logs-comfyui-us-west-2" && aws_wafv2_web_acl_logging_configuration.this[0].logging_filter[0].default_behavior == "DROP"
    error_message = "WAF requires this prefix of log groups, and allowed requests are not logged."
  }

  assert {
    condition     = [for field in aws_wafv2_web_acl_logging_configuration.this[0].redacted_fields : field.single_header[0].name] == ["authorization", "cookie"]
    error_message = "Readers of the log cannot take over a session."
  }
}

run "public_with_sign_in" {
  command = plan

  variables {
    project                        = "abcdefgh-1234567"
    privatelink_allowed_principals = ["arn:aws:iam::444455556666:root"]
    domain_name                    = "comfyui.example.com"
    certificate_arn                = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in                        = "cognito"
    cloudfront                     = true
    cloudfront_certificate_arn     = "arn:aws:acm:us-east-1:111122223333:certificate/2"
  }

  assert {
    condition     = length([for rule in aws_wafv2_web_acl.this[0].rule : rule if rule.name == "not-allowed"]) == 0
    error_message = "With sign-in, no list of addresses is needed."
  }

  assert {
    condition     = one(values(aws_cloudfront_vpc_origin.this)).vpc_origin_endpoint_config[0].origin_protocol_policy == "https-only" && aws_vpc_security_group_ingress_rule.cloudfront[0].from_port == 443
    error_message = "Every connection uses HTTPS."
  }

  assert {
    condition     = data.aws_cloudfront_origin_request_policy.all[0].name == "Managed-AllViewer"
    error_message = "The Host header is forwarded: the certificate is for that name, and sign-in redirects to it."
  }

  assert {
    condition     = aws_cloudfront_distribution.this[0].aliases == toset(["comfyui.example.com"]) && aws_cloudfront_distribution.this[0].viewer_certificate[0].acm_certificate_arn == "arn:aws:acm:us-east-1:111122223333:certificate/2" && aws_cloudfront_distribution.this[0].viewer_certificate[0].minimum_protocol_version == "TLSv1.2_2021"
    error_message = "CloudFront answers to the name, with the certificate of its own region."
  }

  assert {
    condition     = output.url == "https://comfyui.example.com" && output.dns_record.value == "mocked.cloudfront.example"
    error_message = "The name points at CloudFront."
  }

  assert {
    condition = alltrue([
      for name in concat(
        [for balancer in concat(aws_lb.this, aws_lb.privatelink) : balancer.name],
        [for group in concat(aws_lb_target_group.pods, values(aws_lb_target_group.privatelink)) : group.name],
      ) : length(name) <= 32 && can(regex("^[a-z0-9-]+[a-z0-9]$", name))
    ])
    error_message = "Elastic Load Balancing takes names of at most 32 characters."
  }

  assert {
    condition     = alltrue([for origin in aws_cloudfront_vpc_origin.this : length(origin.vpc_origin_endpoint_config[0].name) <= 64]) && length(aws_cognito_user_pool_domain.this[0].domain) <= 63
    error_message = "CloudFront takes names of origins of at most 64 characters, Cognito domains of at most 63."
  }

  assert {
    condition     = aws_lb_listener.privatelink[0].port == 443 && aws_lb_target_group.privatelink["443"].health_check[0].protocol == "HTTPS" && aws_vpc_security_group_ingress_rule.privatelink[0].from_port == 443
    error_message = "With a certificate the endpoint's port is 443."
  }
}

run "public_without_protection_on_purpose" {
  command = plan

  variables {
    cloudfront_rate_limit               = null
    cloudfront_managed_rules            = false
    cloudfront                          = true
    allow_unauthenticated_public_access = true
  }

  assert {
    condition     = length(aws_cloudfront_distribution.this) == 1 && aws_cloudfront_distribution.this[0].viewer_certificate[0].cloudfront_default_certificate
    error_message = "The distribution is created, with CloudFront's default certificate."
  }

  assert {
    condition     = length(aws_wafv2_web_acl.this[0].rule) == 0
    error_message = "Each of the web ACL's rules can be switched off."
  }
}

run "public_name_in_the_region_of_cloudfront" {
  command = plan

  variables {
    cloudfront_rate_limit    = 10
    cloudfront_allowed_cidrs = ["198.51.100.0/24"]
    region                   = "us-east-1"
    domain_name              = "comfyui.example.com"
    certificate_arn          = "arn:aws:acm:us-east-1:111122223333:certificate/1"
    sign_in                  = "cognito"
    cloudfront               = true
  }

  assert {
    condition     = aws_cloudfront_distribution.this[0].viewer_certificate[0].acm_certificate_arn == "arn:aws:acm:us-east-1:111122223333:certificate/1"
    error_message = "One certificate for both."
  }

  assert {
    condition     = !aws_cloudfront_distribution.this[0].is_ipv6_enabled
    error_message = "With a list of IPv4 ranges only, IPv6 is disabled: browsers would use it and be blocked."
  }

  assert {
    condition     = [for rule in aws_wafv2_web_acl.this[0].rule : rule.statement[0].rate_based_statement[0].limit if rule.name == "too-many"] == [10]
    error_message = "The given limit is used."
  }
}

run "cloudfront_in_a_partition_without_vpc_origins" {
  command = plan

  variables {
    region                   = "cn-north-1"
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.0/24"]
  }

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-cn" }
  }

  expect_failures = [aws_cloudfront_distribution.this]
}

run "sign_in_in_another_partition" {
  command = plan

  variables {
    region          = "us-gov-west-1"
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws-us-gov:acm:us-gov-west-1:111122223333:certificate/1"
    sign_in         = "cognito"

    privatelink_allowed_principals = ["arn:aws-us-gov:iam::111122223333:root"]
  }

  override_data {
    target = data.aws_partition.current
    values = { partition = "aws-us-gov" }
  }

  assert {
    condition     = local.cloudfront_region == "us-gov-west-1"
    error_message = "No provider asks for a region that the partition does not have."
  }
}

# PrivateLink

run "privatelink" {
  command = plan

  variables {
    load_balancer_allowed_cidrs    = []
    privatelink_allowed_principals = ["arn:aws:iam::444455556666:root", "arn:aws:iam::111122223333:role/studio"]
  }

  assert {
    condition     = aws_vpc_endpoint_service.this[0].allowed_principals == toset(["arn:aws:iam::444455556666:root", "arn:aws:iam::111122223333:role/studio"])
    error_message = "The listed accounts may create endpoints."
  }

  assert {
    condition     = aws_lb.privatelink[0].internal && aws_lb_listener.privatelink[0].port == 80 && keys(aws_lb_target_group_attachment.privatelink) == ["80"]
    error_message = "Without a certificate the endpoint's port is 80."
  }

  assert {
    condition     = aws_lb.privatelink[0].enforce_security_group_inbound_rules_on_private_link_traffic == "off"
    error_message = "The network load balancer accepts traffic from PrivateLink; it has no rule for any other traffic."
  }

  assert {
    condition     = output.load_balancer.endpoint_service == "com.amazonaws.vpce.us-west-2.vpce-svc-0mocked"
    error_message = "The service's name is an output."
  }

  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.allowed) == 0
    error_message = "An empty list allows no network, not the default."
  }
}
