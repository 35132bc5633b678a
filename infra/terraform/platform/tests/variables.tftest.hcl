# The values that each variable rejects, and the nearest ones that it accepts. Against the variables alone (tests/variables links to
# them): a plan of the whole root takes fifty times as long.

variables {
  region            = "us-west-2"
  api_allowed_cidrs = ["198.51.100.7/32"]
  node_files        = { for part in ["program", "service", "timer", "path"] : part => { key = "node/${part}", sha256 = sha256(part) } }
}

run "project_of_17_characters" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project = "abcdefgh-12345678"
  }

  expect_failures = [var.project]
}

run "project_with_a_hyphen_at_the_end" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project = "film-"
  }

  expect_failures = [var.project]
}

run "project_named_default" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project = "default"
  }

  expect_failures = [var.project]
}

run "region_of_the_european_sovereign_cloud" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    region = "eusc-de-east-1"
  }
}

run "region_that_is_a_zone" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    region = "us-west-2a"
  }

  expect_failures = [var.region]
}

run "api_open_to_nobody" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    api_allowed_cidrs = []
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_everybody" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    api_allowed_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_everybody_in_two_halves" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    api_allowed_cidrs = ["0.0.0.0/1", "128.0.0.0/1"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_range_without_length" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    api_allowed_cidrs = ["198.51.100.7"]
  }

  expect_failures = [var.api_allowed_cidrs]
}

run "api_open_to_a_company" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    api_allowed_cidrs = ["10.0.0.0/8"]
  }
}

run "vpc_too_large" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_cidr = "10.0.0.0/15"
  }

  expect_failures = [var.vpc_cidr]
}

run "vpc_too_small" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    vpc_cidr = "10.0.0.0/21"
  }

  expect_failures = [var.vpc_cidr]
}

run "admin_that_is_a_session" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cluster_admin_arns = ["arn:aws:sts::111122223333:assumed-role/admin/me"]
  }

  expect_failures = [var.cluster_admin_arns]
}

run "no_system_node_type" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    system_node_types = []
  }

  expect_failures = [var.system_node_types]
}

run "one_system_node" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    system_node_count = 1
  }

  expect_failures = [var.system_node_count]
}

run "system_disk_too_small" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    system_node_disk_gib = 19
  }

  expect_failures = [var.system_node_disk_gib]
}

run "log_retention_that_cloudwatch_does_not_know" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    log_retention_days = 31
  }

  expect_failures = [var.log_retention_days]
}

run "namespace_with_a_capital" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    comfyui_namespace = "ComfyUI"
  }

  expect_failures = [var.comfyui_namespace]
}

run "release_with_54_characters" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    comfyui_release = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz12"
  }

  expect_failures = [var.comfyui_release]
}

run "no_nat_and_no_endpoints" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nat          = "none"
    image_mirror = "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror"
  }

  expect_failures = [var.nat]
}

run "no_nat_and_no_images" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nat                 = "none"
    interface_endpoints = true
  }

  expect_failures = [var.nat]
}

run "nat_that_is_not_known" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nat = "two"
  }

  expect_failures = [var.nat]
}

run "mirror_with_a_scheme" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    image_mirror = "https://mirror.example.com"
  }

  expect_failures = [var.image_mirror]
}

run "one_existing_subnet" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    private_subnet_ids = ["subnet-0aaa"]
  }

  expect_failures = [var.private_subnet_ids]
}

run "one_existing_subnet_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    private_subnet_ids = ["subnet-0aaa", "subnet-0aaa"]
  }

  expect_failures = [var.private_subnet_ids]
}

run "alarms_to_a_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarm_email = "ops"
  }

  expect_failures = [var.alarm_email]
}

run "budget_of_nothing" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    monthly_budget_usd = 0
  }

  expect_failures = [var.monthly_budget_usd]
}

run "a_node_file_too_few" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    node_files = { program = { key = "node/p", sha256 = sha256("p") } }
  }

  expect_failures = [var.node_files]
}

run "one_zone" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    zones = ["us-west-2a"]
  }

  expect_failures = [var.zones]
}

