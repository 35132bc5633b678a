variable "project" {
  description = "Distinguishes several deployments in one account and region: 1 to 16 of a-z, 0-9 and '-'. null for the only one."
  type        = string
  default     = null

  validation {
    condition     = var.project == null ? true : can(regex("^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$", var.project)) && var.project != "default"
    error_message = "project must be 1 to 16 of a-z, 0-9 and '-', without '-' at either end, and not 'default'. Leave it out (null) for the only deployment of an account and region."
  }
}

variable "region" {
  description = "AWS region of the deployment; part of every bucket name."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region must be the code of an AWS region, such as us-west-2."
  }
}

variable "tags" {
  description = "Tags of every resource, for example a cost centre."
  type        = map(string)
  default     = {}
}

variable "vpc_cidr" {
  description = "Address range of the VPC. Each pod uses one address."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr must be an IPv4 range from /16 (the largest that AWS allows) to /20 (about a thousand addresses per zone), such as 10.0.0.0/16."
  }
}

variable "zones" {
  description = "Availability zones of the VPC's subnets, two or three, in order. [] uses the first three of the region. Set them once the platform exists: if AWS adds or suspends a zone, the first three change."
  type        = list(string)
  default     = []

  validation {
    condition     = contains([0, 2, 3], length(var.zones)) && length(distinct(var.zones)) == length(var.zones) && alltrue([for zone in var.zones : can(regex("^${var.region}[a-z]$", zone))])
    error_message = "zones must be two or three different zones of the region, such as us-west-2a."
  }
}

variable "private_subnet_ids" {
  description = "Private subnets of an existing VPC, in at least two zones. Its owner keeps managing its routes, NAT and endpoints. [] creates a VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.private_subnet_ids) != 1 && alltrue([for id in var.private_subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "private_subnet_ids must be the ids of at least two subnets, in two zones, such as subnet-0123456789abcdef0; [] creates a VPC."
  }

  validation {
    condition     = length(distinct(var.private_subnet_ids)) == length(var.private_subnet_ids)
    error_message = "private_subnet_ids contains a subnet twice."
  }
}

variable "nat" {
  description = "How nodes reach the internet: one NAT gateway, one per zone (per_az: survives the loss of a zone, 33 USD a month each), or none. In an existing VPC one and per_az create nothing; none says that it has no route to the internet."
  type        = string
  default     = "one"

  validation {
    condition     = contains(["one", "per_az", "none"], var.nat)
    error_message = "nat must be one, per_az or none."
  }

  validation {
    condition     = var.nat != "none" || var.interface_endpoints || length(var.private_subnet_ids) > 0
    error_message = "nat = \"none\" needs interface_endpoints = true: with neither, nodes cannot reach AWS services and never join the cluster."
  }

  validation {
    condition     = var.nat != "none" || var.image_mirror != null
    error_message = "nat = \"none\" needs image_mirror: Karpenter, the load balancer controller and the device plugin are pulled from public registries, which nodes cannot reach without NAT. Copy their images to a registry of your own and set image_mirror to it."
  }
}

variable "interface_endpoints" {
  description = "Whether to create endpoints inside the VPC for EKS, ECR, SSM and the other services that nodes use. Each of the eleven costs about 7 USD a month in each zone."
  type        = bool
  default     = false
}

variable "image_mirror" {
  description = "Registry and prefix with copies of the add-ons' images under their original names, such as 111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror for …/mirror/karpenter/controller. null pulls them from where they are published."
  type        = string
  default     = null

  validation {
    condition     = var.image_mirror == null ? true : can(regex("^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$", var.image_mirror))
    error_message = "image_mirror must be a registry, optionally with a prefix, without https:// and without a slash at the end, such as 111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror."
  }
}

variable "api_public_access" {
  description = "Whether api_allowed_cidrs can reach the Kubernetes API from outside the VPC."
  type        = bool
  default     = true
}

variable "api_allowed_cidrs" {
  description = "Address ranges that may reach the Kubernetes API, such as an office or a VPN."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.api_public_access || length(var.api_allowed_cidrs) > 0
    error_message = "api_allowed_cidrs is empty. Set the address ranges that may reach the Kubernetes API (your own address with /32), or set api_public_access = false and work from inside the VPC."
  }

  validation {
    condition     = alltrue([for cidr in var.api_allowed_cidrs : can(cidrnetmask(cidr)) && try(tonumber(split("/", cidr)[1]) >= 8, false)])
    error_message = "api_allowed_cidrs must be IPv4 ranges from /8 to /32, such as 198.51.100.7/32. 0.0.0.0/0 is not allowed: it would open the cluster's API to everyone."
  }
}

