# Sign-in at the load balancer, before a request reaches a pod: with a Cognito user pool of the deployment, or with an existing
# identity provider (OIDC). Both need a browser; programs connect to the pods with `kubectl port-forward` instead.

locals {
  cognito  = var.sign_in == "cognito"
  oidc     = var.sign_in == "oidc"
  signs_in = local.cognito || local.oidc

  sign_in_scope   = "openid email"
  sign_in_seconds = 12 * 3600 # users sign in once a working day

  sign_in_callback = "https://${coalesce(var.domain_name, "unset")}/oauth2/idpresponse" # the path is prescribed by Elastic Load Balancing

  # Unique among all accounts of a region.
  cognito_domain = coalesce(var.cognito_domain_prefix, "${local.name}-${local.account_id}")
}

# It holds the users: an apply deletes it only with --allow-replacement; `comfyeks infra destroy` deletes it.
resource "aws_cognito_user_pool" "this" {
  count = local.cognito ? 1 : 0

  name                     = local.name
  username_attributes      = ["email"]
  auto_verified_attributes = ["email"]
  mfa_configuration        = var.cognito_mfa ? "ON" : "OFF"

  # Users cannot sign up themselves: the operator invites them.
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

# The load balancer requires a client with a secret. Cognito creates the secret and the load balancer fetches it, but the provider
# also stores it in the state: see docs/decisions.
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
  explicit_auth_flows                  = ["ALLOW_REFRESH_TOKEN_AUTH"] # passwords only on the sign-in page
  prevent_user_existence_errors        = "ENABLED"
  enable_token_revocation              = true
}

# The secret is in no variable and no settings file. It is in the state, because the listener's argument for it is not write-only:
# see docs/decisions.
data "aws_secretsmanager_secret_version" "oidc" {
  count = local.oidc ? 1 : 0

  secret_id = var.oidc.client_secret_id
}