run "zones_of_another_region" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    zones = ["eu-west-1a", "eu-west-1b"]
  }

  expect_failures = [var.zones]
}

run "the_same_zone_twice" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    zones = ["us-west-2a", "us-west-2a"]
  }

  expect_failures = [var.zones]
}
run "upper_bounds" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project            = "abcdefgh-1234567"
    vpc_cidr           = "10.0.0.0/16"
    zones              = ["us-west-2c", "us-west-2a", "us-west-2b"]
    api_allowed_cidrs  = ["10.0.0.0/8"]
    cluster_admin_arns = ["arn:aws:iam::111122223333:role/admin", "arn:aws:iam::111122223333:user/me"]
    log_retention_days = 3653
    comfyui_namespace  = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz12345678901"
    comfyui_release    = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz1"
    image_mirror       = "mirror.example.com:5000/a/b"
    alarm_email        = "first.last@studio.example.com"
  }
}

run "lower_bounds" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project              = "a"
    vpc_cidr             = "10.0.0.0/20"
    zones                = ["us-west-2a", "us-west-2b"]
    private_subnet_ids   = ["subnet-0aaa", "subnet-0bbb"]
    nat                  = "none"
    image_mirror         = "mirror"
    system_node_types    = ["t3.xlarge"]
    system_node_count    = 2
    system_node_disk_gib = 20
    log_retention_days   = 1
    monthly_budget_usd   = 1
    comfyui_namespace    = "a"
    comfyui_release      = "a"
  }
}

# Access.

run "load_balancer_open_to_everybody" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_allowed_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.load_balancer_allowed_cidrs]
}

run "load_balancer_open_to_half_of_everybody" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_allowed_cidrs = ["0.0.0.0/7"]
  }

  expect_failures = [var.load_balancer_allowed_cidrs]
}

run "load_balancer_open_to_the_widest_range" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_allowed_cidrs = ["10.0.0.0/8"]
  }
}

run "more_ranges_than_a_group_has_rules" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_allowed_cidrs = [for i in range(26) : "10.${i}.0.0/16"]
  }

  expect_failures = [var.load_balancer_allowed_cidrs]
}

run "as_many_ranges_as_a_group_has_rules" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_allowed_cidrs = [for i in range(25) : "10.${i}.0.0/16"]
  }
}

run "access_log_to_an_address" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_log_bucket = "s3://studio-logs"
  }

  expect_failures = [var.load_balancer_log_bucket]
}

run "domain_name_without_certificate" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name = "comfyui.example.com"
  }

  expect_failures = [var.certificate_arn]
}

run "certificate_without_domain_name" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
  }

  expect_failures = [var.certificate_arn]
}

run "certificate_without_load_balancer" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer   = false
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
  }

  expect_failures = [var.certificate_arn]
}

run "certificate_of_another_region" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-east-1:111122223333:certificate/1"
  }

  expect_failures = [var.certificate_arn]
}

run "domain_name_that_is_an_address" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "https://comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
  }

  expect_failures = [var.domain_name]
}

run "cognito_with_a_word_that_it_refuses" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project         = "aws"
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "cognito"
  }

  expect_failures = [var.cognito_domain_prefix]
}

run "project_with_that_word_without_cognito" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    project = "aws"
  }
}

run "cognito_with_a_prefix_that_ends_in_a_hyphen" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name           = "comfyui.example.com"
    certificate_arn       = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in               = "cognito"
    cognito_domain_prefix = "studio-"
  }

  expect_failures = [var.cognito_domain_prefix]
}

run "sign_in_that_does_not_exist" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "saml"
  }

  expect_failures = [var.sign_in]
}

run "sign_in_without_domain_name_and_certificate" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sign_in = "cognito"
  }

  expect_failures = [var.sign_in]
}

run "oidc_without_identity_provider" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "oidc"
  }

  expect_failures = [var.oidc]
}

run "identity_provider_that_nobody_asks" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    oidc = {
      issuer                 = "https://id.example.com"
      authorization_endpoint = "https://id.example.com/authorize"
      token_endpoint         = "https://id.example.com/token"
      user_info_endpoint     = "https://id.example.com/userinfo"
      client_id              = "comfyui"
      client_secret_id       = "comfyui/oidc"
    }
  }

  expect_failures = [var.oidc]
}