variable "cluster_admin_arns" {
  description = "ARNs of IAM roles or users that administer the cluster, in addition to the one that creates it."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.cluster_admin_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "cluster_admin_arns must be ARNs of IAM roles or users, such as arn:aws:iam::111122223333:role/admin (of a role, not of its session)."
  }
}

variable "system_node_types" {
  description = "Instance types of the CPU nodes, x86, at least 4 vCPU and 16 GiB."
  type        = list(string)
  default     = ["t3a.xlarge"]

  validation {
    condition     = length(var.system_node_types) > 0 && alltrue([for type in var.system_node_types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", type))])
    error_message = "system_node_types needs at least one EC2 instance type, such as t3a.xlarge."
  }
}

variable "system_node_count" {
  description = "Number of CPU nodes. Each of Karpenter's two replicas needs a node."
  type        = number
  default     = 2

  validation {
    condition     = var.system_node_count >= 2 && floor(var.system_node_count) == var.system_node_count
    error_message = "system_node_count must be a whole number, at least 2: Karpenter's two replicas must be on different nodes."
  }
}

variable "system_node_disk_gib" {
  description = "Root disk of a CPU node in GiB."
  type        = number
  default     = 50

  validation {
    condition     = var.system_node_disk_gib >= 20
    error_message = "system_node_disk_gib must be at least 20: the operating system and the images of the add-ons need most of that."
  }
}

variable "log_retention_days" {
  description = "Days for which logs are kept: of the control plane, the model-events function, image builds and the web ACL."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a value that CloudWatch supports: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 or a whole number of years up to 3653."
  }
}

variable "efs" {
  description = "Whether to create an encrypted EFS file system, with its CSI driver, for models.source = efs of the ComfyUI chart."
  type        = bool
  default     = false
}

variable "queue_kms_key" {
  description = "Whether queues are encrypted with a KMS key of the deployment instead of the key that SQS manages."
  type        = bool
  default     = false
}

variable "alarm_email" {
  description = "E-mail address that receives alarms, once the subscription is confirmed by the link in the first message. null: none; other subscriptions can be added to the topic."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alarm_email))
    error_message = "alarm_email must be an e-mail address, such as ops@example.com."
  }
}

variable "monthly_budget_usd" {
  description = "Budget in US dollars a month. The alarms' topic is notified when 80 % is spent or a forecast exceeds it. Needs the cost allocation tag Deployment. null: no budget."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null ? true : var.monthly_budget_usd >= 1
    error_message = "monthly_budget_usd must be at least 1."
  }
}

variable "comfyui_namespace" {
  description = "Kubernetes namespace of the ComfyUI release."
  type        = string
  default     = "comfyui"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.comfyui_namespace))
    error_message = "comfyui_namespace must be a Kubernetes name: 1 to 63 of a-z, 0-9 and '-', without '-' at either end."
  }
}

variable "comfyui_release" {
  description = "Name of the ComfyUI Helm release, which is also its service account."
  type        = string
  default     = "comfyui"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$", var.comfyui_release))
    error_message = "comfyui_release must be a Helm release name: 1 to 53 of a-z, 0-9 and '-', without '-' at either end."
  }
}

variable "mount_outputs" {
  description = "Whether pods may mount the outputs bucket, for outputs.mode = mount of the ComfyUI chart. Its default mode uploads outputs and needs no mount."
  type        = bool
  default     = false
}

variable "node_files" {
  description = "Files that GPU nodes install at boot, by part: key in the artifacts bucket and SHA-256. `comfyeks infra apply` uploads them and sets this."
  type        = map(object({ key = string, sha256 = string }))

  validation {
    condition     = toset(keys(var.node_files)) == toset(["program", "service", "timer", "path"])
    error_message = "node_files must have exactly the parts program, service, timer and path. `comfyeks infra apply` sets them."
  }
}

# Access: load_balancer.tf, authentication.tf, cloudfront.tf, waf.tf, privatelink.tf

variable "load_balancer" {
  description = "Whether to create an internal load balancer in front of ComfyUI. Without it, use `kubectl port-forward` or the chart's own Ingress."
  type        = bool
  default     = true
}

variable "load_balancer_allowed_cidrs" {
  description = "Address ranges that may reach the load balancer: of the VPC and of networks with a route to it. null: those of the VPC."
  type        = list(string)
  default     = null

  validation {
    condition     = alltrue([for cidr in coalesce(var.load_balancer_allowed_cidrs, []) : can(cidrnetmask(cidr)) && try(tonumber(split("/", cidr)[1]) >= 8, false)])
    error_message = "load_balancer_allowed_cidrs must be IPv4 ranges from /8 to /32, such as 10.20.0.0/16. 0.0.0.0/0 is not allowed: list the networks that have a route to the VPC."
  }

  validation {
    condition     = try(length(var.load_balancer_allowed_cidrs), 0) <= 25
    error_message = "load_balancer_allowed_cidrs must have at most 25 ranges: each needs a rule per port, and a security group has at most 60 rules. Merge adjacent ranges."
  }
}

