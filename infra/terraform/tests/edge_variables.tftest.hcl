# What the options of the way in refuse, and the nearest that they take. Against the variables alone (tests/variables is a link to
# them): a plan of the whole root takes fifty times as long.

variables {
  region            = "us-west-2"
  api_allowed_cidrs = ["198.51.100.7/32"]
  node_files        = { for part in ["program", "service", "timer", "path"] : part => { key = "node/${part}", sha256 = sha256(part) } }
}

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