run "identity_provider_by_http" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "oidc"

    oidc = {
      issuer                 = "https://id.example.com"
      authorization_endpoint = "https://id.example.com/authorize"
      token_endpoint         = "http://id.example.com/token"
      user_info_endpoint     = "https://id.example.com/userinfo"
      client_id              = "comfyui"
      client_secret_id       = "comfyui/oidc"
    }
  }

  expect_failures = [var.oidc]
}

run "identity_provider_without_name_of_a_secret" {
  command = plan

  module {
    source = "./tests/variables"
  }

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
      client_secret_id       = ""
    }
  }

  expect_failures = [var.oidc]
}

run "sign_in_without_a_way_to_the_identity_provider" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nat                 = "none"
    interface_endpoints = true
    image_mirror        = "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror"
    domain_name         = "comfyui.example.com"
    certificate_arn     = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in             = "cognito"
  }

  expect_failures = [var.sign_in]
}

run "public_without_anything" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront = true
  }

  expect_failures = [var.cloudfront]
}

run "public_without_load_balancer" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer            = false
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.0/24"]
  }

  expect_failures = [var.cloudfront]
}

run "public_without_internet_gateway" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    nat                      = "none"
    interface_endpoints      = true
    image_mirror             = "111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror"
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.0/24"]
  }

  expect_failures = [var.cloudfront]
}

run "public_name_without_certificate_for_cloudfront" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name     = "comfyui.example.com"
    certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in         = "cognito"
    cloudfront      = true
  }

  expect_failures = [var.cloudfront_certificate_arn]
}

run "certificate_for_cloudfront_of_another_region" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront_certificate_arn = "arn:aws:acm:us-west-2:111122223333:certificate/1"
  }

  expect_failures = [var.cloudfront_certificate_arn]
}

run "list_of_everybody" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront               = true
    cloudfront_allowed_cidrs = ["0.0.0.0/0"]
  }

  expect_failures = [var.cloudfront_allowed_cidrs]
}

run "list_of_everybody_by_ipv6" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.0/24", "::/0"]
  }

  expect_failures = [var.cloudfront_allowed_cidrs]
}

run "list_with_an_address_without_length" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.51.100.7"]
  }

  expect_failures = [var.cloudfront_allowed_cidrs]
}

run "widest_list" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront               = true
    cloudfront_allowed_cidrs = ["198.0.0.0/8", "2001::/16"]
  }
}

run "rate_limit_lower_than_waf_takes" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    cloudfront_rate_limit = 9
  }

  expect_failures = [var.cloudfront_rate_limit]
}

run "privatelink_for_every_account" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    privatelink_allowed_principals = ["*"]
  }

  expect_failures = [var.privatelink_allowed_principals]
}

run "privatelink_without_load_balancer" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer                  = false
    privatelink_allowed_principals = ["arn:aws:iam::444455556666:root"]
  }

  expect_failures = [var.privatelink_allowed_principals]
}

run "way_in_with_all_that_belongs_together" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    load_balancer_log_bucket = "studio-logs"
    domain_name              = "comfyui.example.com"
    certificate_arn          = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in                  = "oidc"

    oidc = {
      issuer                 = "https://id.example.com"
      authorization_endpoint = "https://id.example.com/authorize"
      token_endpoint         = "https://id.example.com/token"
      user_info_endpoint     = "https://id.example.com/userinfo"
      client_id              = "comfyui"
      client_secret_id       = "comfyui-oidc"
    }

    cloudfront                     = true
    cloudfront_certificate_arn     = "arn:aws:acm:us-east-1:111122223333:certificate/1"
    cloudfront_rate_limit          = 10
    privatelink_allowed_principals = ["arn:aws:iam::444455556666:root"]
  }
}

run "cognito_with_a_prefix_of_ones_own" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    domain_name           = "comfyui.example.com"
    certificate_arn       = "arn:aws:acm:us-west-2:111122223333:certificate/1"
    sign_in               = "cognito"
    cognito_domain_prefix = "studio"
  }
}