variable "load_balancer_log_bucket" {
  description = "Bucket for the load balancer's access log, in the deployment's region and with a policy that allows Elastic Load Balancing to write. null: no access log."
  type        = string
  default     = null

  validation {
    condition     = var.load_balancer_log_bucket == null ? true : can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.load_balancer_log_bucket))
    error_message = "load_balancer_log_bucket must be the name of a bucket, without s3:// and without a prefix. null: no access log."
  }
}

variable "domain_name" {
  description = "Domain name that users open, such as comfyui.example.com. You create its DNS record (output dns_record). Needs certificate_arn."
  type        = string
  default     = null

  validation {
    condition     = var.domain_name == null ? true : can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,63}$", var.domain_name))
    error_message = "domain_name must be a host name in lower case without https:// and without a path, such as comfyui.example.com."
  }
}

variable "certificate_arn" {
  description = "ACM certificate for domain_name, in the deployment's region. Enables HTTPS."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null ? true : can(regex("^arn:[a-z-]+:acm:${var.region}:[0-9]{12}:certificate/", var.certificate_arn))
    error_message = "certificate_arn must be an ACM certificate in ${var.region}, such as arn:aws:acm:${var.region}:111122223333:certificate/…: a load balancer can only use one of its own region."
  }

  validation {
    condition     = (var.certificate_arn == null) == (var.domain_name == null)
    error_message = "domain_name and certificate_arn must be set together: users open the name, and HTTPS needs a certificate for it. Set both or neither."
  }

  validation {
    condition     = var.certificate_arn == null || var.load_balancer
    error_message = "certificate_arn needs load_balancer = true, because the load balancer uses it. Remove certificate_arn and domain_name, or set load_balancer = true."
  }
}

variable "sign_in" {
  description = "How users sign in at the load balancer: none, cognito (a user pool of the deployment) or oidc (an existing identity provider)."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "cognito", "oidc"], var.sign_in)
    error_message = "sign_in must be none, cognito or oidc."
  }

  validation {
    condition     = var.sign_in == "none" || (var.domain_name != null && var.certificate_arn != null)
    error_message = "sign_in = \"${var.sign_in}\" needs domain_name and certificate_arn: the load balancer supports sign-in over HTTPS only, and the identity provider redirects users to the name in its certificate. Set both, or sign_in = \"none\"."
  }

  validation {
    condition     = var.sign_in == "none" || var.nat != "none"
    error_message = "sign_in = \"${var.sign_in}\" needs a route to the internet: the load balancer calls the identity provider at each sign-in. Set nat = \"one\" or \"per_az\", or sign_in = \"none\"."
  }
}

variable "cognito_domain_prefix" {
  description = "Prefix of the sign-in page's domain, unique in the region. null: the deployment's name and the account number. For sign_in = \"cognito\"."
  type        = string
  default     = null

  validation {
    condition = var.sign_in != "cognito" || (
      can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", coalesce(var.cognito_domain_prefix, "comfyui")))
      && !can(regex("aws|amazon|cognito", coalesce(var.cognito_domain_prefix, var.project, "comfyui")))
    )
    error_message = "cognito_domain_prefix (by default made from project) must be 1 to 63 of a-z, 0-9 and '-', without '-' at either end and without the words aws, amazon and cognito, which Cognito reserves. Set another one, such as studio-comfyui."
  }
}

variable "cognito_mfa" {
  description = "Whether users need a code from an authenticator app in addition to their password. For sign_in = \"cognito\"."
  type        = bool
  default     = true
}

variable "oidc" {
  description = "Identity provider, for sign_in = \"oidc\". client_secret_id is the name or ARN of the secret in Secrets Manager that contains the client secret."
  type = object({
    issuer                 = string
    authorization_endpoint = string
    token_endpoint         = string
    user_info_endpoint     = string
    client_id              = string
    client_secret_id       = string
  })
  default = null

  validation {
    condition     = (var.oidc != null) == (var.sign_in == "oidc")
    error_message = "oidc and sign_in = \"oidc\" must be set together: oidc describes the identity provider. Set both or neither."
  }

  validation {
    condition = var.oidc == null ? true : alltrue([
      for url in [var.oidc.issuer, var.oidc.authorization_endpoint, var.oidc.token_endpoint, var.oidc.user_info_endpoint] :
      can(regex("^https://[^/\\s]+(/\\S*)?$", url))
    ])
    error_message = "oidc: issuer, authorization_endpoint, token_endpoint and user_info_endpoint must be https:// URLs, as in the provider's /.well-known/openid-configuration."
  }

  validation {
    condition     = var.oidc == null ? true : can(regex("^[\\w/+=.@:-]+$", var.oidc.client_secret_id)) && length(var.oidc.client_id) > 0
    error_message = "oidc: client_id must not be empty, and client_secret_id must be the name or ARN of a secret in Secrets Manager, not the secret itself."
  }
}

