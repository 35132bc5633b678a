# Sign-in at the load balancer, before a request reaches a pod: with a Cognito user pool of the deployment's own, or with an
# identity provider that is there (OIDC). Both are for people with a browser; programs use the address inside without it, by
# `kubectl port-forward`.

locals {
  cognito  = var.sign_in == "cognito"
  oidc     = var.sign_in == "oidc"
  signs_in = local.cognito || local.oidc

  sign_in_scope   = "openid email"
  sign_in_seconds = 12 * 3600 # once a working day

  sign_in_callback = "https://${coalesce(var.domain_name, "unset")}/oauth2/idpresponse" # the load balancer's, by its definition

  # Unique among all accounts of a region.
  cognito_domain = coalesce(var.cognito_domain_prefix, "${local.name}-${local.account_id}")
}

# Users are in it: without --allow-replacement no apply deletes it, and `make infra-destroy` does.
resource "aws_cognito_user_pool" "this" {
  count = local.cognito ? 1 : 0

  name                     = local.name
  username_attributes      = ["email"]
  auto_verified_attributes = ["email"]
  mfa_configuration        = var.cognito_mfa ? "ON" : "OFF"

  # Nobody signs up: the operator invites.
  admin_create_user_config {
    allow_admin_create_user_only = true
  }

  username_configuration {
    case_sensitive = false
  }

  password_policy {
    minimum_length                   = 14
    require_lowercase                = true
    require_numbers                  = true
    require_symbols                  = true
    require_uppercase                = true
    temporary_password_validity_days = 7
  }

  account_recovery_setting {
    recovery_mechanism {
      name     = "verified_email"
      priority = 1
    }
  }

  dynamic "software_token_mfa_configuration" {
    for_each = var.cognito_mfa ? [true] : []

    content {
      enabled = software_token_mfa_configuration.value
    }
  }
}

resource "aws_cognito_user_pool_domain" "this" {
  count = local.cognito ? 1 : 0

  user_pool_id = aws_cognito_user_pool.this[0].id
  domain       = local.cognito_domain
}

# The load balancer takes only a client with a secret. Cognito makes it, the load balancer fetches it by itself, and the
# provider reads it into the state: docs/decisions says what that means.
resource "aws_cognito_user_pool_client" "load_balancer" {
  count = local.cognito ? 1 : 0

  name                                 = "load-balancer"
  user_pool_id                         = aws_cognito_user_pool.this[0].id
  generate_secret                      = true
  callback_urls                        = [local.sign_in_callback]
  allowed_oauth_flows_user_pool_client = true
  allowed_oauth_flows                  = ["code"]
  allowed_oauth_scopes                 = split(" ", local.sign_in_scope)
  supported_identity_providers         = ["COGNITO"]
  explicit_auth_flows                  = ["ALLOW_REFRESH_TOKEN_AUTH"] # no password but on the sign-in page
  prevent_user_existence_errors        = "ENABLED"
  enable_token_revocation              = true
}

# Neither variable nor settings file holds the secret. The listener's own argument for it is no write-only one, so the state
# does: docs/decisions.
data "aws_secretsmanager_secret_version" "oidc" {
  count = local.oidc ? 1 : 0

  secret_id = var.oidc.client_secret_id
}