variable "cloudfront" {
  description = "Whether ComfyUI gets an address on the internet, by CloudFront."
  type        = bool
  default     = false

  validation {
    condition     = !var.cloudfront || var.load_balancer
    error_message = "cloudfront = true needs load_balancer = true: CloudFront forwards requests to the load balancer."
  }

  validation {
    condition     = !var.cloudfront || var.nat != "none"
    error_message = "cloudfront = true needs an internet gateway in the VPC (CloudFront requires one, although no traffic uses it). Set nat = \"one\" or \"per_az\", or cloudfront = false."
  }

  validation {
    condition     = !var.cloudfront || var.sign_in != "none" || length(var.cloudfront_allowed_cidrs) > 0 || var.allow_unauthenticated_public_access
    error_message = "cloudfront = true would let everyone on the internet run code here: ComfyUI has no sign-in of its own. Set sign_in or cloudfront_allowed_cidrs. If you want it anyway, set allow_unauthenticated_public_access = true."
  }
}

variable "cloudfront_certificate_arn" {
  description = "ACM certificate for domain_name in us-east-1, the only region from which CloudFront takes certificates. null in us-east-1: certificate_arn."
  type        = string
  default     = null

  validation {
    condition     = var.cloudfront_certificate_arn == null ? true : can(regex("^arn:[a-z-]+:acm:us-east-1:[0-9]{12}:certificate/", var.cloudfront_certificate_arn))
    error_message = "cloudfront_certificate_arn must be an ACM certificate in us-east-1, the only region from which CloudFront takes certificates."
  }

  validation {
    condition     = !var.cloudfront || var.domain_name == null || var.cloudfront_certificate_arn != null || var.region == "us-east-1"
    error_message = "cloudfront = true with domain_name needs cloudfront_certificate_arn, a certificate for that name in us-east-1; certificate_arn is the load balancer's, in ${var.region}. Request one from ACM in us-east-1."
  }
}

variable "cloudfront_allowed_cidrs" {
  description = "Public address ranges, IPv4 or IPv6, that may use CloudFront. Empty: all, which needs sign_in."
  type        = list(string)
  default     = []

  validation {
    condition = alltrue([
      for cidr in var.cloudfront_allowed_cidrs :
      can(cidrhost(cidr, 0)) && try(tonumber(split("/", cidr)[1]) >= (strcontains(cidr, ":") ? 16 : 8), false)
    ])
    error_message = "cloudfront_allowed_cidrs must be IPv4 ranges from /8 to /32 or IPv6 ranges from /16 to /128, such as 198.51.100.0/24. Wider ranges, such as 0.0.0.0/0 and ::/0, are not allowed. To allow all addresses, leave it empty and set sign_in."
  }
}

variable "cloudfront_rate_limit" {
  description = "Requests of one address in five minutes above which CloudFront blocks it for a while. A whole office can be one address, and opening ComfyUI takes some hundred requests. null: no limit."
  type        = number
  default     = 10000

  validation {
    condition     = var.cloudfront_rate_limit == null ? true : var.cloudfront_rate_limit >= 10 && var.cloudfront_rate_limit <= 2000000000 && floor(var.cloudfront_rate_limit) == var.cloudfront_rate_limit
    error_message = "cloudfront_rate_limit must be a whole number from 10 to 2000000000, or null for no limit."
  }
}

variable "cloudfront_managed_rules" {
  description = "Whether CloudFront blocks requests that match AWS's managed rules for known attacks. Rules about bodies only count, because uploads match them too."
  type        = bool
  default     = true
}

variable "allow_unauthenticated_public_access" {
  description = "Allows cloudfront = true without any restriction: everyone on the internet can run code on the GPU nodes. Only for supervised demonstrations."
  type        = bool
  default     = false
}

variable "privatelink_allowed_principals" {
  description = "ARNs of accounts (…:root), roles or users that may create endpoints for ComfyUI in their own VPCs. Empty: no PrivateLink."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.privatelink_allowed_principals : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(root|role/.+|user/.+)$", arn))])
    error_message = "privatelink_allowed_principals must be ARNs of accounts, roles or users, such as arn:aws:iam::111122223333:root. \"*\" is not allowed: it would allow every AWS account."
  }

  validation {
    condition     = length(var.privatelink_allowed_principals) == 0 || var.load_balancer
    error_message = "privatelink_allowed_principals needs load_balancer = true: PrivateLink connects to the load balancer."
  }
}
